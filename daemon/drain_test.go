package daemon

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/supervisor"
)

// whole is a drain that takes all the time it has.
func whole(until time.Time) <-chan struct{} {
	done := make(chan struct{})
	time.AfterFunc(max(time.Until(until), 0), func() { close(done) })
	return done
}

// Before the stop signal a failure is what it always is: a restart follows, and
// the exit code does not tell of it.
func TestFailureBeforeTheStopSignal(t *testing.T) {
	for name, change := range map[string]func(*setup){
		"drain delay": func(c *setup) { c.DrainDelay = 5 * time.Second },
		"drain":       func(c *setup) { c.drain = whole },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *setup) { c.Pool.Restart = supervisor.RestartOnFailure; change(c) }, func(w *world) {
				w.run()
				w.stop()
				w.pass(time.Second)
				w.last(0).crash(3)
				w.pass(time.Second)
				w.want("processes", w.count(0), 2)
				w.want("code", w.wait(10*time.Second).Code, 0)
			})
		})
	}
}

// With --restart never no restart follows, and the exit code is the failure's.
func TestFailureOfAJobBeforeTheStopSignal(t *testing.T) {
	inWorld(t, func(c *setup) { c.Pool.Restart, c.DrainDelay = supervisor.RestartNever, 5*time.Second }, func(w *world) {
		w.run()
		w.stop()
		w.pass(time.Second)
		w.last(0).crash(3)
		w.want("code", w.wait(10*time.Second).Code, 3)
	})
}

// A worker that the watchdog kills is not counted as one that the stop had to
// kill.
func TestWatchdogKillsDuringDrainDelay(t *testing.T) {
	inWorld(t, func(c *setup) { c.Pool.Workers, c.DrainDelay, c.Pool.Watchdog = 1, 5*time.Second, 3*time.Second }, func(w *world) {
		w.obey = func(p *fakeProc, sig syscall.Signal) {
			if sig != syscall.SIGABRT {
				obedient(p, sig)
			}
		}
		w.run()
		w.stop()
		w.pass(4500 * time.Millisecond)
		w.want("signals", w.of(0)[0].got(), "[aborted killed]")
		r := w.wait(time.Minute)
		w.want("code", r.Code, 0)
		w.want("killed", r.Killed, 0)
	})
}

// A drain ends when no worker is left that could handle a message.
func TestDrainEndsWithTheLastWorker(t *testing.T) {
	for name, tt := range map[string]struct {
		restart supervisor.Restart
		code    int
		delay   time.Duration
		drain   func(time.Time) <-chan struct{}
	}{
		"never":                       {supervisor.RestartNever, 3, 0, whole},
		"on-failure":                  {supervisor.RestartOnFailure, 0, 0, whole},
		"in the delay":                {supervisor.RestartNever, 0, 50 * time.Second, nil},
		"in the delay before a drain": {supervisor.RestartNever, 0, 50 * time.Second, whole},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *setup) {
				c.Pool.Restart, c.DrainDelay, c.drain = tt.restart, tt.delay, tt.drain
				c.Pool.Workers, c.Pool.StopTimeout = 2, time.Minute
			}, func(w *world) {
				w.run()
				w.stop()
				w.pass(time.Second)
				w.last(0).crash(tt.code)
				w.pass(time.Second)
				w.want("ended with one at work", len(w.result), 0)
				w.last(1).crash(0)
				r := w.wait(time.Millisecond)
				w.want("code", r.Code, tt.code)
				w.want("took", r.Took, 2*time.Second)
			})
		})
	}
}

// A pool that gives up during the drain does not drain any longer.
func TestGiveUpDuringDrain(t *testing.T) {
	inWorld(t, func(c *setup) { c.Pool.Workers, c.Pool.GiveUp, c.drain = 1, 2, whole }, func(w *world) {
		w.run()
		w.stop()
		synctest.Wait()
		w.last(0).crash(4)
		w.pass(time.Second)
		w.last(0).crash(4)
		w.want("code", w.wait(time.Millisecond).Code, 4)
	})
}

// A reload that was queued is not shown any more when the pool stops.
func TestStopForgetsTheQueuedReload(t *testing.T) {
	inWorld(t, func(c *setup) { c.Pool.Ready, c.DrainDelay = supervisor.ReadyNotify, 5*time.Second }, func(w *world) {
		w.run()
		w.d.pool.Reload("SIGUSR1")
		w.d.pool.Reload("SIGUSR1")
		w.pass(time.Millisecond)
		w.want("queued", w.d.pool.Stats().Reload.Queued, true)
		w.stop()
		w.pass(time.Millisecond)
		w.want("queued", w.d.pool.Stats().Reload.Queued, false)
	})
}

