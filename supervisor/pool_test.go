package supervisor

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor/notify"
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
	for _, first := range []func(*world){
		func(w *world) { w.pool.Stop("SIGTERM") },
		func(w *world) { w.pool.Halt("SIGTERM") },
	} {
		inWorld(t, nil, func(w *world) {
			w.obey = deaf
			w.run()
			first(w)
			w.pass(time.Second)
			w.want("alive", w.alive(), 3)
			w.pool.Kill()
			r := w.wait(time.Millisecond)
			w.want("code", r.Code, 137)
			w.want("killed", r.Killed, 3)
		})
	}
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

// Workers that end together come back apart: each draws its own delay or limit,
// from all of what the flags promise, and from no more.
func TestJitter(t *testing.T) {
	const workers = 100
	endAll := func(code int) func(*world) {
		return func(w *world) {
			for slot := range workers {
				w.last(slot).die(code, 0)
			}
		}
	}
	for name, tt := range map[string]struct {
		config func(*Config)
		end    func(*world)  // has all of them end, unless time does
		whole  time.Duration // until the next start, without jitter
		part   float64
	}{
		"first failure": {nil, endAll(1), 100 * time.Millisecond, 0.2},
		"third failure": {nil, func(w *world) {
			for range 2 {
				endAll(1)(w)
				w.pass(time.Second)
			}
			endAll(1)(w)
		}, 400 * time.Millisecond, 0.2},
		"longest delay": {func(c *Config) { c.RestartDelay, c.RestartDelayMax = time.Minute, time.Minute }, endAll(1), time.Minute, 0.2},
		"exit 0":        {nil, endAll(0), 100 * time.Millisecond, 0.2},
		"max-lifetime":  {func(c *Config) { c.MaxLifetime = time.Hour }, nil, time.Hour, 0.1},
		"max-memory":    {func(c *Config) { c.MaxMemory = 1000 << 20 }, nil, 250 * time.Second, 0.1}, // 4 MiB a second
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) {
				c.Workers = workers
				if tt.config != nil {
					tt.config(c)
				}
			}, func(w *world) {
				w.obey = prompt
				start := time.Now()
				w.pool.cfg.Memory = func(pid int) (uint64, error) {
					if pid >= 100+workers {
						return 0, nil // a second process
					}
					return uint64(time.Since(start) / time.Second << 22), nil
				}
				w.run()
				if tt.end != nil {
					tt.end(w)
				}
				n, began := w.count(0), time.Now()
				w.pass(tt.whole * 3 / 2)
				var delays []float64 // as parts of the whole
				for slot := range workers {
					delays = append(delays, float64(w.nth(slot, n).began.Sub(began))/float64(tt.whole))
				}
				slices.Sort(delays)
				lowest, highest, different := delays[0], delays[workers-1], len(slices.Compact(slices.Clone(delays)))
				if lowest < 1-tt.part-0.001 || highest > 1+tt.part+0.001 {
					t.Errorf("from %.3f to %.3f of %s, want +-%.1f at most", lowest, highest, tt.whole, tt.part)
				}
				if lowest > 1-tt.part/2 || highest < 1+tt.part/2 || different < workers/4 {
					t.Errorf("from %.3f to %.3f of %s, %d different ones of %d: not spread", lowest, highest, tt.whole, different, workers)
				}
			})
		})
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

