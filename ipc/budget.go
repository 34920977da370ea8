package ipc

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/poolinit/poolinit/ipc/netio"
)

// A Budget limits the memory of large frames that are being read, or are read and
// held back because the queue is full. All connections share one, so that a
// thousand of them cannot take a thousand times --max-message. Small frames are
// read without asking.
//
// While less than half is used, a frame gets what it announces. Beyond that it
// gets twice what has arrived of it: one that is announced and not sent takes
// hardly anything from others. Those that find no room wait, first come, first
// served, and a frame that has stopped arriving is evicted. If all wait for each
// other, one of them may exceed the limit.
type Budget struct {
	limit int

	mu      sync.Mutex
	used    int
	leaving int         // of those, what evicted claims still have
	all     []*Claim    // those that are open, in any order
	waiting [2][]*Claim // small ones, which do not wait for large ones; and the others
	over    *Claim      // may exceed the limit; nil: none
	timer   *time.Timer // runs while some wait
}

// smallClaim is what a small frame takes, at most. The last eighth of a Budget is
// for those.
const smallClaim = 64 << 10

// stalledFor is how long a frame may arrive too slowly while others wait for room.
const stalledFor = 250 * time.Millisecond

// stalledPart says what is too slow: less than this part of the frame in
// stalledFor. It would take 16 s then.
const stalledPart = 64

// A Claim is what one frame has of a Budget. It is for the goroutine that reads
// the frame, which must not have two of them.
type Claim struct {
	budget *Budget
	frame  int    // how long the frame is
	evict  func() // ends the connection, from any goroutine; nil: it cannot be evicted

	arrived int          // since seen
	seen    atomic.Int64 // when enough had arrived, as a time.Duration
	reading atomic.Bool  // it waits for bytes

	// Guarded by the budget's mutex.
	place     int // in all
	bytes     int
	want      int           // instead of bytes, while it waits
	granted   chan struct{} // closed when it has them
	isWaiting bool
	isEvicted bool
}

// Open returns a claim for a frame of so many bytes, which has nothing yet. Close
// must follow.
func (b *Budget) Open(frame int, evict func()) *Claim {
	c := &Claim{budget: b, frame: frame, evict: evict}
	b.mu.Lock()
	defer b.mu.Unlock()
	c.place = len(b.all)
	b.all = append(b.all, c)
	return c
}

// Fit has a Reader use a buffer that the frame fits in, or a larger part of it, at
// its next Fill. need is what the Reader is missing. It waits for room, and reports
// whether it had to.
func (c *Claim) Fit(in *netio.Reader, need int) (waited bool) {
	c.frame = need
	to := c.next(in.Size(), in.IsFull())
	if to == 0 {
		in.Need(0) // there is room for more of it
		return false
	}
	waited = c.grow(to)
	in.Grow(to, c.frame)
	return waited
}

// next returns how large the buffer should be now; 0: as it is.
func (c *Claim) next(size int, isFull bool) int {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.used-c.bytes+c.frame <= b.limit/2:
		return c.frame
	case !isFull:
		return 0
	}
	return min(2*size, c.frame)
}

// grow waits until the claim has so many bytes.
func (c *Claim) grow(to int) (waited bool) {
	b := c.budget
	b.mu.Lock()
	c.want = to
	line := &b.waiting[lineOf(to)]
	if c == b.over || len(*line) == 0 && b.fits(c) {
		b.grant(c)
		b.mu.Unlock()
		return false
	}
	c.isWaiting, c.granted = true, make(chan struct{})
	*line = append(*line, c)
	b.grantWaiting()
	granted, look := c.granted, b.timer == nil && c.isWaiting
	if look {
		b.timer = time.AfterFunc(stalledFor/4, b.look)
	}
	b.mu.Unlock()
	if look {
		b.evictStalled()
	}
	<-granted
	return true
}

func lineOf(bytes int) int {
	if bytes <= smallClaim {
		return 0
	}
	return 1
}

