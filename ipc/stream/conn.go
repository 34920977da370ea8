package stream

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/netio"
)

// requestBuffer is what a connection's reader reads at once. It is held only
// while something is there to read, so that idle connections are cheap.
const requestBuffer = 16 << 10

// batchSize is how many messages of one connection are submitted at a time.
const batchSize = 64

// epoch is what the times here count from. The monotonic clock alone is cheaper
// than time.Now.
var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }

// A conn is a client's connection. Its reader brings whole frames to the queue;
// replies come back by Settled, from the readers of the workers' channels.
type conn struct {
	listener *listener
	flow     ipc.Flow
	nc       netio.Socket
	control  syscall.RawConn // of the socket below any TLS

	// The reader's own.
	in       netio.Reader
	claim    *ipc.Claim    // for a large frame; or nil
	newcomer *newcomer     // nil: a whole frame has come
	alarm    time.Duration // when the deadline that is set now will be due; -1: a frame's
	allowed  int           // bytes that had arrived before the drain began
	armed    bool          // a deadline is set
	draining bool          // it has heard of the drain

	ended   bool // mu: the client sends no more, or is not read any more: all that it sent is in the queue
	closing bool // mu

	owesMuch bool // mu: it is not read until it has read replies
	isHeld   bool // mu: its messages are not handed out before that, either

	caughtUp atomic.Bool  // when the drain began nothing had arrived that was not read
	dead     atomic.Bool  // it was killed
	quiet    atomic.Bool  // what had arrived before the drain has been taken
	heard    atomic.Int64 // when the reader last began to wait, as a time.Duration

	mu      sync.Mutex
	out     netio.Writer
	replies ipc.Replies
	tags    *tags         // in place of replies, with tagged=true; nil: the client is a plain one
	debt    *ipc.Debt     // nil: it never owed anything
	drained chan struct{} // closed when owesMuch or isHeld may have changed; nil: nothing waits for that
	unsent  int           // bytes that it had not taken when isDeaf looked, since
	stuck   time.Duration
}

// newConn returns a connection. For TLS, which cannot be read past, raw is nil,
// and starved is kept by the socket below it.
func newConn(l *listener, nc netio.Socket, raw, control syscall.RawConn, starved *atomic.Bool) *conn {
	c := &conn{listener: l, flow: ipc.NewFlow(&l.lane), nc: nc, control: control}
	if l.url.tagged {
		c.tags = &tags{conn: c}
	}
	c.in.Init(netio.ReaderConfig{Raw: raw, Conn: nc, Starved: starved, Size: requestBuffer, Files: l.files, Exact: true})
	c.out.Init(netio.WriterConfig{Mutex: &c.mu, Conn: nc, Raw: raw, Keep: keepReplies, Stall: l.url.idle, OnWrote: c.wrote})
	return c
}

// serve reads until the client ends, breaks a rule or is killed.
func (c *conn) serve() {
	defer c.releaseBuffer()
	var err error
	for err == nil {
		if err = c.wait(); err == nil {
			err = c.takeFrames()
		}
	}
	if fault, ok := errors.AsType[*tagFault](err); ok {
		c.tags.endWith(fault)
	} else if errors.Is(err, frame.ErrTooLong) {
		c.tooLong()
	}
	c.end(err)
}

// shakeHands makes the TLS handshake, which must be over as soon as any frame.
func (c *conn) shakeHands(nc *tlsConn) error {
	limit := c.listener.url.partial
	if limit == 0 {
		limit = c.listener.url.idle
	}
	if limit > 0 {
		if err := c.setDeadline(nc, time.Now().Add(limit)); err != nil {
			return err
		}
	}
	if err := nc.Handshake(); err != nil {
		return err
	}
	return c.setDeadline(nc, time.Time{})
}

// setDeadline sets one for reading and writing, unless the connection was killed:
// the deadline that kill has set must stay.
func (c *conn) setDeadline(nc *tlsConn, at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out.Broken() {
		return net.ErrClosed
	}
	return nc.SetDeadline(at)
}