// Exit code 0 is no failure, unless nothing else follows: TestIdleLives.
func TestExitZeroIsNoFailure(t *testing.T) {
	inWorld(t, func(c *Config) { c.GiveUp = 3; c.Workers = 1 }, func(w *world) {
		w.run()
		starts := 1
		for range 10 { // never grows, never gives up
			for range mostIdle - 1 {
				w.last(0).crash(0)
				w.want("at once", w.count(0), starts)
				w.pass(121 * time.Millisecond)
				starts++
				w.want("after one delay", w.count(0), starts)
			}
			w.pass(time.Second)
			w.last(0).crash(0)
			starts++
			w.want("after a second of work", w.count(0), starts)
		}
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
		c.Ready = ReadyNotify
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

// With never, no other start follows.
func TestTemporaryStartFailureOfAJob(t *testing.T) {
	inWorld(t, func(c *Config) { c.Restart = RestartNever }, func(w *world) {
		w.set(func() { w.refuse = func(Identity) error { return errNoProcess } })
		w.run()
		w.want("code", w.wait(time.Second).Code, reaper.ExitCode(errNoProcess))
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

// Every exit is logged, once, with its code or signal, the uptime and the peak
// memory.
func TestEveryExitIsLogged(t *testing.T) {
	ready := func(w *world) { w.last(0).say(notify.Message{Ready: true}) }
	for name, tt := range map[string]struct {
		config func(*Config)
		end    func(w *world) // what happens 1.5 s after the start
		nth    int            // whose exit it is
		want   string         // why, code, signal, uptime, peak memory
	}{
		"exit 0":     {nil, func(w *world) { w.last(0).crash(0) }, 0, "done 0 <nil> 1.5s 12.5MiB"},
		"exit 3":     {nil, func(w *world) { w.last(0).crash(3) }, 0, "crash 3 <nil> 1.5s 12.5MiB"},
		"signal":     {nil, func(w *world) { w.last(0).die(0, syscall.SIGSEGV) }, 0, "crash <nil> SIGSEGV 1.5s 12.5MiB"},
		"last one":   {func(c *Config) { c.Restart = RestartNever }, func(w *world) { w.last(0).crash(4) }, 0, "crash 4 <nil> 1.5s 12.5MiB"},
		"no restart": {func(c *Config) { c.Restart = RestartOnFailure }, func(w *world) { w.last(0).crash(0) }, 0, "done 0 <nil> 1.5s 12.5MiB"},
		"pool stops": {nil, func(w *world) { w.pool.Stop("SIGTERM") }, 0, "stop <nil> SIGTERM 1.51s 12.5MiB"},
		"reload":     {nil, func(w *world) { w.pool.Reload("SIGHUP") }, 0, "reload <nil> SIGTERM 1.51s 12.5MiB"},
		"reload, start-first": {func(c *Config) { c.StartFirst = true }, func(w *world) { w.pool.Reload("SIGHUP") }, 0,
			"reload <nil> SIGTERM 1.51s 12.5MiB"},
		"old one, before its successor is ready": {func(c *Config) { c.StartFirst, c.Ready = true, ReadyNotify }, func(w *world) {
			ready(w)
			w.pool.Reload("SIGHUP")
			w.pass(500 * time.Millisecond)
			w.nth(0, 0).crash(5)
		}, 0, "crash 5 <nil> 2s 12.5MiB"},
		"successor": {func(c *Config) { c.StartFirst, c.Ready = true, ReadyNotify }, func(w *world) {
			ready(w)
			w.pool.Reload("SIGHUP")
			w.pass(500 * time.Millisecond)
			w.last(0).crash(6)
		}, 1, "crash 6 <nil> 500ms 12.5MiB"},
		"successor, while the pool stops": {func(c *Config) { c.StartFirst, c.Ready = true, ReadyNotify }, func(w *world) {
			ready(w)
			w.pool.Reload("SIGHUP")
			w.pass(500 * time.Millisecond)
			w.pool.Stop("SIGTERM")
		}, 1, "stop <nil> SIGTERM 510ms 12.5MiB"},
		"detached": {nil, func(w *world) {
			w.last(0).ask(AskDetach)
			w.pass(500 * time.Millisecond)
			w.nth(0, 0).crash(7)
		}, 0, "detach 7 <nil> 2s 12.5MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) {
				c.Workers = 1
				if tt.config != nil {
					tt.config(c)
				}
			}, func(w *world) {
				w.run()
				w.pass(1500 * time.Millisecond)
				tt.end(w)
				w.pass(time.Second)
				var got []string
				for line := range strings.Lines(w.log.String()) {
					var m map[string]any
					if err := json.Unmarshal([]byte(line), &m); err != nil {
						t.Fatalf("%v: %s", err, line)
					}
					if m["pid"] == float64(w.nth(0, tt.nth).pid) && m["why"] != nil {
						got = append(got, fmt.Sprint(m["why"], " ", m["code"], " ", m["signal"], " ", m["uptime"], " ", m["peak_memory"]))
					}
				}
				w.want("logged", strings.Join(got, "; "), tt.want)
			})
		})
	}
}

// Whatever a worker is stopped for, its group is sent the stop signal, once, and
// SIGKILL after the stop timeout. What a worker left behind is stopped the same way.
func TestStopSignal(t *testing.T) {
	for name, tt := range map[string]struct {
		config func(*Config)
		stop   func(w *world, p *fakeProc)
	}{
		"pool stops":   {nil, func(w *world, p *fakeProc) { w.pool.Stop("SIGTERM") }},
		"reload":       {nil, func(w *world, p *fakeProc) { w.pool.Reload("SIGHUP") }},
		"not ready":    {func(c *Config) { c.Ready = ReadyNotify }, func(w *world, p *fakeProc) { w.pass(30 * time.Second) }},
		"bad protocol": {nil, func(w *world, p *fakeProc) { p.ask(AskBroken) }},
		"exit":         {nil, func(w *world, p *fakeProc) { p.crash(0) }},
		"crash":        {nil, func(w *world, p *fakeProc) { p.die(0, syscall.SIGSEGV) }},
		"detached": {nil, func(w *world, p *fakeProc) {
			p.ask(AskDetach)
			w.pass(time.Minute)
			p.crash(0)
		}},
	} {
		for who, obey := range map[string]func(*fakeProc, syscall.Signal){
			"all are deaf": deaf,
			"its children are": func(p *fakeProc, sig syscall.Signal) {
				time.AfterFunc(3*time.Second, func() { p.die(0, sig) }) // their time goes on
				deaf(p, sig)
			},
		} {
			t.Run(name+", "+who, func(t *testing.T) {
				inWorld(t, func(c *Config) {
					c.Workers, c.StopSignal = 1, syscall.SIGINT
					if tt.config != nil {
						tt.config(c)
					}
				}, func(w *world) {
					w.obey = obey
					w.run()
					p := w.last(0)
					p.getChildren()
					tt.stop(w, p)
					synctest.Wait()
					w.want("at first", p.got(), "[interrupt]")
					w.pass(8*time.Second - time.Millisecond)
					w.want("just before the timeout", p.got(), "[interrupt]")
					w.pass(time.Millisecond)
					w.want("after it", p.got(), "[interrupt killed]")
				})
			})
		}
	}
}

// What a worker left behind is not waited for longer than the pool has time.
func TestStopWhileGroupIsSwept(t *testing.T) {
	for name, tt := range map[string]struct {
		before, after int // stops, 5 s before and 2 s after the worker exited
		took          time.Duration
	}{
		"one stop":           {0, 1, 6 * time.Second}, // of the eight that the sweep has, two are over
		"two stops":          {0, 2, 0},
		"a stop before":      {1, 0, 8 * time.Second}, // not eight from the end of the worker
		"another stop after": {1, 1, 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) {
				c.Workers, c.StopSignal = 1, syscall.SIGINT
			}, func(w *world) {
				w.obey = deaf
				w.run()
				p := w.last(0)
				p.getChildren()
				stopAgain := func() { w.pool.Stop("SIGTERM") }
				for range tt.before { // it serves for 6 s
					deadline := time.Now().Add(8 * time.Second)
					w.pool.Halt("SIGTERM")
					time.AfterFunc(6*time.Second, func() { w.pool.StopWorkers(deadline) })
					stopAgain = w.pool.Kill
					w.pass(5 * time.Second)
				}
				p.crash(1)
				w.pass(2 * time.Second)
				for range tt.after {
					stopAgain()
				}
				w.want("took", w.wait(time.Minute).Took, tt.took)
				w.want("signals", p.got(), "[interrupt killed]")
				w.want("processes", w.procsCount(), 1)
			})
		})
	}
}

