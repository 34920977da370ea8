package supervisor

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

// A worker is fed from when it is ready until it is asked to stop, or says that
// it stops.
func TestFedWhileReady(t *testing.T) {
	inWorld(t, func(c *Config) { c.Ready = ReadyNotify; c.Workers = 1 }, func(w *world) {
		w.run()
		p := w.last(0)
		w.want("fed while starting", p.fed.Load(), false)
		p.say(notify.Message{Ready: true})
		w.want("fed when ready", p.fed.Load(), true)
		p.say(notify.Message{Stopping: true})
		w.want("fed when stopping", p.fed.Load(), false)
	})
}

// Messages in hand are finished before the stop signal; but when little time is
// left, the worker hears of it before it is killed.
func TestStopWaitsForMessagesInHand(t *testing.T) {
	for name, tt := range map[string]struct {
		after time.Duration // until it answers
		obey  func(*fakeProc, syscall.Signal)
		want  string
		took  time.Duration
	}{
		"answers":       {3 * time.Second, obedient, "[terminated]", 3*time.Second + 10*time.Millisecond},
		"never answers": {time.Hour, obedient, "[terminated]", 7*time.Second + 10*time.Millisecond},
		"and is deaf":   {time.Hour, deaf, "[terminated killed]", 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
				w.obey = tt.obey
				w.run()
				p := w.last(0)
				p.inHand = make(chan struct{})
				answer := time.AfterFunc(tt.after, func() { close(p.inHand) })
				defer answer.Stop()
				w.pool.Stop("SIGTERM")
				w.want("took", w.wait(time.Minute).Took, tt.took)
				w.want("signals", p.got(), tt.want)
			})
		})
	}
}

func TestRecycledByMessages(t *testing.T) {
	for _, startFirst := range []bool{false, true} {
		inWorld(t, func(c *Config) { c.StartFirst = startFirst }, func(w *world) {
			w.run()
			w.last(1).ask(AskRecycle)
			w.pass(time.Minute)
			w.want("processes", []int{w.count(0), w.count(1), w.count(2)}, []int{1, 2, 1})
			if !w.logged(`"why":"max-messages"`) || w.logged(`"level":"warn"`) {
				t.Error(w.log.String())
			}
		})
	}
}

// A worker that says a lot does not fill the log: a few lines, and then one with
// how many there were and the last one. What is shown is always the last one.
func TestManyStatuses(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		const all = 10_000
		for i := range all {
			w.last(0).say(notify.Message{Status: fmt.Sprintf("message %d", i)})
		}
		synctest.Wait()
		w.want("shown", w.pool.Stats().Workers[0].Status, "message 9999")
		w.want("lines", strings.Count(w.log.String(), "worker status"), mostStatuses)
		w.pass(time.Minute)
		w.want("lines in a minute", strings.Count(w.log.String(), "worker status"), mostStatuses+1)
		w.want("summary", w.logged(fmt.Sprintf(`"count":%d,"status":"message 9999"`, all-mostStatuses)), true)
	})
}

// A worker that fails at too many messages in a row is replaced. That is a
// warning, but no failure of its slot.
func TestRecycledByFailures(t *testing.T) {
	for _, startFirst := range []bool{false, true} {
		inWorld(t, func(c *Config) { c.StartFirst, c.GiveUp = startFirst, 1 }, func(w *world) {
			w.run()
			p := w.last(1)
			p.asks <- AskFailing
			p.ask(AskRecycle) // it is due already
			w.pass(time.Minute)
			w.want("processes", []int{w.count(0), w.count(1), w.count(2)}, []int{1, 2, 1})
			w.want("failures", w.pool.Stats().Workers[1].Failures, 0)
			w.want("exits", w.pool.Stats().Exits, map[Cause]uint64{Failing: 1})
			w.want("logged", w.logged("worker failed too many messages in a row, replacing it"), true)
		})
	}
}

func TestMessageTimeoutSignal(t *testing.T) {
	inWorld(t, func(c *Config) { c.TimeoutSignal = syscall.SIGQUIT }, func(w *world) {
		w.obey = deaf
		w.run()
		p := w.last(0)
		p.inHand = make(chan struct{}) // nobody waits for what it has in hand
		p.ask(AskTimeout)
		w.want("signals", p.got(), "[quit]")
		w.pass(killGrace)
		w.want("signals", p.got(), "[quit killed]")
		w.pass(time.Second)
		w.want("processes", w.count(0), 2)
		w.want("logged", w.logged(`"why":"message-timeout"`), true)
	})
}

