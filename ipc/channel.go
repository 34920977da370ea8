package ipc

import (
	"fmt"
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
	conn   net.Conn
	raw    syscall.RawConn

	// Guarded by the queue's mutex.
	out       netio.Writer
	flight    list // given and not answered, oldest first
	win       window
	place     int // in idle or busy
	where     *[]*Channel
	serving   bool // it may be fed
	over      bool // nothing more will be answered
	touched   bool
	finished  chan struct{} // closed when it is not fed any more and nothing is in flight
	since     time.Duration // the last reply, or when work began
	handled   int
	totals    *workerTotals
	busySince time.Duration // when it last got something in hand
	due       int           // messages after which the worker is to be replaced; 0: never
	trouble   string        // why its messages come back
	timer     *time.Timer   // of the message timeout; nil: it is not running
	late      *Delivery     // for which it ran out
	spared    bool          // no message is charged with the worker's end

	asks   chan Ask      // 1: only the first matters
	told   chan struct{} // closed by Close: trouble says how the worker ended
	closed chan struct{} // closed when the reader has ended
	reader sync.WaitGroup
}

// An Ask is what a channel wants of its worker's supervisor.
type Ask string

// The asks.
const (
	AskRecycle Ask = "max-messages"    // it has handled its share
	AskTimeout Ask = "message-timeout" // it holds a message too long
	AskDetach  Ask = "detach"          // it closed its socket, and lives on
	AskBroken  Ask = "protocol"        // what it answers makes no sense
)

// NewChannel returns a channel for a process of a worker, and the file that it
// gets as its end. The caller
// closes the file when the worker has been started; Close ends the channel.
func (q *Queue) NewChannel(worker int) (*Channel, *os.File, error) {
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
		q: q, worker: worker, conn: conn, win: newWindow(q.cfg.Window),
		finished: make(chan struct{}),
		asks:     make(chan Ask, 1),
		closed:   make(chan struct{}),
		told:     make(chan struct{}),
	}
	if c.raw, err = conn.(*net.UnixConn).SyscallConn(); err != nil {
		conn.Close()
		theirs.Close()
		return nil, nil, fmt.Errorf("cannot make the worker's channel: %w", err)
	}
	c.out.Init(netio.WriterConfig{Mutex: &q.mu, Conn: conn, Raw: c.raw, Keep: 64 << 10})
	c.due = around(q.cfg.Recycle)
	q.opened(c)
	c.reader.Go(c.read)
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

// Serve begins to feed the worker.
func (c *Channel) Serve() {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.over || c.serving || isClosed(c.finished) {
		return
	}
	c.serving = true
	c.settle()
	q.spread()
}

// Finish ends the feeding. The returned channel is closed when the worker has
// answered all that it had; then it has been told that no more comes, by the
// end of its input.
func (c *Channel) Finish() <-chan struct{} {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	c.serving = false
	c.settle()
	c.finishIfDone()
	return c.finished
}

func (c *Channel) finishIfDone() {
	if !c.serving && c.flight.n == 0 && !isClosed(c.finished) {
		close(c.finished)
		_ = c.conn.(*net.UnixConn).CloseWrite() // the worker has gone: it needs no end of input
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
	if !isClosed(c.told) {
		close(c.told)
	}
	c.q.mu.Unlock()
	// What was written before is still read after a shutdown; then comes the end, also if
	// somebody else has inherited the socket.
	_ = c.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	c.reader.Wait()
	c.conn.Close()
}

// Spare is for before Close: the pool has ended the worker, and what it had in hand is
// not to blame. That is no attempt, unless there is only one.
func (c *Channel) Spare() {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	c.spared = c.trouble == "" && c.q.cfg.Attempts > 1
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
	c.q.flying++
	c.watch()
	if c.q.cfg.Lines {
		c.out.Add(d.Body())
		c.out.Add([]byte{'\n'})
	} else {
		c.out.Add(d.frame)
	}
	c.settle()
}

// watch sees to it that the timeout runs while messages are in flight. The timer
// is not touched for each message: when it fires, it looks how old the oldest
// one really is.
func (c *Channel) watch() {
	if c.q.cfg.Timeout > 0 && c.timer == nil {
		c.timer = time.AfterFunc(c.q.cfg.Timeout, c.checkTimeout)
	}
}

func (c *Channel) checkTimeout() {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	held := now() - c.since
	switch {
	case c.over || c.flight.n == 0:
		c.timer = nil // the next message starts it again
	case held < c.q.cfg.Timeout:
		c.timer.Reset(c.q.cfg.Timeout - held)
	default:
		c.trouble = fmt.Sprintf("no answer within %s", c.q.cfg.Timeout)
		c.late = c.flight.head
		c.serving = false
		c.settle()
		c.ask(AskTimeout)
	}
}

// settle puts the channel where it belongs: idle, busy with room, or nowhere.
func (c *Channel) settle() {
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

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
