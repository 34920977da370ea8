package supervisor

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/notify"
)

func TestStartsAndStops(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		w.want("alive", w.alive(), 3)
		for slot := range 3 {
			w.want("identity", w.last(slot).id, Identity{ID: slot, Workers: 3, Generation: 1})
		}
		w.pool.Stop("SIGTERM")
		r := w.wait(time.Second)
		w.want("code", r.Code, 0) // died of the stop signal: clean
		w.want("took", r.Took, 10*time.Millisecond)
		for slot := range 3 {
			w.want("signals", w.last(slot).got(), "[terminated]")
			w.want("released", w.last(slot).released, true)
		}
	})
}

func TestStopCodes(t *testing.T) {
	for name, tt := range map[string]struct {
		restart Restart
		obey    func(*fakeProc, syscall.Signal)
		code    int
		took    time.Duration
	}{
		"exit 0":             {RestartAlways, exits(0), 0, 10 * time.Millisecond},
		"exit 143":           {RestartNever, exits(143), 0, 10 * time.Millisecond},
		"exit 3":             {RestartAlways, exits(3), 0, 10 * time.Millisecond},
		"exit 3 of a job":    {RestartNever, exits(3), 3, 10 * time.Millisecond},
		"on-failure, exit 4": {RestartOnFailure, exits(4), 4, 10 * time.Millisecond},
		"deaf":               {RestartAlways, deaf, 137, 8 * time.Second},
		"deaf job":           {RestartNever, deaf, 137, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.Restart = tt.restart }, func(w *world) {
				w.obey = tt.obey
				w.run()
				w.pool.Stop("SIGTERM")
				r := w.wait(time.Minute)
				w.want("code", r.Code, tt.code)
				w.want("took", r.Took, tt.took)
				w.want("alive", w.alive(), 0)
			})
		})
	}
}

// exits returns a behaviour: to exit with a code when asked to stop.
func exits(code int) func(*fakeProc, syscall.Signal) {
	return func(p *fakeProc, sig syscall.Signal) {
		time.AfterFunc(10*time.Millisecond, func() { p.die(code, 0) })
	}
}

func TestSecondStopKillsAtOnce(t *testing.T) {
	for _, drain := range []time.Duration{0, 5 * time.Second} {
		inWorld(t, func(c *Config) { c.DrainDelay = drain }, func(w *world) {
			w.obey = deaf
			w.run()
			w.pool.Stop("SIGTERM")
			w.pass(time.Second)
			w.want("alive", w.alive(), 3)
			w.pool.Stop("SIGTERM")
			r := w.wait(time.Millisecond)
			w.want("code", r.Code, 137)
			w.want("killed", r.Killed, 3)
		})
	}
}

func TestDrainDelay(t *testing.T) {
	inWorld(t, func(c *Config) { c.DrainDelay = 2 * time.Second; c.StopTimeout = 3 * time.Second }, func(w *world) {
		w.run()
		w.pool.Stop("SIGTERM")
		w.pass(1900 * time.Millisecond)
		w.want("signals", w.last(0).got(), "[]")
		w.last(0).crash(1) // still serving, so still restarted
		w.pass(90 * time.Millisecond)
		w.pool.Reload("SIGUSR1") // but not reloaded
		w.pass(9 * time.Millisecond)
		w.want("generation", w.pool.Generation(), 1)
		r := w.wait(time.Minute)
		w.want("signals", w.last(1).got(), "[terminated]")
		w.want("took", r.Took < 3*time.Second, true)
	})
}

// The drain is part of the stop timeout, not before it.
func TestDrainCountsAgainstStopTimeout(t *testing.T) {
	inWorld(t, func(c *Config) { c.DrainDelay = 2 * time.Second; c.StopTimeout = 3 * time.Second }, func(w *world) {
		w.obey = deaf
		w.run()
		w.pool.Stop("SIGTERM")
		w.want("took", w.wait(time.Minute).Took, 3*time.Second)
	})
}

func TestCrashIsReplacedInItsOwnTime(t *testing.T) {
	inWorld(t, func(c *Config) { c.GiveUp = 0 }, func(w *world) {
		w.run()
		// Delays of 100 ms, 200 ms, 400 ms, each +-20 %.
		for n, delay := range []time.Duration{100, 200, 400, 800} {
			delay *= time.Millisecond
			w.last(1).crash(1)
			w.pass(delay * 79 / 100)
			w.want("starts before the delay", w.count(1), n+1)
			w.pass(delay * 42 / 100)
			w.want("starts after the delay", w.count(1), n+2)
		}
		w.want("the others", []int{w.count(0), w.count(2)}, []int{1, 1})
	})
}

func TestBackoffIsBounded(t *testing.T) {
	cfg := sane(nil)
	for failures := 1; failures < 100; failures++ {
		if d := cfg.backoff(failures); d > 36*time.Second || d < 80*time.Millisecond {
			t.Fatalf("backoff(%d) = %s", failures, d)
		}
	}
	if d := cfg.backoff(50); d < 24*time.Second {
		t.Errorf("backoff(50) = %s, want about 30s", d)
	}
}

