package supervisor

import (
	"testing"
	"time"

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