func TestBrokenProtocol(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		w.last(0).ask(AskBroken)
		w.want("signals", w.last(0).got(), "[terminated]")
		w.pass(time.Second)
		w.want("processes", w.count(0), 2)
		w.want("logged", w.logged(`"why":"protocol"`), true)
	})
}

// A detached worker is replaced at once, may finish what it does, and still
// hears of the stop.
func TestDetach(t *testing.T) {
	inWorld(t, func(c *Config) { c.MaxLifetime = time.Hour; c.Watchdog = time.Minute }, func(w *world) {
		w.run()
		w.pass(shortLife)
		first := w.last(0)
		first.ask(AskDetach)
		synctest.Wait()
		w.want("processes", w.count(0), 2)
		second := w.last(0)
		w.pass(shortLife)
		second.say(notify.Message{Watchdog: true})
		second.ask(AskDetach)
		synctest.Wait()
		w.pass(10 * time.Second) // no watchdog, no lifetime
		w.want("alive", w.alive(), 5)
		first.crash(3)
		w.pass(time.Second)
		w.want("processes", w.count(0), 3)
		w.want("warnings", w.logged(`"level":"warn"`), false)
		w.pool.Stop("SIGTERM")
		w.want("code", w.wait(time.Second).Code, 0)
		w.want("signals", second.got(), "[terminated]")
	})
}

// What a detached worker status of itself starts no watchdog again.
func TestDetachedHasNoWatchdog(t *testing.T) {
	inWorld(t, func(c *Config) { c.Watchdog = time.Minute; c.Workers = 1 }, func(w *world) {
		w.run()
		p := w.last(0)
		p.ask(AskDetach)
		synctest.Wait()
		p.say(notify.Message{Watchdog: true})
		w.pass(50 * time.Second)
		w.last(0).say(notify.Message{Watchdog: true}) // its successor's
		w.pass(50 * time.Second)
		w.want("signals", p.got(), "[]")
	})
}

// A command that always closes its channel at once is no fork bomb.
func TestDetachLoopBacksOff(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
		w.run()
		asked := make(map[*fakeProc]bool)
		for range 600 {
			if p := w.last(0); !asked[p] {
				asked[p] = true
				p.ask(AskDetach)
			}
			w.pass(100 * time.Millisecond)
		}
		if n := w.count(0); n < 3 || n > 12 {
			t.Errorf("%d processes in a minute", n)
		}
	})
}

// A worker that finishes for a reload is still held to the message timeout.
func TestMessageTimeoutWhileFinishing(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 1; c.TimeoutSignal = syscall.SIGKILL }, func(w *world) {
		w.run()
		p := w.last(0)
		p.inHand = make(chan struct{})
		w.pool.Reload("SIGUSR1")
		w.pass(time.Second)
		w.want("signals", p.got(), "[]")
		p.ask(AskTimeout)
		w.want("signals", p.got(), "[killed]")
		w.want("why", w.logged(`"why":"message-timeout"`), true)
	})
}

func TestDetachDuringReload(t *testing.T) {
	for _, startFirst := range []bool{false, true} {
		inWorld(t, func(c *Config) { c.StartFirst = startFirst; c.Ready = ReadyNotify; c.Workers = 1 }, func(w *world) {
			w.run()
			w.last(0).say(notify.Message{Ready: true})
			w.pool.Reload("SIGUSR1")
			w.pass(20 * time.Millisecond)
			w.last(0).ask(AskDetach) // the new one, before it is ready
			w.pass(time.Minute)
			w.last(0).say(notify.Message{Ready: true})
			w.pass(time.Second)
			w.want("a worker has the place", w.pool.places.all[0].cur != nil, true)
		})
	}
}

// What a worker says is read until its end: poolinit notify waits for that.
func TestWorkerSpeaksWhileItStops(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
		w.obey = deaf
		w.run()
		w.pool.Stop("test")
		w.pass(time.Second)
		began := time.Now()
		p := w.last(0)
		p.say(notify.Message{Status: "tidying up"})
		p.say(notify.Message{}) // a BARRIER
		w.want("how long it took to be heard", time.Since(began), time.Duration(0))
		w.want("its status", w.pool.Stats().Workers[0].Status, "tidying up")
		close(p.notices) // it may be, at any time
		w.want("killed", w.wait(time.Minute).Killed, 1)
	})
}