// A command that a worker runs for one message is no worker. But if the OOM
// killer takes it, that is shown as if it were, and the worker goes on.
func TestOOMOfACommand(t *testing.T) {
	inWorld(t, func(c *Config) { c.GiveUp = 1 }, func(w *world) {
		w.run()
		exit := reaper.Exit{Signal: syscall.SIGKILL}
		w.want("oom", w.pool.CommandKilled(1, 77, exit, 2*time.Second), false)
		w.want("exits", w.pool.Stats().Exits, map[Cause]uint64{})
		w.set(func() { w.oom = true })
		w.want("oom", w.pool.CommandKilled(1, 77, exit, 2*time.Second), true)
		s := w.pool.Stats()
		w.want("exits", s.Exits, map[Cause]uint64{OOM: 1})
		w.want("last exit", s.Workers[1].LastExit.Text, "died of SIGKILL after 2s (oom)")
		w.want("failures", s.Workers[1].Failures, 0)
		w.want("logged", w.logged(`"worker":1,"why":"oom","pid":77,"signal":"SIGKILL"`), true)
		w.want("alive", w.alive(), 3)
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

// What survives SIGKILL in the group of a killed worker does not hold its slot
// either, nor the stop.
func TestGroupOfAKilledWorkerSurvives(t *testing.T) {
	for name, tt := range map[string]struct {
		stops int
		took  time.Duration
	}{
		"stop":        {1, 8*time.Second + killGrace},
		"second stop": {2, killGrace},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
				w.obey = func(p *fakeProc, sig syscall.Signal) {
					if sig == syscall.SIGKILL {
						p.die(0, sig) // but not its children
					}
				}
				w.run()
				w.last(0).getChildren()
				for range tt.stops {
					w.pool.Stop("SIGTERM")
				}
				w.want("took", w.wait(time.Hour).Took, tt.took)
				w.want("killed", strings.Count(w.last(0).got(), "killed"), 2)
			})
		})
	}
}