func TestHealthyWorkerIsReplacedAtOnce(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		w.last(0).crash(1)
		w.pass(130 * time.Millisecond)
		w.last(0).crash(1)
		w.pass(260 * time.Millisecond)
		w.pass(10 * time.Second)
		w.last(0).crash(1)
		w.want("starts", w.count(0), 4)
		w.last(0).crash(1) // and the backoff starts over
		w.pass(130 * time.Millisecond)
		w.want("starts", w.count(0), 5)
	})
}

func TestExitZeroIsNoFailure(t *testing.T) {
	inWorld(t, func(c *Config) { c.GiveUp = 3; c.Workers = 1 }, func(w *world) {
		w.run()
		for n := range 20 { // never grows, never gives up
			w.last(0).crash(0)
			w.want("at once", w.count(0), n+1)
			w.pass(121 * time.Millisecond)
			w.want("after one delay", w.count(0), n+2)
		}
		w.pass(time.Second)
		w.last(0).crash(0)
		w.want("after a second of work", w.count(0), 22)
	})
}

func TestGiveUp(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 2; c.GiveUp = 3 }, func(w *world) {
		w.run()
		for range 5 {
			w.last(0).crash(7)
			w.pass(5 * time.Second)
		}
		w.want("alive", w.alive(), 2) // worker 1 never failed
		for range 3 {                 // its first comes after a healthy life, and does not count
			w.last(1).crash(8)
			w.pass(time.Second)
		}
		w.last(0).crash(7)
		w.last(1).crash(9)
		w.want("code", w.wait(time.Minute).Code, 9)
	})
}

func TestGiveUpIsNeverZero(t *testing.T) {
	inWorld(t, func(c *Config) {
		c.Workers = 1
		c.GiveUp = 1
		c.ReadyNotify = true
	}, func(w *world) {
		w.obey = exits(0) // never ready, and obeys well when it is stopped for it
		w.run()
		w.want("code", w.wait(time.Minute).Code, 1)
	})
}

func TestHealthBreaksTheRow(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 2; c.GiveUp = 2 }, func(w *world) {
		w.run()
		for range 2 {
			w.last(0).crash(1)
			w.pass(time.Second)
		}
		w.pass(10 * time.Second) // worker 0 has proved healthy
		for range 2 {
			w.last(1).crash(1)
			w.pass(time.Second)
		}
		w.want("alive", w.alive(), 2)
	})
}

func TestRestartNever(t *testing.T) {
	inWorld(t, func(c *Config) { c.Restart = RestartNever }, func(w *world) {
		w.run()
		w.last(1).crash(5)
		w.last(0).die(0, syscall.SIGSEGV)
		w.pass(time.Hour)
		w.want("starts", w.procsCount(), 3)
		w.last(2).crash(0)
		w.want("code", w.wait(time.Second).Code, 5) // of the first that failed
	})
}

func TestRestartNeverSignal(t *testing.T) {
	inWorld(t, func(c *Config) { c.Restart = RestartNever; c.Workers = 1 }, func(w *world) {
		w.run()
		w.last(0).die(0, syscall.SIGSEGV)
		w.want("code", w.wait(time.Second).Code, 128+11)
	})
}

func TestRestartOnFailure(t *testing.T) {
	inWorld(t, func(c *Config) { c.Restart = RestartOnFailure; c.GiveUp = 3 }, func(w *world) {
		w.run()
		w.last(0).crash(1)
		w.pass(time.Second)
		w.want("starts", w.count(0), 2)
		for slot := range 3 {
			w.last(slot).crash(0)
		}
		w.want("code", w.wait(time.Second).Code, 0) // the failure was made good
	})
}

// Workers that are done do not keep the rest from giving up.
func TestOnFailureGivesUpOnTheRest(t *testing.T) {
	inWorld(t, func(c *Config) { c.Restart = RestartOnFailure; c.GiveUp = 3 }, func(w *world) {
		w.run()
		w.last(0).crash(0)
		w.last(1).crash(0)
		for range 3 {
			w.last(2).crash(6)
			w.pass(time.Second)
		}
		w.want("code", w.wait(time.Second).Code, 6)
	})
}

func TestFirstStartFails(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.set(func() { w.refuse = func(Identity) error { return errNoFile } })
		w.run()
		w.want("code", w.wait(time.Second).Code, 127)
		if strings.Count(w.log.String(), "no such file") != 1 {
			t.Error(w.log.String())
		}
	})
}

func TestTemporaryStartFailureIsRetried(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		tries := 0
		w.refuse = func(id Identity) error {
			if tries++; id.ID == 1 && tries < 6 {
				return errNoProcess
			}
			return nil
		}
		w.run()
		w.want("alive", w.alive(), 2)
		w.pass(10 * time.Second)
		w.want("alive", w.alive(), 3)
	})
}

// A command that goes away later is no reason to end the pool.
func TestLaterStartFailureIsRetried(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		w.last(0).crash(1)
		w.set(func() { w.refuse = func(Identity) error { return errNoFile } })
		w.pass(time.Second)
		w.want("alive", w.alive(), 2)
		w.set(func() { w.refuse = nil })
		w.pass(5 * time.Second)
		w.want("alive", w.alive(), 3)
	})
}

