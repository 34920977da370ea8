package stream

import (
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// maxUnread is how much memory of replies may wait for a client. Beyond that its
// connection is not read, and its messages are not handed out, until it has read
// half of that.
const maxUnread = 1 << 20

// keepReplies is the buffer that a connection keeps between replies.
const keepReplies = 4 << 10

// expect notes that the client is to get the replies.
func (c *conn) expect(batch []*ipc.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replies.Expect(batch)
}

// unanswered is how many replies are due that are not there yet. With mu held.
func (c *conn) unanswered() int {
	if c.tags != nil {
		return c.tags.due()
	}
	return c.replies.Len()
}

// hasReplies reports whether the client waits for replies.
func (c *conn) hasReplies() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unanswered() > 0 || c.out.Size() > 0
}

// awaitReader waits while too many replies wait for the client.
func (c *conn) awaitReader() {
	for read := c.untilRead(); read != nil; read = c.untilRead() {
		<-read
	}
}

// untilRead returns nil, or, if too many replies wait for the client, a channel
// that is closed when that may have changed.
func (c *conn) untilRead() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.untilLocked(c.owesMuch)
}

// untilUnheld is untilRead for messages that the queue does not take before.
func (c *conn) untilUnheld() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.untilLocked(c.isHeld)
}

func (c *conn) untilLocked(waits bool) <-chan struct{} {
	if !waits {
		return nil
	}
	if c.drained == nil {
		c.drained = make(chan struct{})
	}
	return c.drained
}

// Settled implements ipc.Origin. Replies go out in the order of the messages, or
// as they come if they have tags.
func (c *conn) Settled(d *ipc.Delivery, reply []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.tags != nil:
		c.tags.answer(d, reply)
	case c.out.Broken():
		for next := c.replies.Drop(d); next; next = d != nil {
			d, _ = c.replies.Next()
		}
	case c.replies.Settle(d, reply):
		for d != nil {
			c.reply(d, reply)
			d, reply = c.replies.Next()
		}
	}
}

// reply adds a reply to what is to be written, if the client is to have it.
func (c *conn) reply(d *ipc.Delivery, answer []byte) {
	switch u := c.listener.url; {
	case u.once && frame.IsFailure(answer): // closed without a byte
	case u.reply == replyNever:
	case u.reply == replyAuto && len(answer) == frame.HeaderSize:
	default:
		if own := d.HandOver(answer); own != nil {
			c.out.AddBuffer(own)
		} else {
			c.out.Add(answer)
		}
	}
}

// Flush implements ipc.Origin.
func (c *conn) Flush() {
	c.mu.Lock()
	c.out.Flush(c.unanswered() == 0 && (c.ended || c.listener.url.once))
	tooMuch, refused := c.account()
	c.closeIfDone()
	c.mu.Unlock()
	if refused {
		c.CutOff()
	}
	if tooMuch {
		c.listener.queue.Debts().Collect()
	}
}

// account tells what the client owes, and has its messages wait while that is too
// much. It reports whether all clients together owe too much, and whether there is
// no memory for the messages of this one to wait. With mu held, which Collect and
// CutOff must not follow.
func (c *conn) account() (tooMuch, refused bool) {
	owes := c.out.Holds() + c.replies.Held()
	if c.debt == nil {
		if owes <= keepReplies {
			return false, false
		}
		c.debt = c.listener.queue.Debts().Open(c)
	}
	if c.out.Broken() { // it is not the client's any more
		c.replies.DropAll()
		owes = 0
	}
	tooMuch = c.debt.Set(owes)
	switch most := c.listener.mayOwe(); {
	case owes > most && !c.owesMuch:
		c.owesMuch = true
		if !c.listener.isDraining() { // all that is queued is handled then, and Collect bounds what it costs
			c.isHeld = true
			refused = !c.listener.queue.Hold(&c.flow)
		}
	case c.owesMuch && owes <= most/2:
		c.owesMuch = false
		c.unhold()
	}
	return tooMuch, refused
}