// A process that survives SIGKILL hangs in the kernel. A stop does not wait for
// it longer than killGrace.
func TestProcessSurvivesSIGKILL(t *testing.T) {
	for name, tt := range map[string]struct {
		before func(*world) // the stop
		stops  int
		took   time.Duration
	}{
		"stop":                          {func(*world) {}, 1, 8*time.Second + killGrace},
		"second stop":                   {func(*world) {}, 2, killGrace},
		"stop while it reloads":         {func(w *world) { w.pool.Reload("SIGHUP"); w.pass(2 * time.Second) }, 1, 6*time.Second + killGrace},
		"stop when it is killed":        {func(w *world) { w.pool.Reload("SIGHUP"); w.pass(8*time.Second + killGrace/2) }, 1, killGrace / 2},
		"second stop when it is killed": {func(w *world) { w.pool.Reload("SIGHUP"); w.pass(8*time.Second + killGrace/2) }, 2, killGrace / 2},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
				w.obey = func(*fakeProc, syscall.Signal) {}
				w.run()
				tt.before(w)
				w.want("processes", w.procsCount(), 1)
				for range tt.stops {
					w.pool.Stop("SIGTERM")
				}
				r := w.wait(time.Minute)
				w.want("took", r.Took, tt.took)
				w.want("killed", r.Killed, 1)
				w.want("released", w.last(0).released, true)
				w.want("code", r.Code, 137)
				w.want("left", w.pool.Left(), []int{100})
				w.want("logged", w.logged("worker survived SIGKILL, going on without it"), true)
				w.last(0).die(0, syscall.SIGKILL) // for inWorld
				w.want("left", len(w.pool.Left()), 0)
			})
		})
	}
}

