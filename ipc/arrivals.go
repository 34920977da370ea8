package ipc

import "sync"

// Arrivals limit the bytes of large messages that are on their way into the queue:
// being read, or read and held back because the queue is full. All connections share
// one, so that a thousand of them cannot take a thousand times --max-message. Small
// messages are read without asking.
type arrivals struct {
	limit int

	mu      sync.Mutex
	used    int
	waiting []*claim // first come, first served
}

type claim struct {
	bytes   int
	granted chan struct{}
}

// claim waits for room for so many bytes, and reports whether it had to wait. They are
// released by release. One claim may be larger than the limit: it is granted alone.
// Who holds a claim must not make another, or two could wait for each other.
func (a *arrivals) claim(n int) (waited bool) {
	a.mu.Lock()
	if len(a.waiting) == 0 && a.fits(n) {
		a.used += n
		a.mu.Unlock()
		return false
	}
	c := &claim{n, make(chan struct{})}
	a.waiting = append(a.waiting, c)
	a.mu.Unlock()
	<-c.granted
	return true
}

func (a *arrivals) fits(n int) bool { return a.used == 0 || a.used+n <= a.limit }

func (a *arrivals) release(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used -= n
	for len(a.waiting) > 0 && a.fits(a.waiting[0].bytes) {
		a.used += a.waiting[0].bytes
		close(a.waiting[0].granted)
		a.waiting = a.waiting[1:]
	}
}

// claim waits until there is room for a large frame that has begun. That is no time
// that the client takes.
func (c *conn) claim() {
	if c.in.Buffered() == 0 && c.claimed > 0 {
		c.letGo()
	}
	if n := c.in.Missing(); n > 0 {
		if c.listener.queue.arriving.claim(n) {
			c.alarm = 0
		}
		c.claimed = n
	}
}

// letGo gives the buffer back, and what was claimed for it.
func (c *conn) letGo() {
	c.in.Release()
	if c.claimed > 0 {
		c.listener.queue.arriving.release(c.claimed)
		c.claimed = 0
	}
}
