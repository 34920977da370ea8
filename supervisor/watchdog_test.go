package supervisor

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/reaper/awake"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// The watchdog is for the work: a start has a timeout of its own.
func TestWatchdogSleepsUntilReady(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.Ready, c.Watchdog = 1, ReadyNotify, 5*time.Second }, func(w *world) {
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
	inWorld(t, func(c *Config) { c.Workers, c.Ready, c.Watchdog = 1, ReadyNotify, 5*time.Second }, func(w *world) {
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
	inWorld(t, func(c *Config) { c.Workers, c.Ready, c.Watchdog = 1, ReadyNotify, 5*time.Second }, func(w *world) {
		w.run()
		w.last(0).say(notify.Message{WatchdogTrigger: true})
		w.pass(time.Millisecond)
		w.want("signals", w.nth(0, 0).got(), "[aborted]")
	})
}

// A worker that stops before it has stayed up for long enough is never ready.
func TestStoppingBeforeSettled(t *testing.T) {
	for _, ready := range []Readiness{ReadyStarted, ReadyNotify} {
		inWorld(t, func(c *Config) { c.Workers, c.Ready, c.MinReady = 1, ready, 2*time.Second }, func(w *world) {
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

// What a worker had to do until a deadline it has time for once more if this
// program slept before: a paused container, or a suspended machine.
func TestSleepGrantsDeadlinesAgain(t *testing.T) {
	const sleep = time.Hour
	for name, tt := range map[string]struct {
		config func(*Config)
		before func(*world) // the sleep
		limit  time.Duration
		signal string // what it gets when the limit is over
	}{
		"watchdog": {func(c *Config) { c.Watchdog = 4 * time.Second }, func(w *world) { w.last(0).say(notify.Message{Ready: true}) }, 4 * time.Second, "[aborted]"},
		"ready":    {func(c *Config) { c.ReadyTimeout = 20 * time.Second }, func(*world) {}, 20 * time.Second, "[terminated]"},
		"stop":     {func(*Config) {}, func(w *world) { w.pool.Stop("SIGTERM") }, 8 * time.Second, "[terminated killed]"},
		"kill":     {func(*Config) {}, func(w *world) { w.last(0).ask(AskBroken) }, 8 * time.Second, "[terminated killed]"},
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64 // of the bubble's clock
			inWorld(t, func(c *Config) {
				c.Workers, c.Ready = 1, ReadyNotify
				c.Awake = awake.New(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }, nil)
				tt.config(c)
			}, func(w *world) {
				w.obey = deaf
				w.run()
				tt.before(w)
				synctest.Wait()
				was := w.last(0).got()
				w.pass(tt.limit - time.Second)
				ahead.Add(int64(sleep))
				w.pass(tt.limit) // a second before its time is over again
				w.want("signals", w.last(0).got(), was)
				w.pass(time.Second)
				w.want("signals", w.last(0).got(), tt.signal)
			})
		})
	}
}