// A slot goes on without a process that survives SIGKILL: what it had in hand is
// released, another process takes its place, a reload goes on, and its late end
// is noted.
func TestSlotGoesOnWithoutUnkillable(t *testing.T) {
	immortal := func(*fakeProc, syscall.Signal) {}
	for name, tt := range map[string]struct {
		ask   func(*world)
		grace time.Duration // before SIGKILL
	}{
		"reload":          {func(w *world) { w.pool.Reload("SIGHUP") }, 8 * time.Second},
		"message timeout": {func(w *world) { w.last(0).ask(AskTimeout) }, killGrace},
		"max-messages":    {func(w *world) { w.last(0).ask(AskRecycle) }, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.Workers, c.TimeoutSignal = 2, syscall.SIGQUIT }, func(w *world) {
				w.run()
				first := w.last(0)
				first.setObey(immortal)
				tt.ask(w)
				w.pass(tt.grace + killGrace - time.Millisecond)
				w.want("processes", w.count(0), 1)
				w.pass(200 * time.Millisecond)
				w.want("processes", w.count(0), 2)
				w.want("released", first.released, true)
				w.want("unkillable", w.pool.Stats().Workers[0].Unkillable, []int{first.pid})
				w.want("exits", w.pool.Stats().Workers[0].LastExit.Text, fmt.Sprintf("survived SIGKILL after %s (%s)", tt.grace+killGrace, w.pool.Stats().Workers[0].LastExit.Cause))
				first.die(0, syscall.SIGKILL)
				synctest.Wait()
				w.want("unkillable", len(w.pool.Stats().Workers[0].Unkillable), 0)
				w.want("logged", w.logged(`"signal":"SIGKILL","uptime":`), true)
				w.want("logged", w.logged("worker that had survived SIGKILL exited"), true)
				w.pass(time.Minute)
				w.want("reload", w.pool.Stats().Reload.Running, false)
				w.pool.Stop("SIGTERM")
				w.want("code", w.wait(time.Minute).Code, 0)
			})
		})
	}
}

// A slot whose processes all survive SIGKILL starts the next one later each time.
func TestUnkillableProcessesDoNotPileUp(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
		w.obey = func(*fakeProc, syscall.Signal) {}
		w.run()
		for range 600 {
			w.last(0).ask(AskTimeout)
			w.pass(time.Second)
		}
		if n := w.count(0); n < 10 || n > 40 {
			t.Errorf("%d processes in ten minutes", n)
		}
		for _, p := range w.procs {
			p.die(0, syscall.SIGKILL)
		}
	})
}

// A signal that may not be sent is logged, with its error.
func TestSignalIsRefused(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
		w.run()
		w.last(0).refuse(syscall.EPERM)
		w.pool.Stop("SIGTERM")
		w.want("code", w.wait(time.Minute).Code, 137)
		for _, name := range []string{"SIGTERM", "SIGKILL"} {
			w.want("logged", w.logged(`"error":"operation not permitted","signal":"`+name+`"`), true)
		}
		w.last(0).die(0, syscall.SIGKILL)
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

// A slot may have several processes: detached ones, and a successor that gets
// ready. All of them hear of a signal; none that has ended does.
func TestForwardToAllOfASlot(t *testing.T) {
	inWorld(t, func(c *Config) { c.StartFirst, c.Ready, c.Workers = true, ReadyNotify, 2 }, func(w *world) {
		w.run()
		w.pass(shortLife)
		for range 2 {
			w.last(0).say(notify.Message{Ready: true})
			w.last(0).ask(AskDetach)
			w.pass(shortLife)
		}
		w.last(1).crash(1)
		w.pass(time.Second)
		for slot := range 2 {
			w.last(slot).say(notify.Message{Ready: true})
		}
		w.pool.Reload("SIGHUP")
		w.pass(time.Millisecond)
		w.pool.Forward(syscall.SIGUSR2)
		synctest.Wait()
		w.want("processes", []int{w.count(0), w.count(1)}, []int{4, 2})
		usr2 := []syscall.Signal{syscall.SIGUSR2}
		for _, tt := range []struct {
			what    string
			slot, n int
			want    []syscall.Signal
		}{
			{"detached first", 0, 0, usr2},
			{"detached next", 0, 1, usr2},
			{"in its place", 0, 2, usr2},
			{"its successor", 0, 3, usr2},
			{"ended", 1, 0, nil},
			{"in another place", 1, 1, usr2},
		} {
			p := w.nth(tt.slot, tt.n)
			w.want(tt.what, p.alone, tt.want)
			w.want(tt.what+", its group", p.got(), "[]")
		}
	})
}

func TestReadyTimeout(t *testing.T) {
	inWorld(t, func(c *Config) { c.Ready = ReadyNotify; c.Workers = 1; c.MinReady = time.Second }, func(w *world) {
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
		w.want("state", w.pool.Stats().Workers[0].State, Ready)
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