// discardTime is how long a client may go on to send what is not wanted before
// its connection is closed. Closed at once, what it has been told could be lost
// with what it still sends.
const discardTime = time.Second

// tooLong answers a message over the limit, and lets the client finish.
func (c *conn) tooLong() {
	c.sayLast(frame.AppendFailure(nil, frame.TooBig, c.tooLongText()))
	c.discard()
}

func (c *conn) tooLongText() string {
	return fmt.Sprintf("the longest message here is %d bytes", c.listener.queue.MaxMessage())
}

// discard drops what the client still sends, until it ends, or for discardTime.
func (c *conn) discard() {
	_ = c.nc.SetReadDeadline(time.Now().Add(discardTime))
	for !c.dead.Load() {
		c.in.Discard()
		if c.in.Fill() != nil {
			return
		}
	}
}

// wait waits for bytes, within the time that the client has for them: idle
// while it has begun nothing, partial in the middle of a frame.
func (c *conn) wait() error {
	c.claimBuffer()
	before := c.in.Buffered()
	limit, inFrame := c.listener.url.idle, before > 0
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
	if c.dead.Load() { // if kill comes later, its deadline stays
		return errKilled
	}
	err := c.in.Fill()
	if c.claim != nil {
		c.claim.Arrived(c.in.Buffered() - before)
	}
	c.hearDrain(before)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return c.tooLate(inFrame)
	}
	return err
}

// claimBuffer waits until there is room for a large frame that has begun, or for
// more of it. That is not time that the client takes.
func (c *conn) claimBuffer() {
	if c.in.Buffered() == 0 && c.claim != nil {
		c.releaseBuffer()
	}
	if n := c.in.Missing(); n > 0 {
		if c.claim == nil {
			c.claim = c.listener.queue.Budget().Open(n, c.evict)
		}
		if c.claim.Fit(&c.in, n) {
			c.alarm = 0
		}
	}
	if c.claim != nil {
		c.claim.Await()
	}
}

// evict closes the connection of a large message that has stopped arriving while
// others wait for its memory.
func (c *conn) evict() {
	c.listener.stats.FramesPartial.Add(1)
	c.listener.evicted.Warn("large messages stopped arriving, connections closed", "others waited for the memory")
	c.kill()
}

// releaseBuffer gives the buffer back, and what was claimed for it.
func (c *conn) releaseBuffer() {
	c.in.Release()
	if c.claim != nil {
		c.claim.Close()
		c.claim = nil
	}
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
	errOnce    = errors.New("one message a connection") // after the first one
)

// tooLate: the deadline is over. A client that waits for replies is not idle.
func (c *conn) tooLate(inFrame bool) error {
	switch {
	case c.dead.Load():
		return errKilled
	case inFrame:
		return errPartial
	}
	c.alarm = 0
	if c.hasReplies() {
		return nil
	}
	return errIdle
}

// takeFrames takes the whole frames that are there to the queue.
func (c *conn) takeFrames() error {
	if c.tags != nil {
		return c.tags.take()
	}
	var batch [batchSize]*ipc.Delivery
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

// takeOnce is takeFrames for a connection whose one message may be there already.
// It reports whether it was; if not, serve goes on.
func (c *conn) takeOnce() bool {
	var batch [1]*ipc.Delivery
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
		late := batch // the queue is full: the acceptor must not wait for that
		c.listener.readers.Go(func() {
			c.submitAll(late[:])
			c.end(errOnce)
		})
		return true
	}
	c.end(errOnce)
	return true
}

