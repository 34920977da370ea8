package supervisor

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

// whole is a drain that takes all the time it has.
func whole(until time.Time) <-chan struct{} {
	done := make(chan struct{})
	time.AfterFunc(max(time.Until(until), 0), func() { close(done) })
	return done
}

// Before the stop signal a failure is what it always is: made good by a restart,
// and no word on how the stop was taken.
func TestFailureBeforeTheStopSignal(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"drain delay": func(c *Config) { c.DrainDelay = 5 * time.Second },
		"drain":       func(c *Config) { c.Drain = whole },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.Restart = RestartOnFailure; change(c) }, func(w *world) {
				w.run()
				w.pool.Stop("SIGTERM")
				w.pass(time.Second)
				w.last(0).crash(3)
				w.pass(time.Second)
				w.want("processes", w.count(0), 2)
				w.want("code", w.wait(10*time.Second).Code, 0)
			})
		})
	}
}

// With never nothing makes it good.
func TestFailureOfAJobBeforeTheStopSignal(t *testing.T) {
	inWorld(t, func(c *Config) { c.Restart, c.DrainDelay = RestartNever, 5*time.Second }, func(w *world) {
		w.run()
		w.pool.Stop("SIGTERM")
		w.pass(time.Second)
		w.last(0).crash(3)
		w.want("code", w.wait(10*time.Second).Code, 3)
	})
}

// A worker that hangs is not one that the stop had to kill.
func TestWatchdogKillsDuringDrainDelay(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.DrainDelay, c.Watchdog = 1, 5*time.Second, 3*time.Second }, func(w *world) {
		w.obey = func(p *fakeProc, sig syscall.Signal) {
			if sig != syscall.SIGABRT {
				obedient(p, sig)
			}
		}
		w.run()
		w.pool.Stop("SIGTERM")
		w.pass(4500 * time.Millisecond)
		w.want("signals", w.nth(0, 0).got(), "[aborted killed]")
		r := w.wait(time.Minute)
		w.want("code", r.Code, 0)
		w.want("killed", r.Killed, 0)
	})
}

// A drain is for workers that can handle what there is.
func TestDrainEndsWithTheLastWorker(t *testing.T) {
	for name, tt := range map[string]struct {
		restart Restart
		code    int
		delay   time.Duration
		drain   func(time.Time) <-chan struct{}
	}{
		"never":                       {RestartNever, 3, 0, whole},
		"on-failure":                  {RestartOnFailure, 0, 0, whole},
		"in the delay":                {RestartNever, 0, 50 * time.Second, nil},
		"in the delay before a drain": {RestartNever, 0, 50 * time.Second, whole},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) {
				c.Restart, c.DrainDelay, c.Drain = tt.restart, tt.delay, tt.drain
				c.Workers, c.StopTimeout = 2, time.Minute
			}, func(w *world) {
				w.run()
				w.pool.Stop("SIGTERM")
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

// So does a pool that gives up meanwhile.
func TestGiveUpDuringDrain(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.GiveUp, c.Drain = 1, 2, whole }, func(w *world) {
		w.run()
		w.pool.Stop("SIGTERM")
		synctest.Wait()
		w.last(0).crash(4)
		w.pass(time.Second)
		w.last(0).crash(4)
		w.want("code", w.wait(time.Millisecond).Code, 4)
	})
}

// A reload that will not come is not shown.
func TestStopForgetsTheQueuedReload(t *testing.T) {
	inWorld(t, func(c *Config) { c.ReadyNotify, c.DrainDelay = true, 5*time.Second }, func(w *world) {
		w.run()
		w.pool.Reload("SIGUSR1")
		w.pool.Reload("SIGUSR1")
		w.pass(time.Millisecond)
		w.want("queued", w.pool.Stats().Reload.Queued, true)
		w.pool.Stop("SIGTERM")
		w.pass(time.Millisecond)
		w.want("queued", w.pool.Stats().Reload.Queued, false)
	})
}

// The watchdog is for the work: a start has a timeout of its own.
func TestWatchdogSleepsUntilReady(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.ReadyNotify, c.Watchdog = 1, true, 5*time.Second }, func(w *world) {
		w.run()
		p := w.last(0)
		p.say(notify.Message{Watchdog: true})
		w.pass(20 * time.Second)
		w.want("signals", p.got(), "[]")
		p.say(notify.Message{Ready: true})
		w.pass(4900 * time.Millisecond)
		w.want("signals", p.got(), "[]")
		w.pass(200 * time.Millisecond)
		w.want("signals", p.got(), "[aborted]")
	})
}

// What the worker asks for while it starts holds from when it is ready.
func TestWatchdogAskedForBeforeReady(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.ReadyNotify, c.Watchdog = 1, true, 5*time.Second }, func(w *world) {
		w.run()
		p := w.last(0)
		p.say(notify.Message{WatchdogInterval: time.Second})
		w.pass(20 * time.Second)
		p.say(notify.Message{Ready: true})
		w.want("signals", p.got(), "[]")
		w.pass(1100 * time.Millisecond)
		w.want("signals", p.got(), "[aborted]")
	})
}

// But whoever says that it hangs is believed at any time.
func TestWatchdogTriggeredBeforeReady(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.ReadyNotify, c.Watchdog = 1, true, 5*time.Second }, func(w *world) {
		w.run()
		w.last(0).say(notify.Message{WatchdogTrigger: true})
		w.pass(time.Millisecond)
		w.want("signals", w.nth(0, 0).got(), "[aborted]")
	})
}

// A worker that stops before it has stayed up for long enough is never ready.
func TestStoppingBeforeSettled(t *testing.T) {
	for _, notified := range []bool{false, true} {
		inWorld(t, func(c *Config) { c.Workers, c.ReadyNotify, c.MinReady = 1, notified, 2*time.Second }, func(w *world) {
			p := w.runReady()
			w.pass(time.Second)
			p.say(notify.Message{Stopping: true})
			p.say(notify.Message{Ready: true})
			w.pass(5 * time.Second)
			w.want("state", w.pool.Stats().Workers[0].State, Stopping)
			w.want("fed", p.fed.Load(), false)
		})
	}
}

// Slots that retire while a helpless stop drains are no further reason to stop.
func TestHelplessStopBeginsOnce(t *testing.T) {
	inWorld(t, func(c *Config) {
		c.Drain = func(until time.Time) <-chan struct{} { return whole(time.Now().Add(time.Second)) }
	}, func(w *world) {
		w.set(func() { w.refuse = func(Identity) error { return errNoFile } })
		w.run()
		r := w.wait(time.Minute)
		w.want("code", r.Code, 127)
		w.want("took", r.Took, time.Second)
		w.want("lines", strings.Count(w.log.String(), `"message":"stopping"`), 0)
	})
}
