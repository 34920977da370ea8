package ipc

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/netio"
	"github.com/poolinit/poolinit/reaper/ancillary"
)

// A Channel is the queue's side of the socket that one worker process has as
// its fd 3. The process gets messages by it, and answers each, in order.
type Channel struct {
	q      *Queue
	worker int // its number, for the log
	conn   *net.UnixConn
	raw    syscall.RawConn
	files  *ancillary.Closer // nil: the kernel refuses attached files
	totals *workerTotals

	// Guarded by the queue's mutex.
	out       netio.Writer
	flight    list        // given and not answered, oldest first
	ahead     *Delivery   // of these, the first that the worker cannot have begun with
	begun     int         // of these, how many it may have begun with
	tags      *tags       // of these; nil: answers come in their order
	heads     taggedHeads // for write
	written   int         // bytes that were added to out
	win       window
	where     *[]*Channel // the queue's idle, busy or last, or nil
	place     int         // in there
	serving   bool        // it may be fed
	proven    bool        // it said that it is ready, or has answered
	isAlone   bool        // what it has in hand may have killed a worker: it gets nothing else
	hasEnded  bool        // the worker was told that no more comes
	life      Life
	conduct   conduct
	grace     time.Duration // see Serve
	over      bool          // nothing more will be answered
	touched   bool          // see touched
	isDone    bool          // finished is closed
	since     time.Duration // the last reply, or when work began
	busySince time.Duration // when it last got something in hand
	handled   int
	due       int         // messages after which the worker is to be replaced; 0: never
	trouble   string      // why its messages come back
	timer     *time.Timer // of the message timeout; nil: it is not running
	naps      uint64      // of this program, when the timer was started, or last fired
	late      *Delivery   // for which it ran out
	spared    bool        // no message is charged with the worker's end
	isClosing bool        // told is closed

	cut      *tagged // the reader's own, as large: the answers that it has just cut
	large    large
	finished chan struct{} // closed when it is not fed any more and nothing is in flight
	answered chan struct{} // see Answered
	flushed  chan struct{} // guarded by the queue's mutex: closed when nothing is being written; or nil
	told     chan struct{} // closed by Close: trouble says how the worker ended
	asks     chan Ask      // 1: only the first matters
	reader   sync.WaitGroup
}

// An Ask is what a channel wants of its worker's supervisor.
type Ask string

// The asks.
const (
	AskRecycle Ask = "max-messages"    // it has handled its share
	AskFailing Ask = "max-failures"    // it has answered so many failures in a row
	AskTimeout Ask = "message-timeout" // it holds a message too long
	AskDetach  Ask = "detach"          // it closed its socket, and lives on
	AskBroken  Ask = "protocol"        // what it answers makes no sense
)

func newChannel(q *Queue, worker int) (*Channel, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	files := oldKernels.For(fds[0])
	ours, theirs := os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "worker")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	c := &Channel{
		q: q, worker: worker, conn: conn.(*net.UnixConn), win: newWindow(q.cfg.Window), due: around(q.cfg.MaxMessages),
		files: files, finished: make(chan struct{}), answered: make(chan struct{}), told: make(chan struct{}), asks: make(chan Ask, 1), large: large{q: q},
	}
	if q.cfg.Format == Tagged {
		c.tags, c.cut = new(tags), new(tagged)
	}
	if c.raw, err = c.conn.SyscallConn(); err != nil {
		conn.Close()
		theirs.Close()
		return nil, nil, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	c.out.Init(netio.WriterConfig{Mutex: &q.mu, Conn: c.conn, Raw: c.raw, Keep: 64 << 10, OnWrote: c.wrote})
	q.mu.Lock()
	c.totals = q.totals(worker)
	c.totals.add(c)
	q.mu.Unlock()
	c.reader.Go(c.readReplies)
	return c, theirs, nil
}

// Asks yields what the channel wants of its worker's supervisor, at most once.
func (c *Channel) Asks() <-chan Ask { return c.asks }

func (c *Channel) ask(what Ask) {
	select {
	case c.asks <- what:
	default:
	}
}

// Serve begins to feed the worker. If it is not proven, that is, not known to be
// ready, it is fed last and with one message at a time until it has answered one
// without failure, or MarkReady. Until then the message timeout counts from grace
// at the earliest.
func (c *Channel) Serve(proven bool, grace time.Time) {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.over || c.serving || c.isDone {
		return
	}
	c.serving, c.proven = true, proven
	if !grace.IsZero() {
		c.grace = grace.Sub(epoch)
	}
	q.serving++
	c.refile()
	q.dispatch()
}

// MarkReady says that the worker is proven: it said so.
func (c *Channel) MarkReady() {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if c.proven {
		return
	}
	c.proven = true
	c.refile()
	c.q.dispatch()
}

