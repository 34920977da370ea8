package supervisor

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

func TestReloadOneByOne(t *testing.T) {
	for _, startFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("startFirst=%v", startFirst), func(t *testing.T) {
			least := 3
			inWorld(t, func(c *Config) { c.StartFirst = startFirst }, func(w *world) {
				w.obey = func(p *fakeProc, sig syscall.Signal) {
					alive := w.alive() - 1 // this one is on its way out
					w.set(func() { least = min(least, alive) })
					obedient(p, sig)
				}
				w.run()
				w.pool.Reload("SIGUSR1")
				w.pass(25 * time.Millisecond)
				w.want("replaced so far", []int{w.count(0), w.count(1), w.count(2)}, map[bool][]int{false: {2, 2, 1}, true: {2, 2, 2}}[startFirst])
				w.pass(time.Second)
				for slot := range 3 {
					w.want("processes", w.count(slot), 2)
					w.want("identity", w.last(slot).id, Identity{ID: slot, Workers: 3, Generation: 2})
				}
				w.set(func() { least = min(least, 3) })
				if startFirst {
					w.want("least alive", least, 3)
					w.want("most alive", w.most, 4)
				} else {
					w.want("least alive", least, 2)
					w.want("most alive", w.most, 3)
				}
				if !w.logged("reload done") || w.logged(`"level":"warn"`) {
					t.Error(w.log.String())
				}
			})
		})
	}
}

// Each old worker has a stop timeout of its own.
func TestReloadOfDeafWorkers(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.obey = deaf
		w.run()
		w.set(func() { w.obey = obedient })
		w.pool.Reload("SIGUSR1")
		w.pass(7 * time.Second)
		w.want("signals", w.last(0).got(), "[terminated]")
		w.pass(8 * time.Second)
		w.want("replaced", []int{w.count(0), w.count(1), w.count(2)}, []int{2, 1, 1})
		w.pass(10 * time.Second)
		w.want("replaced", []int{w.count(0), w.count(1), w.count(2)}, []int{2, 2, 2})
		w.pool.Stop("SIGTERM")
		w.want("code", w.wait(time.Second).Code, 0) // killed by a reload is not killed by the stop
	})
}

func TestReloadWaitsUntilReady(t *testing.T) {
	for _, startFirst := range []bool{false, true} {
		inWorld(t, func(c *Config) { c.Ready = ReadyNotify; c.MinReady = time.Second; c.StartFirst = startFirst }, func(w *world) {
			w.run()
			for slot := range 3 {
				w.last(slot).say(notify.Message{Ready: true})
			}
			w.pass(time.Minute)
			w.pool.Reload("SIGUSR1")
			for slot := range 3 {
				w.pass(20 * time.Second)
				w.want("processes", w.count(slot), 2)
				w.last(slot).say(notify.Message{Ready: true})
				w.pass(900 * time.Millisecond)
				if slot < 2 {
					w.want("of the next", w.count(slot+1), 1)
				}
				w.pass(200 * time.Millisecond)
			}
			if !w.logged("reload done") {
				t.Error(w.log.String())
			}
		})
	}
}

// A broken new version costs one worker, not the pool.
func TestReloadStopsAtTheFirstFailure(t *testing.T) {
	for name, fail := range map[string]func(w *world){
		"crashes":         func(w *world) { w.last(0).crash(1) },
		"is never ready":  func(w *world) { w.pass(31 * time.Second) },
		"exits with 0":    func(w *world) { w.last(0).crash(0) },
		"cannot be found": nil,
	} {
		for _, startFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, startFirst=%v", name, startFirst), func(t *testing.T) {
				inWorld(t, func(c *Config) { c.Ready = ReadyNotify; c.StartFirst = startFirst; c.ReadyTimeout = 30 * time.Second }, func(w *world) {
					w.run()
					for slot := range 3 {
						w.last(slot).say(notify.Message{Ready: true})
					}
					w.pass(time.Minute)
					old := w.last(0)
					if fail == nil {
						w.set(func() { w.refuse = func(Identity) error { return errNoFile } })
					}
					w.pool.Reload("SIGUSR1")
					w.pass(20 * time.Millisecond)
					if fail != nil {
						fail(w)
					}
					w.pass(time.Millisecond)
					w.want("the others", []int{w.count(1), w.count(2)}, []int{1, 1})
					w.want("the old one", old.alive(), startFirst)
					if !w.logged("reload failed") || !w.logged("new worker 0 is not ready") {
						t.Error(w.log.String())
					}
					// The next reload brings the cure.
					w.set(func() { w.refuse = nil })
					w.pool.Reload("SIGUSR1")
					for slot := range 3 {
						w.pass(20 * time.Millisecond)
						w.last(slot).say(notify.Message{Ready: true})
						w.pass(20 * time.Millisecond)
					}
					if !w.logged("reload done") {
						t.Error(w.log.String())
					}
				})
			})
		}
	}
}

