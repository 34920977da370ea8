package daemon

import (
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/supervisor"
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
func inBacklog(t *testing.T, change func(*setup), f func(*world, *backlog)) {
	t.Helper()
	b := new(backlog)
	inWorld(t, func(c *setup) {
		c.Pool.Workers, c.Pool.RestartDelay, c.Pool.RestartDelayMax, c.Pool.StopTimeout = 1, 20*time.Second, time.Minute, 4*time.Second
		c.waits, c.drain = b.waits.Load, b.drain
		if change != nil {
			change(c)
		}
	}, func(w *world) { f(w, b) })
}

// Messages that wait when the stop begins are handled, though their worker would
// have come back too late.
func TestDrainDoesNotBackOff(t *testing.T) {
	inBacklog(t, nil, func(w *world, b *backlog) {
		w.run()
		b.waits.Store(true)
		w.last(0).crash(1)
		w.pass(time.Second)
		w.want("processes", w.count(0), 1)
		w.stop()
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

// A backoff is skipped also when the worker dies, or the message arrives, during
// the drain.
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
				w.stop()
				w.pass(time.Second)
				w.want("processes", w.count(0), 1)
				tt.later(w, b)
				w.pass(backoffTick)
				w.want("processes", w.count(0), 2)
			})
		})
	}
}

// Without a message that waits no worker is started. The drain still waits for
// what is in hand.
func TestDrainWithoutBacklogStartsNoWorker(t *testing.T) {
	inBacklog(t, nil, func(w *world, b *backlog) {
		w.run()
		w.last(0).crash(1)
		w.stop()
		r := w.wait(time.Minute)
		w.want("took", r.Took, 3500*time.Millisecond)
		w.want("processes", w.count(0), 1)
	})
}

// A slot skips one backoff. When all have, and no worker comes back in time, the
// drain ends.
func TestDrainEndsWhenNoWorkerComesBack(t *testing.T) {
	inBacklog(t, func(c *setup) { c.Pool.Workers = 2 }, func(w *world, b *backlog) {
		w.run()
		b.waits.Store(true)
		w.last(0).crash(1)
		w.last(1).crash(1)
		w.stop()
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
	inBacklog(t, func(c *setup) { c.Pool.RestartDelay = time.Second }, func(w *world, b *backlog) {
		w.run()
		b.waits.Store(true)
		w.last(0).crash(1)
		w.stop()
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
			w.refuse = func(supervisor.Identity) error {
				time.Sleep(time.Second)
				return nil
			}
		})
		w.stop()
		w.pass(1500 * time.Millisecond)
		w.want("processes", w.count(0), 2)
		w.want("fed", w.last(0).fed.Load(), true)
	})
}

// A place that is empty for good stays so.
func TestDrainRevivesNoWorker(t *testing.T) {
	inBacklog(t, func(c *setup) { c.Pool.Workers, c.Pool.Restart = 2, supervisor.RestartNever }, func(w *world, b *backlog) {
		w.run()
		b.waits.Store(true)
		w.last(0).die(0, syscall.SIGSEGV)
		w.stop()
		w.pass(time.Second)
		w.want("processes", []int{w.count(0), w.count(1)}, []int{1, 1})
		w.want("ended with one at work", len(w.result), 0)
	})
}
