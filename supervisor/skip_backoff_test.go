package supervisor

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A backlog is messages that wait, until the test says that they are handled.
type backlog struct {
	waits   atomic.Bool
	drained func() // ends the drain
}

func (b *backlog) handled() {
	b.waits.Store(false)
	b.drained()
}

func (b *backlog) drain(until time.Time) <-chan struct{} {
	done := make(chan struct{})
	b.drained = sync.OnceFunc(func() { close(done) })
	time.AfterFunc(max(time.Until(until), 0), b.drained)
	return done
}

// inBacklog runs f with a pool whose workers back off for longer than a stop
// takes, of which a drain has 3.5 s.
func inBacklog(t *testing.T, change func(*Config), f func(*world, *backlog)) {
	t.Helper()
	b := new(backlog)
	inWorld(t, func(c *Config) {
		c.Workers, c.RestartDelay, c.RestartDelayMax, c.StopTimeout = 1, 20*time.Second, time.Minute, 4*time.Second
		c.Waiting, c.Drain = b.waits.Load, b.drain
		if change != nil {
			change(c)
		}
	}, func(w *world) { f(w, b) })
}

// What waits when the stop begins is handled, though its worker would have come
// back too late.
func TestDrainDoesNotBackOff(t *testing.T) {
	inBacklog(t, nil, func(w *world, b *backlog) {
		w.run()
		b.waits.Store(true)
		w.last(0).crash(1)
		w.pass(time.Second)
		w.want("processes", w.count(0), 1)
		w.pool.Stop("SIGTERM")
		synctest.Wait()
		w.want("processes", w.count(0), 2)
		w.want("fed", w.last(0).fed.Load(), true)
		w.pass(time.Second)
		b.handled()
		r := w.wait(time.Second)
		w.want("code", r.Code, 0)
		w.want("took", r.Took, time.Second+10*time.Millisecond)
	})
}

// Nor does it when the worker dies, or the message arrives, while it drains.
func TestDrainSkipsBackoffLater(t *testing.T) {
	dies := func(w *world, _ *backlog) { w.last(0).crash(1) }
	arrives := func(_ *world, b *backlog) { b.waits.Store(true) }
	for name, tt := range map[string]struct{ before, later func(*world, *backlog) }{
		"dies":    {arrives, dies},
		"arrives": {dies, arrives},
	} {
		t.Run(name, func(t *testing.T) {
			inBacklog(t, nil, func(w *world, b *backlog) {
				w.run()
				tt.before(w, b)
				w.pool.Stop("SIGTERM")
				w.pass(time.Second)
				w.want("processes", w.count(0), 1)
				tt.later(w, b)
				w.pass(backoffTick)
				w.want("processes", w.count(0), 2)
			})
		})
	}
}

// No worker is started for nothing, and what is in hand elsewhere is waited for.
func TestDrainWithoutBacklogStartsNoWorker(t *testing.T) {
	inBacklog(t, nil, func(w *world, b *backlog) {
		w.run()
		w.last(0).crash(1)
		w.pool.Stop("SIGTERM")
		r := w.wait(time.Minute)
		w.want("took", r.Took, 3500*time.Millisecond)
		w.want("processes", w.count(0), 1)
	})
}

// A slot skips one backoff. When all have, and no worker comes back in time, the
// drain ends.
func TestDrainEndsWhenNoWorkerComesBack(t *testing.T) {
	inBacklog(t, func(c *Config) { c.Workers = 2 }, func(w *world, b *backlog) {
		w.run()
		b.waits.Store(true)
		w.last(0).crash(1)
		w.last(1).crash(1)
		w.pool.Stop("SIGTERM")
		synctest.Wait()
		w.last(0).crash(1)
		w.pass(time.Second)
		w.want("processes", []int{w.count(0), w.count(1)}, []int{2, 2})
		w.want("ended with one at work", len(w.result), 0)
		w.last(1).crash(1)
		w.want("code", w.wait(2*backoffTick).Code, 0)
		w.want("processes", []int{w.count(0), w.count(1)}, []int{2, 2})
	})
}

// A worker that comes back in time is waited for.
func TestDrainWaitsForAShortBackoff(t *testing.T) {
	inBacklog(t, func(c *Config) { c.RestartDelay = time.Second }, func(w *world, b *backlog) {
		w.run()
		b.waits.Store(true)
		w.last(0).crash(1)
		w.pool.Stop("SIGTERM")
		synctest.Wait()
		w.last(0).crash(1)
		w.pass(1500 * time.Millisecond)
		w.want("processes", w.count(0), 2)
		w.pass(time.Second)
		w.want("processes", w.count(0), 3)
	})
}

// A slot whose start takes its time is not given up.
func TestDrainWaitsForASlowStart(t *testing.T) {
	inBacklog(t, nil, func(w *world, b *backlog) {
		w.run()
		b.waits.Store(true)
		w.last(0).crash(1)
		w.set(func() {
			w.refuse = func(Identity) error {
				w.mu.Unlock() // a goroutine that waits for it would stop the time of the bubble
				defer w.mu.Lock()
				time.Sleep(time.Second)
				return nil
			}
		})
		w.pool.Stop("SIGTERM")
		w.pass(1500 * time.Millisecond)
		w.want("processes", w.count(0), 2)
		w.want("fed", w.last(0).fed.Load(), true)
	})
}

// A place that is empty for good stays so.
func TestDrainRevivesNoWorker(t *testing.T) {
	inBacklog(t, func(c *Config) { c.Workers, c.Restart = 2, RestartNever }, func(w *world, b *backlog) {
		w.run()
		b.waits.Store(true)
		w.last(0).die(0, syscall.SIGSEGV)
		w.pool.Stop("SIGTERM")
		w.pass(time.Second)
		w.want("processes", []int{w.count(0), w.count(1)}, []int{1, 1})
		w.want("ended with one at work", len(w.result), 0)
	})
}