// collect makes messages of whole frames.
func (c *conn) collect(batch []*ipc.Delivery) (n int, err error) {
	most := len(batch)
	if c.listener.url.once {
		most = 1
	}
	for n < most {
		whole, need, err := frame.Cut(c.in.Unread(), c.listener.queue.MaxMessage())
		if whole == nil {
			c.in.Need(need)
			return n, err
		}
		if c.newcomer != nil {
			c.listener.isKnown(c)
		}
		c.alarm = max(c.alarm, 0) // the frame that the deadline was for is there
		if c.draining && n > 0 && len(whole) > c.allowed {
			return n, nil // not before those of the batch are expected: replies go in the order of messages
		}
		if c.draining && !c.isInTime(len(whole)) {
			c.in.Advance(len(whole))
			if c.listener.url.once {
				return n, errOnce // closed without a byte, as every failure there
			}
			c.refuse()
			c.awaitReader()
			continue
		}
		batch[n] = c.message(whole)
		n++
	}
	return n, nil
}

// message consumes a frame. A large one is not copied.
func (c *conn) message(whole []byte) *ipc.Delivery {
	if buf := c.in.Take(len(whole)); buf != nil {
		return ipc.AdoptFrame(c, &c.flow, buf)
	}
	c.in.Advance(len(whole))
	c.listener.noteHello(frame.Body(whole))
	return ipc.FromFrame(c, &c.flow, whole)
}

// submit submits messages, and waits while the queue is full or the client does
// not read its replies.
func (c *conn) submit(batch []*ipc.Delivery) {
	c.expect(batch)
	c.submitExpected(batch)
}

// submitExpected is submit of messages whose replies the client is known to get.
func (c *conn) submitExpected(batch []*ipc.Delivery) {
	c.listener.stats.Received.Add(uint64(len(batch)))
	c.submitAll(batch)
	if !c.in.HasBuffer() { // it was a large one, and is in the queue
		c.releaseBuffer()
	}
	c.awaitReader()
}

// submitAll submits until all is taken.
func (c *conn) submitAll(batch []*ipc.Delivery) {
	for {
		n := c.listener.queue.Submit(batch)
		if batch = batch[n:]; len(batch) == 0 {
			return
		}
		if unheld := c.untilUnheld(); unheld != nil {
			c.listener.queue.Leave(&c.flow)
			<-unheld
			continue
		}
		<-c.listener.queue.Room(&c.flow)
	}
}

// hearDrain notes, once, how much had arrived when the drain began: that much
// is still handled. That is what is there now, unless the reader was waiting
// (with inHand bytes unread) and the listener saw that nothing had come.
func (c *conn) hearDrain(inHand int) {
	if c.draining || !c.listener.isDraining() {
		return
	}
	c.draining = true
	c.allowed = inHand
	if !c.caughtUp.Load() {
		c.allowed = c.in.Buffered() + c.pending() + c.unseen()
	}
}

// unseen returns how many bytes TLS may hold beside those.
func (c *conn) unseen() int {
	if c.listener.certs == nil {
		return 0
	}
	return tlsBuffer
}

// pending returns how many bytes wait in the kernel.
func (c *conn) pending() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return 0
	}
	_ = c.control.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n
}

// markDrain is the listener's part of it.
func (c *conn) markDrain() {
	c.caughtUp.Store(c.hasAll())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unhold()
}

// hasAll reports whether the reader has read everything that has arrived. If the
// Reader is starved before and after the look into the kernel, no read was under
// way meanwhile.
func (c *conn) hasAll() bool {
	return c.in.Starved() && c.pending() == 0 && c.in.Starved()
}

// isQuiet reports whether all that had arrived before the drain is in the
// queue. A client that does not read its replies is not read to the end either.
func (c *conn) isQuiet() bool {
	if c.hasAll() {
		c.caughtUp.Store(true)
		return true
	}
	return c.quiet.Load() || c.isOver() || c.isDeaf()
}

// isInTime reports whether a frame had arrived before the drain began.
func (c *conn) isInTime(size int) bool {
	c.allowed -= size
	if c.allowed < 0 {
		c.quiet.Store(true)
	}
	return c.allowed >= 0
}

const stoppingText = "poolinit is stopping; send it again on a new connection"

// refuse answers a message that came after the drain began.
func (c *conn) refuse() {
	c.sayLast(frame.AppendFailure(nil, frame.Stopping, stoppingText))
}
