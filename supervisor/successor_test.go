package supervisor

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

// startFirst is a pool of one worker that is replaced by a successor.
func startFirst(change func(*Config)) func(*Config) {
	return func(c *Config) {
		c.Workers, c.StartFirst, c.Ready = 1, true, ReadyNotify
		if change != nil {
			change(c)
		}
	}
}

// runReady starts the pool, and returns its worker when that is ready.
func (w *world) runReady() *fakeProc {
	w.run()
	p := w.last(0)
	p.say(notify.Message{Ready: true})
	return p
}

// failSuccessors lets time pass in which every new worker dies after a second.
func (w *world) failSuccessors(old *fakeProc, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		w.pass(time.Second)
		if p := w.last(0); p != old {
			p.crash(1)
		}
	}
}

// While the old worker serves, its slot works, however often successors fail.
func TestFailingSuccessorsAreNoReasonToGiveUp(t *testing.T) {
	for name, due := range map[string]func(*world, *fakeProc){
		"lifetime": func(w *world, old *fakeProc) { w.failSuccessors(old, 3*time.Hour) },
		"reloads": func(w *world, old *fakeProc) {
			for range 5 {
				w.pool.Reload("SIGHUP")
				w.failSuccessors(old, 2*time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, startFirst(func(c *Config) { c.GiveUp = 3; c.MaxLifetime = time.Hour }), func(w *world) {
				old := w.runReady()
				due(w, old)
				w.want("alive", old.alive(), true)
				w.want("failures", w.pool.Stats().Workers[0].Failures, 0)
				if n := w.count(0); n < 6 || n > 500 {
					t.Errorf("%d processes: the tries keep no decent pace", n)
				}
				old.crash(1) // and now the slot fails
				for range 3 {
					w.pass(time.Second)
					w.last(0).crash(7)
				}
				w.want("code", w.wait(time.Minute).Code, 7)
			})
		})
	}
}

// Nobody will ever hear whether a successor that has closed its channel is ready.
func TestSuccessorDetachesBeforeItIsReady(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"notify":    nil,
		"min-ready": func(c *Config) { c.Ready, c.MinReady = ReadyStarted, time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, startFirst(change), func(w *world) {
				old := w.runReady()
				w.pass(time.Minute)
				told := w.pool.ReloadWait("SIGUSR1")
				w.pass(time.Millisecond)
				next := w.last(0)
				next.ask(AskDetach)
				synctest.Wait()
				w.want("signals", next.got(), "[terminated]")
				w.pass(10 * time.Millisecond)
				w.want("result", (<-told).Reason, "new worker 0 is not ready: it closed its channel before it was ready")
				w.want("signals of the old one", old.got(), "[]")
				w.pass(time.Minute)
				w.want("processes", w.count(0), 2)
			})
		})
	}
}

// The old worker dies while such a successor is being stopped.
func TestOldDiesWhileSpoiltSuccessorStops(t *testing.T) {
	inWorld(t, startFirst(nil), func(w *world) {
		old := w.runReady()
		w.pass(time.Minute)
		w.obey = deaf
		told := w.pool.ReloadWait("SIGUSR1")
		w.pass(time.Millisecond)
		w.obey = obedient
		w.last(0).ask(AskDetach)
		synctest.Wait()
		old.crash(1)
		w.want("result", (<-told).Outcome, Failed)
		w.pass(10 * time.Second)
		w.want("alive", w.alive(), 1)
		w.want("processes", w.count(0), 3)
	})
}

// It has not replaced anybody.
func TestNewWorkerDetachesBeforeItIsReady(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.Ready = 1, ReadyNotify }, func(w *world) {
		w.runReady()
		w.pass(time.Minute)
		told := w.pool.ReloadWait("SIGUSR1")
		w.pass(20 * time.Millisecond)
		w.last(0).ask(AskDetach)
		synctest.Wait()
		w.want("result", (<-told).Reason, "new worker 0 is not ready: it closed its channel before it was ready")
		w.pass(time.Second)
		w.want("processes", w.count(0), 3) // the place does not stay empty
	})
}

// What falls due while a reload fails is not forgotten.
func TestDueDuringFailingReload(t *testing.T) {
	for cause, fallDue := range map[Cause]func(*world, *fakeProc){
		Lifetime: func(w *world, _ *fakeProc) { w.pass(25 * time.Minute) },
		Messages: func(_ *world, old *fakeProc) { old.ask(AskRecycle) },
		Memory:   func(w *world, _ *fakeProc) { w.set(func() { w.rss = 200 << 20 }); w.pass(memoryTick) },
	} {
		t.Run(string(cause), func(t *testing.T) {
			inWorld(t, startFirst(func(c *Config) {
				c.ReadyTimeout = 0
				c.MaxMemory = 100 << 20
				c.MaxLifetime = time.Hour
			}), func(w *world) {
				old := w.runReady()
				w.pass(50 * time.Minute)
				w.pool.Reload("SIGUSR1")
				w.pass(time.Millisecond)
				fallDue(w, old)
				w.want("processes", w.count(0), 2)
				w.last(0).crash(1)
				w.pass(2 * time.Second)
				w.want("processes", w.count(0), 3)
				w.last(0).say(notify.Message{Ready: true})
				w.pass(time.Second)
				w.want("alive", old.alive(), false)
				w.want("why", w.logged(fmt.Sprintf(`"why":%q,"pid":%d`, cause, old.pid)), true)
			})
		})
	}
}

// A worker whose start takes longer than its lifetime is due when it is ready.
func TestDueBeforeReady(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.Ready, c.MaxLifetime = 1, ReadyNotify, 5*time.Second }, func(w *world) {
		w.runReady()
		w.pool.Reload("SIGUSR1")
		w.pass(20 * time.Second)
		w.last(0).say(notify.Message{Ready: true})
		w.pass(time.Second)
		w.want("processes", w.count(0), 3)
	})
}

// After a long backoff memory is looked at every second again.
func TestMemoryIsLookedAtAfterRetries(t *testing.T) {
	inWorld(t, startFirst(func(c *Config) { c.Ready = ReadyStarted; c.MaxMemory = 100 << 20 }), func(w *world) {
		w.run()
		w.set(func() { w.refuse = func(Identity) error { return errNoProcess } })
		w.set(func() { w.rss = 200 << 20 })
		w.pass(10 * time.Minute)
		w.set(func() { w.refuse, w.rss = nil, 0 })
		w.pass(time.Minute)
		w.want("processes", w.count(0), 2)
		w.set(func() { w.rss = 200 << 20 })
		w.pass(memoryTick + time.Millisecond)
		w.want("processes", w.count(0), 3)
		w.set(func() { w.rss = 0 })
	})
}

// The log does not say of an old worker that is on its way out that it stays.
func TestLogOfASuccessorThatEnds(t *testing.T) {
	for _, handed := range []bool{false, true} {
		inWorld(t, startFirst(nil), func(w *world) {
			w.runReady()
			w.pool.Reload("SIGUSR1")
			w.pass(time.Millisecond)
			if handed {
				w.last(0).say(notify.Message{Ready: true})
			}
			w.last(0).crash(1)
			w.want("it stays", w.logged("new worker exited, the old one keeps running"), !handed)
			w.want("it stops", w.logged("new worker exited, the old one is stopping anyway"), handed)
		})
	}
}
