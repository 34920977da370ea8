// Package awake tells a deadline that was missed from one that passed while this
// program did not run: the container was paused, the program was stopped by
// SIGSTOP, or the whole machine slept. Then a process that was to do something
// until the deadline may have had no chance, and the deadline is granted once more.
//
// A Watch looks at the clock every half second, as long as a deadline that it
// covers is ahead, so that an idle program never wakes up for it. When much more
// than half a second has gone by between two looks, the program has slept. A Timer
// asks its Watch before it fires.
//
// The clock is the monotonic one, which goes on during docker pause and SIGSTOP. It
// stands still while a machine is suspended, and then so do all timers.
package awake

import (
	"sync"
	"time"
)

// tick is how often a Watch looks at the clock, and least how much later than that
// a look must be for the program to have slept. A shorter sleep is not noticed, and
// a machine so busy that this program does not run for so long counts as one.
const (
	tick  = 500 * time.Millisecond
	least = time.Second
)

// A Watch notices when this program sleeps. A nil Watch never does. Its methods may
// be called from any goroutine.
type Watch struct {
	now   func() time.Time
	slept func(time.Duration)

	mu    sync.Mutex
	last  time.Time   // when the clock was looked at
	until time.Time   // no deadline is later
	beat  *time.Timer // the next look; nil: there is none
	naps  uint64
}

// New returns a Watch. now is time.Now, except in tests. slept, if not nil, is told
// of each sleep, and how long it was. It must not block or call the Watch.
func New(now func() time.Time, slept func(time.Duration)) *Watch {
	return &Watch{now: now, slept: slept}
}

// Cover has the Watch look at the clock for this long, because a deadline ends then.
func (w *Watch) Cover(d time.Duration) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if w.beat == nil {
		w.last = now
		w.beat = time.AfterFunc(tick, w.look)
	}
	if until := now.Add(d); until.After(w.until) {
		w.until = until
	}
}

// Naps returns how often the program has slept, this moment included. It notices a
// sleep only while a deadline is covered.
func (w *Watch) Naps() uint64 {
	if w == nil {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.beat != nil {
		w.check()
	}
	return w.naps
}

func (w *Watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.check()
	if w.last.After(w.until) {
		w.beat = nil
		return
	}
	w.beat.Reset(tick)
}

// check looks at the clock. The caller holds mu.
func (w *Watch) check() {
	now := w.now()
	gap := now.Sub(w.last)
	w.last = now
	if gap <= tick+least {
		return
	}
	w.naps++
	if w.slept != nil {
		w.slept(gap)
	}
}

// A Timer is a deadline for what others do: see AfterFunc.
type Timer struct {
	watch *Watch
	limit time.Duration
	f     func()

	mu    sync.Mutex
	timer *time.Timer
	naps  uint64 // when the deadline was set
	round int    // how often it was set: what fires late for an earlier one has no effect
}

// AfterFunc calls f in a goroutine of its own when the time has elapsed. If the
// program has slept meanwhile, the time is granted once more.
func (w *Watch) AfterFunc(d time.Duration, f func()) *Timer {
	t := &Timer{watch: w, f: f}
	t.Reset(d)
	return t
}

// After is AfterFunc for a channel, which yields once.
func (w *Watch) After(d time.Duration) <-chan struct{} {
	c := make(chan struct{}, 1) // 1: the timer never waits for the reader
	w.AfterFunc(d, func() { c <- struct{}{} })
	return c
}

// Reset sets the deadline anew.
func (t *Timer) Reset(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = d
	t.set()
}

// Stop ends the timer: f is not called any more, unless it has been called already.
func (t *Timer) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer.Stop()
	t.round++
}

// set starts the time. The caller holds mu.
func (t *Timer) set() {
	t.watch.Cover(t.limit)
	t.naps = t.watch.Naps()
	if t.timer != nil {
		t.timer.Stop()
	}
	t.round++
	round := t.round
	t.timer = time.AfterFunc(t.limit, func() { t.fire(round) })
}

func (t *Timer) fire(round int) {
	if t.isOver(round) {
		t.f()
	}
}

// isOver reports whether the deadline has passed. If the program slept, the time
// starts again.
func (t *Timer) isOver(round int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if round != t.round {
		return false
	}
	if t.watch.Naps() != t.naps {
		t.set()
		return false
	}
	return true
}