// unhold has the client's messages handed out again, and whoever waits look again.
func (c *conn) unhold() {
	if c.isHeld {
		c.isHeld = false
		c.listener.queue.Unhold(&c.flow)
	}
	if c.drained != nil {
		close(c.drained)
		c.drained = nil
	}
}

// CutOff implements ipc.Debtor: the client does not read, and others need the
// memory.
func (c *conn) CutOff() {
	c.mu.Lock()
	owes := 0
	if c.debt != nil {
		owes = c.debt.Owes()
	}
	isOver := c.closing || c.out.Broken()
	c.mu.Unlock()
	if !isOver {
		c.listener.stats.CutOff.Add(1)
		c.listener.cutOff.Warn("clients cut off, they did not read their replies",
			fmt.Sprintf("%d bytes waited for this one, and --reply-bytes %d for all were used up", owes, c.listener.queue.Debts().Limit()))
	}
	c.kill()
}

// wrote is called when something has been written, with mu held.
func (c *conn) wrote() {
	if c.debt != nil {
		c.account()
	}
	c.closeIfDone()
}

// sayLast answers something that never became a message, after all replies
// that are due.
func (c *conn) sayLast(answer []byte) {
	d := ipc.NewDelivery(c, &c.flow, nil)
	c.expect([]*ipc.Delivery{d})
	c.Settled(d, answer)
	c.Flush()
}

// end: nothing more is read. Replies that are due are still written.
func (c *conn) end(err error) {
	fault, _ := errors.AsType[*tagFault](err)
	switch stats := &c.listener.stats; {
	case fault != nil && fault.code == frame.NotTagged:
		c.listener.notTagged(fault.text)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errPartial):
		stats.FramesPartial.Add(1)
	case errors.Is(err, frame.ErrTooLong):
		stats.FramesTooBig.Add(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.closeIfDone()
}

// isOver reports whether nothing more comes.
func (c *conn) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// deafTime is how long a client may take nothing of its replies, when all of them
// are there, before a stop goes on without it.
const deafTime = time.Second

// isDeaf reports whether there are replies for the client, and it has not read a
// byte for deafTime. It has to be asked again and again.
func (c *conn) isDeaf() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.unanswered() > 0 || c.out.Size() == 0 {
		c.unsent = 0
		return false
	}
	unsent, at := c.out.Size(), now()
	_ = c.control.Control(func(fd uintptr) {
		n, _ := unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
		unsent += n
	})
	if unsent != c.unsent {
		c.unsent, c.stuck = unsent, at
	}
	return at-c.stuck > deafTime
}

// closeIfDone closes the connection when the client has ended and has got all
// its replies. With mu held.
func (c *conn) closeIfDone() {
	if c.closing || !c.ended || c.out.Busy() || !c.out.Broken() && (c.unanswered() > 0 || c.out.Size() > 0) {
		return
	}
	c.closing = true
	if c.debt != nil {
		c.debt.Close()
		c.debt = nil
	}
	c.unhold()
	l := c.listener
	l.remove(c)
	if l.files == nil {
		c.nc.Close()
		l.freePlace()
	} else { // its place is taken until what is attached to it has been closed
		l.files.Retire(c.control, c.nc.Close, l.freePlace)
	}
}

// retire closes the connection if its client has been silent since the given
// time and has all its replies, or does not read them.
func (c *conn) retire(silentSince time.Duration) {
	if c.isDeaf() {
		c.kill()
		return
	}
	if time.Duration(c.heard.Load()) > silentSince || !c.hasAll() {
		return
	}
	if !c.hasReplies() {
		c.kill()
	}
}

// kill closes the connection, whatever replies are due.
func (c *conn) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	c.dead.Store(true)
	c.out.Break()
	_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // ends the reader
	_ = c.nc.SetWriteDeadline(time.Unix(1, 0))
	if c.debt != nil {
		c.account()
	}
	c.closeIfDone()
}
