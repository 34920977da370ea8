package ipc

import "sync"

// A Budget limits the bytes of large messages that are on their way into a
// queue: being read, or read and held back because the queue is full. All
// connections share one, so that a thousand of them cannot take a thousand times
// --max-message. Small messages are read without asking.
type Budget struct {
	limit int

	mu      sync.Mutex
	used    int
	waiting []*claim // first come, first served
}

type claim struct {
	bytes   int
	granted chan struct{}
}

// Claim waits for room for n bytes, and reports whether it had to wait. They are
// given back by Release. One claim may be larger than the limit: it is granted
// alone. The holder of a claim must not make another, or two of them could wait
// for each other.
func (b *Budget) Claim(n int) (waited bool) {
	b.mu.Lock()
	if len(b.waiting) == 0 && b.fits(n) {
		b.used += n
		b.mu.Unlock()
		return false
	}
	c := &claim{n, make(chan struct{})}
	b.waiting = append(b.waiting, c)
	b.mu.Unlock()
	<-c.granted
	return true
}

func (b *Budget) fits(n int) bool { return b.used == 0 || b.used+n <= b.limit }

// Release gives the bytes of a claim back.
func (b *Budget) Release(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	for len(b.waiting) > 0 && b.fits(b.waiting[0].bytes) {
		b.used += b.waiting[0].bytes
		close(b.waiting[0].granted)
		b.waiting = b.waiting[1:]
	}
}

// Depth returns how many bytes are claimed, and how many claims wait.
func (b *Budget) Depth() (bytes, waiting int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used, len(b.waiting)
}
