package ipc

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/netio"
)

// requestBuffer is what a connection's reader reads at once. It is held only
// while something is there to read, so that idle connections are cheap.
const requestBuffer = 16 << 10

// batchSize is how many messages of one connection are submitted at a time.
const batchSize = 64

// A conn is a client's connection. Its reader brings whole frames to the queue;
// replies come back by Settled, from the readers of the workers' channels.
type conn struct {
	listener *listener
	nc       netio.Socket
	control  syscall.RawConn // of the socket below any TLS

	// The reader's own.
	in       netio.Reader
	claimed  int           // bytes that are claimed from the queue's arrivals, for a large frame
	alarm    time.Duration // when the deadline that is set now will be due; -1: a frame's
	armed    bool          // a deadline is set
	draining bool          // it has heard of the drain
	allowed  int           // bytes that had arrived before the drain began
	unseen   int           // as many bytes as TLS may hold beside those

	caughtUp atomic.Bool  // when the drain began nothing had arrived that was not read
	dead     atomic.Bool  // it was killed
	heard    atomic.Int64 // when the reader last began to wait, as a time.Duration
	quiet    atomic.Bool  // what had arrived before the drain has been taken

	mu      sync.Mutex
	out     netio.Writer
	head    *Delivery // owed replies, oldest first
	tail    *Delivery
	owed    int
	held    int  // bytes of replies that wait for an earlier one
	ended   bool // the client sends no more, or is not to be heard any more: all that it sent is in the queue
	closing bool
	drained chan struct{} // closed when all replies are written
	unsent  int           // bytes that it had not taken when isDeaf looked, since
	stuck   time.Duration
}

// newConn returns a connection. For TLS, which cannot be read past, raw is nil,
// and starved is kept by the socket below it.
func newConn(l *listener, nc netio.Socket, raw, control syscall.RawConn, starved *atomic.Bool) *conn {
	c := &conn{listener: l, nc: nc, control: control}
	c.in.Init(netio.ReaderConfig{Raw: raw, Conn: nc, Starved: starved, Size: requestBuffer, Slow: l.slow, Exact: true})
	c.out.Init(netio.WriterConfig{Mutex: &c.mu, Conn: nc, Raw: raw, Keep: keepReplies, Stall: l.url.idle, OnIdle: c.wrote})
	return c
}

// serve reads until the client ends, breaks a rule or is told to go.
func (c *conn) serve() {
	defer c.letGo()
	var err error
	for err == nil {
		if err = c.wait(); err == nil {
			err = c.arrived()
		}
	}
	if errors.Is(err, frame.ErrTooLong) {
		c.tooLong()
	}
	c.end(err)
}

// discardTime is how long a client may go on to send what is not wanted before
// its connection is closed. Closed at once, what it has been told could be lost
// with what it still sends.
const discardTime = time.Second

// tooLong answers a message over the limit, and lets the client finish.
func (c *conn) tooLong() {
	c.sayLast(frame.AppendFailure(nil, frame.TooBig, fmt.Sprintf("the longest message here is %d bytes", c.listener.maxMessage)))
	_ = c.nc.SetReadDeadline(time.Now().Add(discardTime))
	for !c.dead.Load() {
		c.in.Discard()
		if c.in.Fill() != nil {
			return
		}
	}
}

// wait waits for bytes, within the time that the client has for them: idle
// while it owes nothing, partial in the middle of a frame.
func (c *conn) wait() error {
	c.claim()
	limit, inFrame := c.listener.url.idle, c.in.Buffered() > 0
	if inFrame {
		limit = c.listener.url.partial
	}
	at := now()
	c.heard.Store(int64(at))
	switch {
	case limit > 0:
		c.setAlarm(at+limit, limit, inFrame)
	case c.armed: // by the other limit, which does not hold now
		c.armed, c.alarm = false, 0
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	if c.dead.Load() { // else kill comes later, and its deadline stays
		return errKilled
	}
	before := c.in.Buffered()
	err := c.in.Fill()
	c.hearDrain(before)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return c.late(inFrame)
	}
	return err
}