func (b *Budget) fits(c *Claim) bool {
	return c == b.over || b.used == c.bytes || b.used-c.bytes+c.want <= b.limitOf(lineOf(c.want))
}

func (b *Budget) limitOf(line int) int {
	if line == 0 {
		return b.limit
	}
	return b.limit - b.limit/8
}

func (b *Budget) grant(c *Claim) {
	b.used += c.want - c.bytes
	c.bytes = c.want
	c.arrived = 0
	c.seen.Store(int64(now()))
}

// grantWaiting grants what there is room for.
func (b *Budget) grantWaiting() {
	for i := range b.waiting {
		for len(b.waiting[i]) > 0 && b.fits(b.waiting[i][0]) {
			b.grantFirst(i)
		}
	}
	waiting := len(b.waiting[0]) + len(b.waiting[1])
	if waiting > 0 && waiting == len(b.all) {
		b.exceed() // they wait for each other
	}
	if waiting == 0 && b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
}

func (b *Budget) grantFirst(line int) {
	c := b.waiting[line][0]
	b.waiting[line] = b.waiting[line][1:]
	b.grant(c)
	c.isWaiting = false
	close(c.granted)
}

// exceed lets one that waits exceed the limit, unless another one does.
func (b *Budget) exceed() {
	if b.over != nil {
		return
	}
	line := 0
	if len(b.waiting[0]) == 0 {
		line = 1
	}
	b.over = b.waiting[line][0]
	b.grantFirst(line)
}

// look is called from time to time while some wait.
func (b *Budget) look() {
	b.evictStalled()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Reset(stalledFor / 4)
	}
}

// evictStalled evicts frames that arrive too slowly, as many as those need that
// wait.
func (b *Budget) evictStalled() {
	for _, c := range b.stalled() {
		c.evict()
	}
}

// stalled returns claims to evict, those first that have been stalled longest. If
// nothing else can make room, one that waits may exceed the limit.
func (b *Budget) stalled() (victims []*Claim) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lack := b.lack()
	if lack <= 0 {
		return nil
	}
	before, isMoving := int64(now()-stalledFor), false
	for _, c := range b.all {
		isStalled := c.reading.Load() && c.seen.Load() < before
		switch {
		case c.isWaiting:
		case !isStalled || c.isEvicted:
			isMoving = true
		case c.evict != nil:
			victims = append(victims, c)
		}
	}
	if len(victims) == 0 && !isMoving {
		b.exceed()
	}
	slices.SortFunc(victims, func(x, y *Claim) int { return cmp.Compare(x.seen.Load(), y.seen.Load()) })
	for i, c := range victims {
		if lack <= 0 {
			return victims[:i]
		}
		c.isEvicted = true
		b.leaving += c.bytes
		lack -= c.bytes
	}
	return victims
}

// lack returns how many bytes have to become free for one of the first in line.
func (b *Budget) lack() (most int) {
	for i, line := range b.waiting {
		if len(line) > 0 {
			c := line[0]
			most = max(most, b.used-b.leaving-c.bytes+c.want-b.limitOf(i))
		}
	}
	return most
}

// Await says that the frame's next bytes are waited for.
func (c *Claim) Await() { c.reading.Store(true) }

// Arrived says that bytes have arrived.
func (c *Claim) Arrived(n int) {
	c.reading.Store(false)
	if c.arrived += n; c.arrived > c.frame/stalledPart {
		c.arrived = 0
		c.seen.Store(int64(now()))
	}
}

// Close gives back what the claim has.
func (c *Claim) Close() {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= c.bytes
	if c.isEvicted {
		b.leaving -= c.bytes
	}
	if b.over == c {
		b.over = nil
	}
	last := b.all[len(b.all)-1]
	b.all[c.place], last.place = last, c.place
	b.all = slices.Delete(b.all, len(b.all)-1, len(b.all))
	b.grantWaiting()
}

// Depth returns how many bytes are claimed, and how many claims wait.
func (b *Budget) Depth() (bytes, waiting int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used, len(b.waiting[0]) + len(b.waiting[1])
}