// Answered returns a channel that is closed when the worker has answered a
// message without failure.
func (c *Channel) Answered() <-chan struct{} { return c.answered }

// A Life is what a channel knows of its worker's life.
type Life struct {
	Answered   bool      // it has answered a message, or refused one, or failed at it
	Held       bool      // it ended with a message in hand
	LastAnswer time.Time // when any worker of the queue last answered; zero: none has

	proven bool // Answered is closed
}

// Life returns what is known now; Held is known after Close.
func (c *Channel) Life() Life {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	l := c.life
	if c.q.answered > 0 {
		l.LastAnswer = epoch.Add(c.q.answered)
	}
	return l
}

// Finish ends the feeding. The returned channel is closed when the worker has
// answered all that it had; then it has been told that no more comes, by the
// end of its input.
func (c *Channel) Finish() <-chan struct{} {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	c.stopFeeding()
	c.sayDrain()
	c.endIfDone()
	return c.finished
}

// sayDrain tells a worker that speaks tagged frames that no more messages come.
func (c *Channel) sayDrain() {
	if c.tags == nil || c.hasEnded || c.over {
		return
	}
	c.hasEnded = true
	control := frame.AppendControl(nil, frame.Control{Drain: true})
	c.written += len(control)
	c.out.Add(control)
	c.out.Flush(false)
}

// stopFeeding: nothing more is given to the worker. With the queue's mutex held,
// as all that follow.
func (c *Channel) stopFeeding() {
	q := c.q
	if !c.serving {
		return
	}
	c.serving = false
	q.serving--
	c.conduct.setFailing(q, false)
	c.refile()
	if q.reserved == c {
		q.reserved = nil
		q.dispatch()
	}
}

// endIfDone ends the worker's input if it is not fed any more and has answered
// all.
func (c *Channel) endIfDone() {
	if !c.serving && c.flight.n == 0 && !c.isDone {
		c.done()
		_ = c.conn.CloseWrite() // if the worker has gone it needs no end of input
	}
}

func (c *Channel) done() {
	if !c.isDone {
		c.isDone = true
		close(c.finished)
	}
}

// Close ends the channel after its process. What the process has still written
// is read first; what it has not answered goes back to the queue, and the
// oldest of it counts as failed, for the reason given.
func (c *Channel) Close(why string) {
	c.q.mu.Lock()
	if c.trouble == "" {
		c.trouble = why
	}
	if !c.isClosing {
		c.isClosing = true
		close(c.told)
	}
	c.q.mu.Unlock()
	// What was written before is still read after a shutdown; then comes the end,
	// also if another process has inherited the socket.
	_ = c.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	if c.files == nil {
		c.reader.Wait()
		c.conn.Close()
		return
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(oldKernelTime)) // if it is closed, there is nothing to read
	c.reader.Wait()
	c.files.Retire(c.raw, c.conn.Close, nil)
}

// Spare is for before Close: the pool has ended the worker, and what it had in
// hand is not to blame. That is not an attempt, unless there is only one.
func (c *Channel) Spare() {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	c.spared = c.trouble == "" && c.q.cfg.Attempts > 1
}

// A Holding is what is known of the message that a worker has in hand.
type Holding struct {
	ID      uint64 // counts from 1 at poolinit's start
	Attempt int    // counts from 1
	Source  string // the name of its source
}

// InHand returns what is known of the oldest message that the worker has not
// answered, unless it has answered all.
func (c *Channel) InHand() (h Holding, ok bool) {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	d := c.flight.head
	if d == nil {
		return Holding{}, false
	}
	return Holding{d.id, d.attempts + 1, d.source.Name}, true
}

// HandBack takes back what the worker has in hand, without counting it as an
// attempt: it could not even begin. It gets no more.
func (c *Channel) HandBack() {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	c.stopFeeding()
	flight := c.takeFlight()
	for d := flight.head; d != nil; d = d.next {
		d.last = nil
	}
	q.requeue(&flight)
}

// takeFlight takes all that is in flight out of it.
func (c *Channel) takeFlight() list {
	flight := c.flight
	if c.tags != nil {
		for d := flight.head; d != nil; d = d.next {
			c.tags.remove(d)
		}
	}
	c.flight, c.ahead, c.begun, c.isAlone = list{}, nil, 0, false
	c.q.inFlight -= flight.n
	if flight.n > 0 {
		c.stoppedWorking(now())
	}
	return flight
}

// stoppedWorking counts the time that it has worked, if nothing is in flight.
func (c *Channel) stoppedWorking(at time.Duration) {
	if c.flight.n == 0 {
		c.totals.busy += at - c.busySince
	}
}