// setAlarm sets the read deadline. For an idle connection it is moved only
// when it is off by an eighth, since that costs about as much as a message; in
// a frame it is set once, at its beginning.
func (c *conn) setAlarm(at, limit time.Duration, inFrame bool) {
	switch {
	case inFrame && c.alarm < 0:
		return
	case !inFrame && c.alarm > 0 && at-c.alarm < limit/8:
		return
	}
	c.alarm = at
	if inFrame {
		c.alarm = -1
	}
	c.armed = true
	_ = c.nc.SetReadDeadline(epoch.Add(at)) // closed meanwhile: the read says so
}

var (
	errIdle    = errors.New("idle for too long")
	errKilled  = errors.New("closed by poolinit")
	errPartial = errors.New("the frame was not complete in time")
)

// late: the deadline is over. A client that waits for replies is not idle.
func (c *conn) late(inFrame bool) error {
	switch {
	case c.dead.Load():
		return errKilled
	case inFrame:
		return errPartial
	}
	c.alarm = 0
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owed > 0 || c.out.Size() > 0 {
		return nil
	}
	return errIdle
}

// arrived takes the whole frames that are there to the queue.
func (c *conn) arrived() error {
	var batch [batchSize]*Delivery
	for {
		n, err := c.collect(batch[:])
		if n > 0 {
			c.submit(batch[:n])
			if c.listener.url.once {
				return errOnce
			}
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// arrivedOnce is arrived for a connection whose one message may be there already.
// It reports whether that is dealt with; if not, serve goes on.
func (c *conn) arrivedOnce() bool {
	var batch [1]*Delivery
	n, err := c.collect(batch[:])
	if n == 0 && err == nil {
		return false
	}
	c.in.Release()
	if err != nil {
		c.end(err)
		return true
	}
	c.listener.stats.Received.Add(1)
	c.expect(batch[:])
	if c.listener.queue.Submit(batch[:]) == 0 {
		late := batch // the queue is full: that is not for the acceptor to wait for
		c.listener.readers.Go(func() {
			c.handOver(late[:])
			c.end(errOnce)
		})
		return true
	}
	c.end(errOnce)
	return true
}

// errOnce ends the reading after the first message.
var errOnce = errors.New("one message a connection")

// collect makes messages of whole frames.
func (c *conn) collect(batch []*Delivery) (n int, err error) {
	most := len(batch)
	if c.listener.url.once {
		most = 1
	}
	for n < most {
		whole, need, err := frame.Cut(c.in.Unread(), c.listener.maxMessage)
		if whole == nil {
			c.in.Need(need)
			return n, err
		}
		c.alarm = max(c.alarm, 0) // the frame that the deadline was for is there
		if c.draining && n > 0 && len(whole) > c.allowed {
			return n, nil // not before those of the batch are expected: replies go in the order of messages
		}
		if c.draining && !c.inTime(len(whole)) {
			c.in.Advance(len(whole))
			if c.listener.url.once {
				return n, errOnce // closed without a byte, as every failure there
			}
			c.turnAway()
			c.awaitReader()
			continue
		}
		d := newDelivery(c, &c.listener.stats)
		if given := c.in.Take(len(whole)); given != nil {
			d.frame = given
		} else {
			d.frame = append(d.room(len(whole)), whole...) // d's own buffer, almost always: nothing is allocated
			c.in.Advance(len(whole))
		}
		frame.ClearFailure(d.frame) // a client's top bit means nothing
		batch[n] = d
		n++
	}
	return n, nil
}

// submit hands messages over, and waits while the queue is full or the client
// does not read its replies.
func (c *conn) submit(batch []*Delivery) {
	c.listener.stats.Received.Add(uint64(len(batch)))
	c.expect(batch)
	c.handOver(batch)
	if !c.in.HasBuffer() { // it was a large one, and is in the queue
		c.letGo()
	}
	c.awaitReader()
}

// room returns an empty buffer for a frame of so many bytes, d's own if it is
// large enough.
func (d *Delivery) room(n int) []byte {
	if n <= cap(d.frame) {
		return d.frame[:0]
	}
	if n <= keepFrame {
		return make([]byte, 0, min(n+64, keepFrame))
	}
	return netio.GetBuffer(n)
}

// handOver submits until all is taken.
func (c *conn) handOver(batch []*Delivery) {
	for {
		n := c.listener.queue.Submit(batch)
		if batch = batch[n:]; len(batch) == 0 {
			return
		}
		<-c.listener.queue.Room()
	}
}
