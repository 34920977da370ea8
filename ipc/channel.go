package ipc

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc/netio"
)

// A Channel is the queue's side of the socket that one worker process has as
// its fd 3. The process gets messages by it, and answers each, in order.
type Channel struct {
	q      *Queue
	worker int // its number, for the log
	conn   *net.UnixConn
	raw    syscall.RawConn
	totals *workerTotals

	// Guarded by the queue's mutex.
	out       netio.Writer
	flight    list // given and not answered, oldest first
	win       window
	where     *[]*Channel   // the queue's idle or busy, or nil
	place     int           // in there
	serving   bool          // it may be fed
	over      bool          // nothing more will be answered
	touched   bool          // see touched
	isDone    bool          // finished is closed
	since     time.Duration // the last reply, or when work began
	busySince time.Duration // when it last got something in hand
	handled   int
	due       int         // messages after which the worker is to be replaced; 0: never
	trouble   string      // why its messages come back
	timer     *time.Timer // of the message timeout; nil: it is not running
	late      *Delivery   // for which it ran out
	spared    bool        // no message is charged with the worker's end
	isClosing bool        // told is closed

	finished chan struct{} // closed when it is not fed any more and nothing is in flight
	answered chan struct{} // see Answered
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
	netio.RefuseFiles(fds[0])
	ours, theirs := os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "worker")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	c := &Channel{
		q: q, worker: worker, conn: conn.(*net.UnixConn), win: newWindow(q.cfg.Window), due: around(q.cfg.MaxMessages),
		finished: make(chan struct{}), answered: make(chan struct{}), told: make(chan struct{}), asks: make(chan Ask, 1),
	}
	if c.raw, err = c.conn.SyscallConn(); err != nil {
		conn.Close()
		theirs.Close()
		return nil, nil, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	c.out.Init(netio.WriterConfig{Mutex: &q.mu, Conn: c.conn, Raw: c.raw, Keep: 64 << 10})
	q.mu.Lock()
	c.totals = q.totals(worker)
	c.totals.add(c)
	q.mu.Unlock()
	c.reader.Go(c.readReplies)
	return c, theirs, nil
}

// around returns n +-10 %.
func around(n int) int {
	if n == 0 {
		return 0
	}
	return max(1, n+int(float64(n)*0.1*(2*rand.Float64()-1)))
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
	c.serving = true
	c.refile()
	q.dispatch()
}

// MarkReady says that the worker is proven: it said so.
func (c *Channel) MarkReady() {}

// Answered returns a channel that is closed when the worker has answered a
// message without failure.
func (c *Channel) Answered() <-chan struct{} { return c.answered }

// A Life is what a channel knows of its worker's life.
type Life struct {
	Answered   bool      // it has answered a message, or refused one, or failed at it
	Held       bool      // it ended with a message in hand
	LastAnswer time.Time // when any worker of the queue last answered; zero: none has
}

// Life returns what is known now; Held is known after Close.
func (c *Channel) Life() Life { return Life{} }

// Finish ends the feeding. The returned channel is closed when the worker has
// answered all that it had; then it has been told that no more comes, by the
// end of its input.
func (c *Channel) Finish() <-chan struct{} {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	c.stopFeeding()
	c.endIfDone()
	return c.finished
}

// stopFeeding: nothing more is given to the worker. With the queue's mutex held,
// as all that follow.
func (c *Channel) stopFeeding() {
	c.serving = false
	c.refile()
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
	c.reader.Wait()
	c.conn.Close()
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
	c.flight = list{}
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

func (c *Channel) hasRoom() bool {
	return c.serving && c.flight.n < c.win.size && (c.flight.n == 0 || c.flight.bytes < windowBytes)
}

// give puts a message on the way to the worker. The caller flushes out.
func (c *Channel) give(d *Delivery, at time.Duration) {
	if c.flight.n == 0 {
		c.since, c.busySince = at, at
	}
	d.given, d.last = at, c
	c.flight.push(d)
	c.q.inFlight++
	c.startTimer()
	if c.q.cfg.Format == Lines {
		c.out.Add(d.Body())
		c.out.Add([]byte{'\n'})
	} else {
		c.out.Add(d.frame)
	}
	c.refile()
}

// startTimer makes the message timeout run while messages are in flight. The
// timer is not touched for each message: when it fires, checkTimeout looks how
// old the oldest one really is.
func (c *Channel) startTimer() {
	if c.q.cfg.MessageTimeout > 0 && c.timer == nil {
		c.timer = time.AfterFunc(c.q.cfg.MessageTimeout, c.checkTimeout)
	}
}

// checkTimeout is called without the queue's mutex.
func (c *Channel) checkTimeout() {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	held := now() - c.since
	switch {
	case c.over || c.flight.n == 0:
		c.timer = nil // the next message starts it again
	case held < c.q.cfg.MessageTimeout:
		c.timer.Reset(c.q.cfg.MessageTimeout - held)
	default:
		c.trouble = fmt.Sprintf("no answer within %s", c.q.cfg.MessageTimeout)
		c.late = c.flight.head
		c.stopFeeding()
		c.ask(AskTimeout)
	}
}

// refile puts the channel where it belongs: idle, busy with room, or nowhere.
func (c *Channel) refile() {
	var where *[]*Channel
	switch {
	case !c.hasRoom():
	case c.flight.n == 0:
		where = &c.q.idle
	default:
		where = &c.q.busy
	}
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