// Without readiness a worker counts as ready when it was started; if it then
// dies, the reload stops all the same.
func TestReloadStopsWhenNewWorkersDie(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 10 }, func(w *world) {
		w.run()
		w.pool.Reload("SIGUSR1")
		w.pass(25 * time.Millisecond)
		w.last(0).crash(3)
		w.pass(time.Minute)
		w.want("old ones that stay", w.count(9), 1)
		if !w.logged("new worker 0 exited with code 3") {
			t.Error(w.log.String())
		}
	})
}

func TestUnrelatedCrashDuringReload(t *testing.T) {
	inWorld(t, func(c *Config) { c.Ready = ReadyNotify }, func(w *world) {
		w.run()
		for slot := range 3 {
			w.last(slot).say(notify.Message{Ready: true})
		}
		w.pass(time.Minute)
		w.pool.Reload("SIGUSR1")
		w.pass(20 * time.Millisecond)
		w.last(2).crash(1) // an old one
		w.last(2).say(notify.Message{Ready: true})
		w.pass(time.Second)
		w.last(2).crash(1) // its replacement, which is none of the reload's
		w.pass(time.Second)
		w.want("not advanced", w.count(1), 1)
		for slot := range 3 {
			w.last(slot).say(notify.Message{Ready: true})
			w.pass(20 * time.Millisecond)
			w.last(slot).say(notify.Message{Ready: true})
			w.pass(20 * time.Millisecond)
		}
		if !w.logged("reload done") {
			t.Error(w.log.String())
		}
	})
}

func TestReloadDuringReload(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		w.pool.Reload("SIGUSR1")
		w.pool.Reload("SIGUSR1")
		w.pool.Reload("SIGHUP")
		w.pass(time.Minute)
		for slot := range 3 {
			w.want("processes", w.count(slot), 3) // one reload after the other, not two
			w.want("generation", w.last(slot).id.Generation, 3)
		}
	})
}

func TestStopDuringReload(t *testing.T) {
	for _, startFirst := range []bool{false, true} {
		inWorld(t, func(c *Config) { c.StartFirst = startFirst; c.Ready = ReadyNotify }, func(w *world) {
			w.run()
			for slot := range 3 {
				w.last(slot).say(notify.Message{Ready: true})
			}
			w.pool.Reload("SIGUSR1")
			w.pass(15 * time.Millisecond)
			w.pool.Reload("SIGUSR1")
			w.pool.Stop("SIGTERM")
			w.want("code", w.wait(time.Second).Code, 0)
			w.want("processes", w.procsCount(), 4)
			if !w.logged("reload cancelled") {
				t.Error(w.log.String())
			}
		})
	}
}

// The old worker dies while its successor gets ready: the successor has the
// slot then, and still has to get ready.
func TestOldDiesWhileSuccessorStarts(t *testing.T) {
	inWorld(t, func(c *Config) { c.StartFirst = true; c.Ready = ReadyNotify; c.Workers = 1 }, func(w *world) {
		w.run()
		old := w.last(0)
		old.say(notify.Message{Ready: true})
		w.pool.Reload("SIGUSR1")
		w.pass(time.Millisecond)
		old.crash(1)
		w.pass(time.Second)
		w.want("processes", w.count(0), 2)
		w.want("done", w.logged("reload done"), false)
		w.last(0).say(notify.Message{Ready: true})
		w.want("done", w.logged("reload done"), true)
	})
}

// The successor dies while the old one is on its way out.
func TestSuccessorDiesWhileOldStops(t *testing.T) {
	inWorld(t, func(c *Config) { c.StartFirst = true; c.Workers = 1 }, func(w *world) {
		w.run()
		w.pool.Reload("SIGUSR1")
		w.pass(time.Millisecond)
		w.last(0).crash(1)
		w.want("reload failed", w.logged("reload failed"), true)
		w.pass(10 * time.Millisecond)
		w.pass(time.Second)
		w.want("alive", w.alive(), 1)
		w.want("processes", w.count(0), 3)
	})
}