func TestOOMIsToldApart(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		w.last(0).die(0, syscall.SIGKILL)
		w.pass(time.Second)
		w.set(func() { w.oom = true })
		w.last(0).die(0, syscall.SIGKILL)
		w.pass(time.Second)
		w.last(1).die(0, syscall.SIGSEGV)
		w.pass(time.Second)
		why := regexp.MustCompile(`"why":"(\w+)","pid":\d+,"signal":"(\w+)"`).FindAllStringSubmatch(w.log.String(), -1)
		got := fmt.Sprint(why[0][1:], why[1][1:], why[2][1:])
		w.want("causes", got, "[crash SIGKILL] [oom SIGKILL] [crash SIGSEGV]")
	})
}

func TestGroupIsSwept(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		p := w.last(0)
		p.children = true
		p.crash(1)
		w.want("signals", p.got(), "[terminated]")
		w.want("starts", w.count(0), 1) // its port may still be taken
		w.pass(10 * time.Millisecond)
		w.pass(130 * time.Millisecond)
		w.want("starts", w.count(0), 2)
	})
}

func TestGroupThatStaysIsKilled(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.obey = deaf
		w.run()
		p := w.last(0)
		p.children = true
		p.crash(1)
		w.pass(7900 * time.Millisecond)
		w.want("signals", p.got(), "[terminated]")
		w.pass(100 * time.Millisecond)
		w.want("signals", p.got(), "[terminated killed]")
		w.pass(130 * time.Millisecond)
		w.want("starts", w.count(0), 2)
	})
}

// What hangs in the kernel does not hold its slot for ever.
func TestGroupThatSurvivesKill(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.obey = func(*fakeProc, syscall.Signal) {}
		w.run()
		p := w.last(0)
		p.children = true
		p.crash(1)
		w.pass(8*time.Second + killGrace + 130*time.Millisecond)
		w.want("starts", w.count(0), 2)
		w.set(func() {
			w.obey = obedient
			for _, p := range w.procs {
				p.obey = obedient
			}
		})
	})
}

func TestForward(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		w.pool.Forward(syscall.SIGUSR2)
		synctest.Wait()
		for slot := range 3 {
			w.want("to the process", w.last(slot).alone, []syscall.Signal{syscall.SIGUSR2})
			w.want("to the group", w.last(slot).got(), "[]")
		}
	})
}

func TestReadyTimeout(t *testing.T) {
	inWorld(t, func(c *Config) { c.ReadyNotify = true; c.Workers = 1; c.MinReady = time.Second }, func(w *world) {
		w.run()
		p := w.last(0)
		w.pass(29 * time.Second)
		w.want("signals", p.got(), "[]")
		w.pass(1005 * time.Millisecond)
		w.want("signals", p.got(), "[terminated]")
		w.pass(10 * time.Millisecond) // it lived longer than --healthy-after, but was never ready
		w.want("starts", w.count(0), 1)
		w.pass(130 * time.Millisecond)
		w.want("starts", w.count(0), 2)
		w.last(0).say(notify.Message{Ready: true})
		w.pass(time.Minute)
		w.want("signals", w.last(0).got(), "[]")
		w.want("state", w.pool.slots[0].cur.current(), Ready)
	})
}

func TestWatchdog(t *testing.T) {
	inWorld(t, func(c *Config) { c.Watchdog = 2 * time.Second; c.Workers = 1 }, func(w *world) {
		w.obey = deaf
		w.run()
		p := w.last(0)
		for range 5 {
			w.pass(1900 * time.Millisecond)
			p.say(notify.Message{Watchdog: true})
		}
		w.want("signals", p.got(), "[]")
		w.pass(2 * time.Second)
		w.want("signals", p.got(), "[aborted]")
		w.pass(killGrace)
		w.want("signals", p.got(), "[aborted killed]")
		w.pass(time.Second)
		w.want("starts", w.count(0), 2)
		if !w.logged(`"why":"watchdog"`) {
			t.Error(w.log.String())
		}
	})
}

func TestWatchdogByMessage(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
		w.run()
		p := w.last(0)
		p.say(notify.Message{Watchdog: true}) // nobody asked for it: no watchdog begins
		w.pass(time.Hour)
		w.want("signals", p.got(), "[]")
		p.say(notify.Message{WatchdogInterval: time.Second})
		w.pass(900 * time.Millisecond)
		p.say(notify.Message{Watchdog: true})
		w.pass(900 * time.Millisecond)
		w.want("signals", p.got(), "[]")
		p.say(notify.Message{WatchdogTrigger: true})
		w.pass(time.Millisecond)
		w.want("signals", p.got(), "[aborted]")
	})
}

// Ctrl-C on a terminal goes to the worker alone; its death is the pool's end.
func TestCtrlC(t *testing.T) {
	inWorld(t, func(c *Config) { c.Interactive = true; c.Workers = 1 }, func(w *world) {
		w.run()
		w.last(0).die(0, syscall.SIGINT)
		w.want("code", w.wait(time.Second).Code, 130)
		w.want("processes", w.procsCount(), 1)
	})
}
