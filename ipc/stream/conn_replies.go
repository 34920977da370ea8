package stream

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// maxUnread is how many bytes of replies may wait for a client. Beyond that its
// connection is not read until it reads.
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
	if read := c.untilRead(); read != nil {
		<-read
	}
}

// untilRead returns nil, or, if too many replies wait for the client, a channel
// that is closed when it has read them.
func (c *conn) untilRead() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out.Size()+c.replies.Held() < maxUnread || c.out.Broken() {
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
	if c.tags != nil {
		c.tags.answer(d, reply)
		return
	}
	if !c.replies.Settle(d, reply) {
		return
	}
	for reply != nil {
		c.reply(reply)
		reply = c.replies.Next()
	}
}

// reply adds a reply to what is to be written, if the client is to have it.
func (c *conn) reply(answer []byte) {
	switch u := c.listener.url; {
	case u.once && frame.IsFailure(answer): // closed without a byte
	case u.reply == replyNever:
	case u.reply == replyAuto && len(answer) == frame.HeaderSize:
	default:
		c.out.Add(answer)
	}
}

// Flush implements ipc.Origin.
func (c *conn) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Flush(c.unanswered() == 0 && (c.ended || c.listener.url.once))
	if c.drained != nil && !c.out.Busy() && c.out.Size()+c.replies.Held() < maxUnread { // a slow message was before others
		c.allWritten()
	}
	c.closeIfDone()
}

// allWritten is called when there is nothing left to write, with mu held.
func (c *conn) allWritten() {
	if c.drained != nil {
		close(c.drained)
		c.drained = nil
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
	switch stats := &c.listener.stats; {
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
	c.allWritten()
}
