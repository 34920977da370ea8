package ipc

import (
	"errors"
	"io"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
)

// unread is how many bytes of replies may wait for a client. Beyond that its
// connection is not read until it reads.
const unread = 1 << 20

// keepReplies is the buffer that a connection holds on to between replies.
const keepReplies = 4 << 10

// expect notes that the client is owed the replies.
func (c *conn) expect(batch []*Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range batch {
		d.follows = nil
		if c.tail == nil {
			c.head = d
		} else {
			c.tail.follows = d
		}
		c.tail = d
	}
	c.owed += len(batch)
}

// awaitReader waits while too many replies wait for the client.
func (c *conn) awaitReader() {
	if slow := c.slowReader(); slow != nil {
		<-slow
	}
}

// slowReader returns nil, or, if too many replies wait for the client, a channel
// that is closed when it has read them.
func (c *conn) slowReader() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out.Size()+c.held < unread || c.out.Broken() {
		return nil
	}
	if c.drained == nil {
		c.drained = make(chan struct{})
	}
	return c.drained
}

// Settled implements Origin. Replies go out in the order of the messages: one
// that comes too early waits in its Delivery.
func (c *conn) Settled(d *Delivery, reply []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d != c.head {
		d.keepReply(reply)
		c.held += d.holds()
		return
	}
	c.reply(reply)
	c.pop()
	for c.head != nil && c.head.done {
		c.held -= c.head.holds()
		c.reply(c.head.frame)
		c.pop()
	}
}

func (c *conn) pop() {
	d := c.head
	if c.head = d.follows; c.head == nil {
		c.tail = nil
	}
	c.owed--
	d.Release()
}

// reply adds a reply to what is to be written, if the client is to have it.
func (c *conn) reply(answer []byte) {
	u := c.listener.url
	switch {
	case u.once && frame.IsFailure(answer): // closed without a byte
	case u.reply == replyNever:
	case u.reply == replyAuto && len(answer) == frame.HeaderSize:
	default:
		c.out.Add(answer)
	}
}

// Flush implements Origin.
func (c *conn) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Flush(c.owed == 0 && (c.ended || c.listener.url.once))
	if c.drained != nil && !c.out.Busy() && c.out.Size()+c.held < unread { // a slow message was before others
		c.wrote()
	}
	c.closeIfDone()
}

// wrote is called when there is nothing left to write, with mu held.
func (c *conn) wrote() {
	if c.drained != nil {
		close(c.drained)
		c.drained = nil
	}
	c.closeIfDone()
}

// end: nothing more is read. What the client is owed is still written.
func (c *conn) end(err error) {
	c.blame(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.closeIfDone()
}

// blame counts a broken rule.
func (c *conn) blame(err error) {
	stats := &c.listener.stats
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errPartial):
		stats.FramesPartial.Add(1)
	case errors.Is(err, frame.ErrTooLong):
		stats.FramesTooBig.Add(1)
	}
}

// sayLast answers something that never became a message, after all replies
// that are owed.
func (c *conn) sayLast(answer []byte) {
	d := newDelivery(c, &c.listener.stats)
	c.expect([]*Delivery{d})
	c.Settled(d, answer)
	c.Flush()
}

// closeIfDone closes the connection when the client has ended and has got all
// that it was owed. With mu held.
func (c *conn) closeIfDone() {
	if c.closing || !c.ended || c.out.Busy() || !c.out.Broken() && (c.owed > 0 || c.out.Size() > 0) {
		return
	}
	c.closing = true
	if c.listener.slow {
		go c.nc.Close() // ends when what is attached to it has been closed
	} else {
		c.nc.Close()
	}
	c.listener.gone(c)
}

// retire closes the connection if its client has been silent since the given
// time and is owed nothing, or does not read what it is owed.
func (c *conn) retire(silentSince time.Duration) {
	if c.isDeaf() {
		c.kill()
		return
	}
	if time.Duration(c.heard.Load()) > silentSince || !c.hasAll() {
		return
	}
	c.mu.Lock()
	idle := c.owed == 0 && c.out.Size() == 0
	c.mu.Unlock()
	if idle {
		c.kill()
	}
}

// kill closes the connection whatever is owed.
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
	c.wrote()
}