// isLast reports whether the worker is fed only when no other has room: it may
// still be starting up, or it fails everything.
func (c *Channel) isLast() bool { return !c.proven || c.conduct.isFailing }

// mayEnd reports whether the worker has answered just as many messages as another
// one had when it ended and left one unread.
func (c *Channel) mayEnd() bool { return c.handled > 0 && c.handled == c.q.endedAfter }

// most is how many messages the worker has at a time, at most.
func (c *Channel) most() int { return c.q.cfg.Concurrency - 1 + c.win.size }

// isStalled reports whether the worker has been at work for so long that nothing
// goes behind what it has in hand.
func (c *Channel) isStalled(at time.Duration) bool {
	return !c.win.fixed && c.flight.n >= c.q.cfg.Concurrency && at-c.since > autoAhead
}

// hasRoom reports whether the worker may get a message.
func (c *Channel) hasRoom(at time.Duration) bool { return c.isOpen() && !c.isStalled(at) }

// isOpen is hasRoom but for what changes with time alone.
func (c *Channel) isOpen() bool {
	switch n := c.flight.n; {
	case !c.serving || c.isAlone || c.q.reserved == c || c.conduct.isResting:
		return false
	case n == 0:
		return true
	case c.isLast():
		return false
	case n < c.q.cfg.Concurrency:
		return true
	default:
		return n < c.most() && (c.flight.bytes < windowBytes || c.q.cfg.Concurrency > 1)
	}
}

// give puts a message on the way to the worker. The caller flushes out.
func (c *Channel) give(d *Delivery, at time.Duration) {
	n := c.flight.n
	if n == 0 {
		c.busySince = at
	}
	d.given, d.last, d.began, d.touched = at, c, 0, 0
	c.flight.push(d)
	switch {
	case n < c.q.cfg.Concurrency:
		c.since, d.began = at, at
		c.begun++
	case c.ahead == nil:
		c.ahead = d
	}
	c.q.inFlight++
	c.startTimer()
	c.write(d, at)
	d.end = c.written
	c.refile()
}

// write adds a message to what is to be written to the worker.
func (c *Channel) write(d *Delivery, at time.Duration) {
	switch c.q.cfg.Format {
	case Tagged:
		c.tags.add(d)
		c.writeTagged(d, at)
	case Lines:
		c.written += len(d.Body()) + 1
		c.out.Add(d.Body())
		c.out.Add([]byte{'\n'})
	default:
		c.written += len(d.frame)
		c.out.Add(d.frame)
	}
}

// writeTagged adds a message with its meta.
func (c *Channel) writeTagged(d *Delivery, at time.Duration) {
	var deadline time.Duration
	if timeout := c.q.cfg.MessageTimeout; timeout > 0 {
		deadline = max(at, c.graceNow()) + timeout
	}
	head := c.heads.of(d, deadline)
	c.written += len(head) + len(d.Body())
	c.out.Add(head)
	c.out.Add(d.Body())
}

// graceNow is from when the message timeout counts at the earliest.
func (c *Channel) graceNow() time.Duration {
	if c.proven {
		return 0
	}
	return c.grace
}

// startTimer makes the message timeout run while messages are in flight. The
// timer is not touched for each message: when it fires, checkTimeout looks how
// old the oldest one really is.
func (c *Channel) startTimer() {
	if c.q.cfg.MessageTimeout > 0 && c.timer == nil {
		startTimeout(c)
	}
}

// refile puts the channel where it belongs: idle, busy with room, last, or
// nowhere.
func (c *Channel) refile() {
	switch {
	case !c.isOpen():
		c.moveTo(nil)
	case c.isLast():
		c.moveTo(&c.q.last)
	case c.flight.n == 0:
		c.moveTo(&c.q.idle)
	default:
		c.moveTo(&c.q.busy)
	}
}

func (c *Channel) moveTo(where *[]*Channel) {
	if where == c.where {
		return
	}
	if old := c.where; old != nil {
		last := (*old)[len(*old)-1]
		(*old)[c.place], last.place = last, c.place
		*old = (*old)[:len(*old)-1]
	}
	if c.where = where; where != nil {
		c.place = len(*where)
		*where = append(*where, c)
	}
}

// touched are the channels that a batch was given to. They are flushed with the
// queue's mutex held, which is released while writing.
type touched struct {
	some [8]*Channel
	n    int
	more []*Channel
}

func (t *touched) add(c *Channel) {
	if c.touched {
		return
	}
	c.touched = true
	if t.n < len(t.some) {
		t.some[t.n] = c
		t.n++
		return
	}
	t.more = append(t.more, c)
}

func (t *touched) flush() {
	for _, c := range t.some[:t.n] {
		c.touched = false
		c.out.Flush(false)
	}
	for _, c := range t.more {
		c.touched = false
		c.out.Flush(false)
	}
}