// A reload fills a slot at once that waits for its backoff.
func TestReloadCutsBackoffShort(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 1; c.RestartDelay = time.Minute; c.RestartDelayMax = time.Hour }, func(w *world) {
		w.run()
		w.last(0).crash(1)
		w.pass(time.Second)
		w.want("alive", w.alive(), 0)
		w.pool.Reload("SIGHUP")
		w.pass(time.Millisecond)
		w.want("alive", w.alive(), 1)
		w.want("done", w.logged("reload done"), true)
		w.pass(2 * time.Minute)
		w.want("processes", w.count(0), 2)
	})
}

func TestReloadRevivesRetiredSlots(t *testing.T) {
	inWorld(t, func(c *Config) { c.Restart = RestartNever }, func(w *world) {
		w.run()
		w.last(0).crash(0)
		w.pool.Reload("SIGHUP")
		w.pass(time.Second)
		w.want("alive", w.alive(), 3)
		for slot := range 3 {
			w.last(slot).crash(0)
		}
		w.want("code", w.wait(time.Second).Code, 0)
	})
}

func TestMaxLifetime(t *testing.T) {
	for _, startFirst := range []bool{false, true} {
		inWorld(t, func(c *Config) { c.MaxLifetime = 10 * time.Minute; c.StartFirst = startFirst }, func(w *world) {
			w.run()
			w.pass(8 * time.Minute)
			w.want("processes", w.procsCount(), 3)
			w.pass(4 * time.Minute)
			w.want("processes", w.procsCount(), 6)
			if !w.logged(`"why":"max-lifetime"`) || w.logged(`"level":"warn"`) {
				t.Error(w.log.String())
			}
		})
	}
}

func TestMaxMemory(t *testing.T) {
	inWorld(t, func(c *Config) { c.MaxMemory = 100 << 20 }, func(w *world) {
		w.set(func() { w.rss = 85 << 20 })
		w.run()
		w.pass(time.Hour)
		w.want("processes", w.procsCount(), 3)
		w.set(func() { w.rss = 115 << 20 })
		w.pass(memoryTick)
		w.set(func() { w.rss = 10 << 20 })
		w.pass(time.Hour)
		w.want("processes", w.procsCount(), 6)
		w.want("logged", w.logged(`"why":"max-memory"`), true)
	})
}

// A worker that is due, but whose successor cannot start, stays, and its slot
// tries again at a decent pace.
func TestRecyclingFailsStartFirst(t *testing.T) {
	inWorld(t, func(c *Config) {
		c.StartFirst = true
		c.Workers = 1
		c.MaxLifetime = time.Minute
		c.MaxMemory = 1 << 20
	}, func(w *world) {
		w.run()
		w.set(func() { w.rss = 10 << 20 })
		tries := 0
		w.set(func() { w.refuse = func(Identity) error { tries++; return errNoFile } })
		w.pass(10 * time.Minute)
		w.want("alive", w.alive(), 1)
		if tries < 10 || tries > 100 {
			t.Errorf("%d tries in 10 minutes", tries)
		}
		w.set(func() { w.refuse, w.rss = nil, 0 })
		w.pass(2 * time.Minute)
		if w.count(0) < 2 {
			t.Error("never replaced")
		}
	})
}

func TestRecyclingDuringReload(t *testing.T) {
	inWorld(t, func(c *Config) { c.MaxLifetime = time.Second; c.Ready = ReadyNotify; c.Workers = 1 }, func(w *world) {
		w.obey = func(p *fakeProc, sig syscall.Signal) {
			time.AfterFunc(5*time.Second, func() { p.die(0, sig) })
			deaf(p, sig) // but for SIGKILL
		}
		w.run()
		w.last(0).say(notify.Message{Ready: true})
		w.pass(2 * time.Second) // recycling is under way
		w.pool.Reload("SIGUSR1")
		w.pass(5 * time.Second)
		w.last(0).say(notify.Message{Ready: true})
		w.pass(6 * time.Second)
		w.last(0).say(notify.Message{Ready: true})
		w.want("done", w.logged("reload done"), true)
		w.want("generation", w.last(0).id.Generation, 2)
	})
}