// Slots that retire while a helpless stop drains are no further reason to stop.
func TestHelplessStopBeginsOnce(t *testing.T) {
	inWorld(t, func(c *setup) {
		c.drain = func(until time.Time) <-chan struct{} { return whole(time.Now().Add(time.Second)) }
	}, func(w *world) {
		w.set(func() { w.refuse = func(supervisor.Identity) error { return errNoFile } })
		w.run()
		r := w.wait(time.Minute)
		w.want("code", r.Code, 127)
		w.want("took", r.Took, time.Second)
		w.want("lines", strings.Count(w.log.String(), `"message":"stopping"`), 0)
	})
}

// A drain that hangs is given up at the deadline.
func TestStopWhenDrainHangs(t *testing.T) {
	inWorld(t, func(c *setup) {
		c.drain = func(time.Time) <-chan struct{} { return make(chan struct{}) }
	}, func(w *world) {
		w.run()
		w.stop()
		w.want("code", w.wait(9*time.Second).Code, 137)
	})
}

// The workers are asked to stop when nothing is left to do, and at the latest
// when just enough time is left for them.
func TestStopDrains(t *testing.T) {
	for name, tt := range map[string]struct {
		drained time.Duration
		took    time.Duration
	}{
		"at once": {0, 10 * time.Millisecond},
		"in time": {3 * time.Second, 3*time.Second + 10*time.Millisecond},
		"late":    {time.Hour, 7*time.Second + 10*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *setup) {
				c.drain = func(until time.Time) <-chan struct{} {
					done := make(chan struct{})
					time.AfterFunc(min(tt.drained, time.Until(until)), func() { close(done) })
					return done
				}
			}, func(w *world) {
				w.run()
				w.stop()
				synctest.Wait()
				w.last(0).crash(1) // a worker that dies meanwhile is replaced, to handle the rest
				w.want("took", w.wait(time.Minute).Took, tt.took)
				if tt.drained > time.Second && w.count(0) < 2 {
					t.Error("not replaced during the drain")
				}
			})
		})
	}
}

// No worker is left that could handle anything, so there is nothing to wait for.
func TestGiveUpDoesNotDrain(t *testing.T) {
	inWorld(t, func(c *setup) {
		c.Pool.Workers, c.Pool.GiveUp = 1, 1
		c.drain = func(until time.Time) <-chan struct{} {
			done := make(chan struct{})
			time.AfterFunc(max(time.Until(until), 0), func() { close(done) })
			return done
		}
	}, func(w *world) {
		w.run()
		w.last(0).crash(4)
		w.want("code", w.wait(time.Millisecond).Code, 4)
	})
}

func TestSecondStopDuringDrain(t *testing.T) {
	inWorld(t, func(c *setup) {
		c.drain = func(time.Time) <-chan struct{} { return make(chan struct{}) }
	}, func(w *world) {
		w.obey = deaf
		w.run()
		w.stop()
		w.pass(time.Second)
		w.stopNow()
		w.want("code", w.wait(time.Millisecond).Code, 137)
	})
}

func TestSecondStopKillsAtOnce(t *testing.T) {
	for _, drain := range []time.Duration{0, 5 * time.Second} {
		inWorld(t, func(c *setup) { c.DrainDelay = drain }, func(w *world) {
			w.obey = deaf
			w.run()
			w.stop()
			w.pass(time.Second)
			w.want("alive", w.alive(), 3)
			w.stopNow()
			r := w.wait(time.Millisecond)
			w.want("code", r.Code, 137)
			w.want("killed", r.Killed, 3)
		})
	}
}

func TestDrainDelay(t *testing.T) {
	inWorld(t, func(c *setup) { c.DrainDelay = 2 * time.Second; c.Pool.StopTimeout = 3 * time.Second }, func(w *world) {
		w.run()
		w.stop()
		w.pass(1900 * time.Millisecond)
		w.want("signals", w.last(0).got(), "[]")
		w.last(0).crash(1) // still serving, so still restarted
		w.pass(90 * time.Millisecond)
		w.d.pool.Reload("SIGUSR1") // but not reloaded
		w.pass(9 * time.Millisecond)
		w.want("generation", w.d.pool.Generation(), 1)
		r := w.wait(time.Minute)
		w.want("signals", w.last(1).got(), "[terminated]")
		w.want("took", r.Took < 3*time.Second, true)
	})
}

// The drain is part of the stop timeout, not before it.
func TestDrainCountsAgainstStopTimeout(t *testing.T) {
	inWorld(t, func(c *setup) { c.DrainDelay = 2 * time.Second; c.Pool.StopTimeout = 3 * time.Second }, func(w *world) {
		w.obey = deaf
		w.run()
		w.stop()
		w.want("took", w.wait(time.Minute).Took, 3*time.Second)
	})
}
