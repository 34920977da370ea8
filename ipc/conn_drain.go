package ipc

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc/frame"
)

// hearDrain notes, once, how much had arrived when the drain began: that much
// is still handled. That is what is there now, unless the reader was waiting
// (with so many bytes in hand) and the listener saw that nothing had come.
func (c *conn) hearDrain(inHand int) {
	if c.draining || !c.listener.isDraining() {
		return
	}
	c.draining = true
	c.allowed = inHand
	if !c.caughtUp.Load() {
		c.allowed = c.in.Buffered() + c.pending() + c.unseen
	}
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
func (c *conn) markDrain() { c.caughtUp.Store(c.hasAll()) }

// hasAll reports whether the reader has read everything that has arrived.
// starved is false from before a read until one has found nothing, so if it
// stays true around the look into the kernel, no read was under way.
func (c *conn) hasAll() bool {
	return c.in.Starved() && c.pending() == 0 && c.in.Starved()
}

// isQuiet reports whether all that had arrived before the drain is in the
// queue. Who does not read his replies is not read to the end either.
func (c *conn) isQuiet() bool {
	if c.hasAll() {
		c.caughtUp.Store(true)
		return true
	}
	return c.quiet.Load() || c.isOver() || c.isDeaf()
}

// isOver reports whether nothing more comes.
func (c *conn) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// deafTime is how long a client may take nothing of what it is owed, when all of
// that is there, before a stop goes on without it.
const deafTime = time.Second

// isDeaf reports whether there are replies for the client, and he has not read a
// byte for deafTime. It has to be asked again and again.
func (c *conn) isDeaf() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.owed > 0 || c.out.Size() == 0 {
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

// inTime reports whether a frame had arrived before the drain began.
func (c *conn) inTime(size int) bool {
	c.allowed -= size
	if c.allowed < 0 {
		c.quiet.Store(true)
	}
	return c.allowed >= 0
}

// turnAway answers a message that came after the drain began.
func (c *conn) turnAway() {
	c.sayLast(frame.AppendFailure(nil, frame.Stopping, "poolinit is stopping; send it again on a new connection"))
}
