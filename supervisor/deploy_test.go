package supervisor

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Tests of new versions that do not work, and of commands that never do.

// A canary that dies with a message in hand may be a victim of that message. It is
// replaced once; the message is elsewhere by then.
func TestCanaryDiesOfMessage(t *testing.T) {
	for name, end := range map[string]func(*fakeProc){
		"crashes":        func(p *fakeProc) { p.hold(); p.crash(1) },
		"takes too long": func(p *fakeProc) { p.hold(); p.ask(AskTimeout) },
	} {
		for _, startFirst := range []bool{false, true} {
			for _, again := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, startFirst=%v, again=%v", name, startFirst, again), func(t *testing.T) {
					inWorld(t, auto(func(c *Config) { c.StartFirst = startFirst }), func(w *world) {
						w.run()
						w.pass(10 * time.Second)
						told := w.pool.ReloadWait("SIGUSR1")
						w.pass(time.Second)
						end(w.nth(0, 1))
						w.pass(time.Second)
						w.want("new canaries", w.count(0), 3)
						w.want("results", len(told), 0)
						if again {
							end(w.nth(0, 2))
						}
						w.want("outcome", (<-told).Outcome, map[bool]Outcome{false: Complete, true: Failed}[again])
						want := map[bool][]int{false: {2, 2}, true: {1, 1}}[again]
						w.want("the others", []int{w.count(1), w.count(2)}, want)
					})
				})
			}
		}
	}
}

// The same holds for a worker that was ready and has not answered yet.
func TestNewWorkersDieOfMessages(t *testing.T) {
	for deaths, want := range map[int]Outcome{1: Complete, 2: Failed} {
		inWorld(t, auto(func(c *Config) { c.Workers = 10 }), func(w *world) {
			w.run()
			w.pass(10 * time.Second)
			told := w.pool.ReloadWait("SIGUSR1")
			w.pass(3100 * time.Millisecond)
			for slot := range deaths {
				w.last(slot).hold()
				w.last(slot).crash(1)
				w.pass(time.Second)
			}
			w.want("outcome", (<-told).Outcome, want)
		})
	}
}

// No worker is stopped for a version that cannot be started.
func TestReloadLooksFirst(t *testing.T) {
	release := make(chan struct{})
	for name, tt := range map[string]struct {
		look   func() error
		reason string
	}{
		"missing": {func() error { return errors.New("exec ./app: no such file there") }, "exec ./app: no such file there"},
		"hangs":   {func() error { <-release; return nil }, "the command was not looked up within 10s"},
	} {
		for _, startFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, startFirst=%v", name, startFirst), func(t *testing.T) {
				inWorld(t, auto(func(c *Config) { c.Look, c.StartFirst = tt.look, startFirst }), func(w *world) {
					release = make(chan struct{})
					w.run()
					result := <-w.pool.ReloadWait("SIGUSR1")
					w.want("result", []string{string(result.Outcome), result.Reason}, []string{"failed", tt.reason})
					w.want("processes", w.procsCount(), 3)
					w.want("signals", w.last(0).got(), "[]")
					told := w.pool.ReloadWait("SIGUSR1")
					w.pass(time.Second)
					w.pool.Stop("SIGTERM") // not even a look that hangs delays it
					w.want("code", w.wait(time.Second).Code, 0)
					<-told
					close(release)
				})
			})
		}
	}
}

// A reload replaces one worker, and then as many at a time as it may.
func TestReloadParallel(t *testing.T) {
	for _, tt := range []struct {
		workers int
		part    Part
		most    int
		took    time.Duration
	}{
		{10, Part{Percent: 10}, 1, 6 * time.Second},
		{10, Part{}, 1, 6 * time.Second},
		{100, Part{Percent: 10}, 10, 6 * time.Second},
		{100, Part{Number: 1}, 1, 33 * time.Second},
		{100, Part{Number: 50}, 50, 4 * time.Second},
		{4, Part{Percent: 100}, 3, 3500 * time.Millisecond},
		{1, Part{Number: 7}, 1, 3100 * time.Millisecond},
	} {
		for _, startFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d by %+v, startFirst=%v", tt.workers, tt.part, startFirst), func(t *testing.T) {
				inWorld(t, auto(func(c *Config) { c.Workers, c.ReloadParallel, c.StartFirst = tt.workers, tt.part, startFirst }), func(w *world) {
					w.obey = prompt
					w.run()
					w.pass(10 * time.Second)
					told := w.pool.ReloadWait("SIGUSR1")
					most := 0
					for len(told) == 0 {
						w.pass(10 * time.Millisecond)
						stats := w.pool.Stats()
						at := 0
						for _, s := range stats.Workers {
							if s.State == Starting || s.Successor != 0 {
								at++
							}
						}
						most = max(most, at)
						if stats.Reload.Replaced == 0 {
							w.want("beside the canary", at, 1)
						}
						if t.Failed() {
							return
						}
					}
					result := <-told
					w.want("outcome", result.Outcome, Complete)
					w.want("most at a time", most, tt.most)
					if result.Took > tt.took {
						t.Errorf("it took %s, want at most %s", result.Took, tt.took)
					}
					w.want("replaced", w.pool.Stats().Reload.Replaced, tt.workers)
				})
			})
		}
	}
}

// A failure after the canary costs what is replaced at that time, and no more.
func TestReloadParallelFails(t *testing.T) {
	inWorld(t, auto(func(c *Config) { c.Workers, c.ReloadParallel = 10, Part{Number: 3} }), func(w *world) {
		w.run()
		w.pass(10 * time.Second)
		told := w.pool.ReloadWait("SIGUSR1")
		w.pass(3100 * time.Millisecond)
		w.nth(2, 1).crash(1)
		result := <-told
		w.want("result", result.Reason, "new worker 2 is not ready: exited with code 1 after 80ms (crash)")
		w.pass(time.Minute)
		for slot := 4; slot < 10; slot++ {
			w.want("processes", w.count(slot), 1)
		}
	})
}

// Who reloads is told what the worker at fault has printed.
func TestReloadTellsLastLines(t *testing.T) {
	lines := func(worker int) string { return fmt.Sprintf("Traceback of %d", worker) }
	inWorld(t, auto(func(c *Config) { c.LastLines = lines }), func(w *world) {
		w.run()
		told := w.pool.ReloadWait("SIGUSR1")
		w.pass(time.Second)
		w.last(0).crash(1)
		w.want("lines", (<-told).LastLines, "Traceback of 0")
		w.want("logged", w.logged(`"stderr":"Traceback of 0"`), true)
	})
}

// A command that ends well at once, over and over, has nothing to do. It is not
// started ten times a second for ever.
func TestIdleLives(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.GiveUp = 2, 10 }, func(w *world) {
		began := time.Now()
		w.run()
		for len(w.result) == 0 && time.Since(began) < 5*time.Minute {
			for slot := range 2 {
				w.last(slot).crash(0)
			}
			w.pass(10 * time.Millisecond)
		}
		w.want("code", w.wait(time.Second).Code, 1)
		w.want("starts", []int{w.count(0), w.count(1)}, []int{mostIdle - 1 + 10, mostIdle - 1 + 10})
		w.want("warned", strings.Count(w.log.String(), "workers exit with code 0 immediately, backing off"), 2)
		w.want("why", w.logged("every worker failed too many times in a row"), false) // the daemon logs it
		if took := time.Since(began); took < 30*time.Second || took > 80*time.Second {
			t.Errorf("it gave up after %s", took)
		}
	})
}

// What is not idle: a life that answers a message, or lasts for a second, or a
// policy that does not restart.
func TestBusyLives(t *testing.T) {
	for name, life := range map[string]func(w *world){
		"answers":    func(w *world) { w.last(0).answer(); w.last(0).crash(0) },
		"lasts":      func(w *world) { w.pass(shortLife); w.last(0).crash(0) },
		"now and so": func(w *world) { w.last(0).crash(0); w.pass(time.Second / 2); w.pass(shortLife); w.last(0).crash(0) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, auto(func(c *Config) { c.Workers = 1 }), func(w *world) {
				w.run()
				for range 40 {
					life(w)
					w.pass(125 * time.Millisecond)
				}
				w.want("alive", w.alive(), 1)
				w.want("warnings", w.logged(`"level":"warn"`), false)
			})
		})
	}
}

// A command that puts itself into the background is told so.
func TestBackground(t *testing.T) {
	for name, tt := range map[string]struct {
		left     []string
		children bool
		want     []string
	}{
		"left to poolinit": {[]string{"redis-server (17)"}, false, []string{"it daemonizes", `"processes":["redis-server (17)"]`, `"hint":"redis-server: --daemonize no"`}},
		"in its group":     {nil, true, []string{"it daemonizes"}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) {
				c.Workers, c.Foreground = 1, "redis-server: --daemonize no"
				c.Background = func(time.Time) []string { return tt.left }
			}, func(w *world) {
				w.run()
				for range mostIdle {
					if tt.children {
						w.last(0).getChildren()
					}
					w.last(0).crash(0)
					w.pass(130 * time.Millisecond)
				}
				for _, text := range tt.want {
					w.want(text, w.logged(text), true)
				}
			})
		})
	}
}

// A --max-memory below what a worker needs at rest does not replace it every
// second for ever.
func TestMaxMemoryTooLow(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.MaxMemory = 1, 100<<20 }, func(w *world) {
		w.set(func() { w.rss = 200 << 20 })
		w.run()
		w.pass(10 * time.Minute)
		if n := w.procsCount(); n < 15 || n > 40 {
			t.Errorf("%d processes in 10 minutes", n)
		}
		for _, text := range []string{`"level":"warn"`, "--max-memory is too low", `"memory":"200.0MiB"`, `"limit":"`} {
			w.want(text, w.logged(text), true)
		}
		// A limit that is right again, as for a leak, is looked at each second.
		w.set(func() { w.rss = 50 << 20 })
		w.pass(time.Minute)
		n := w.procsCount()
		w.set(func() { w.rss = 200 << 20 })
		w.pass(memoryTick + 100*time.Millisecond)
		w.want("replaced", w.procsCount(), n+1)
	})
}

// With StopAlone a worker ends its children itself. What it leaves is swept, and
// SIGKILL is for all.
func TestStopAlone(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.StopAlone = 1, true }, func(w *world) {
		w.run()
		p := w.last(0)
		p.getChildren()
		w.pool.Reload("SIGUSR1")
		w.pass(time.Second)
		w.want("to it", fmt.Sprint(p.signalsAlone()), "[terminated]")
		w.want("to the group", p.got(), "[]")
		p.die(0, 0)
		synctest.Wait()
		w.want("to what it left", p.got(), "[terminated]")
		w.pass(time.Second)
		p = w.last(0)
		p.setObey(deaf)
		w.pool.Stop("SIGTERM")
		w.want("code", w.wait(10*time.Second).Code, 137)
		w.want("to it", fmt.Sprint(p.signalsAlone()), "[terminated]")
		w.want("to the group", p.got(), "[killed]")
	})
}

// The order of exit codes: what poolinit could not do, then a kill, then a
// worker's own.
func TestExitCodesInOrder(t *testing.T) {
	for name, tt := range map[string]struct {
		restart Restart
		crashes int
		code    int
		final   bool
	}{
		"a kill goes before a worker's code": {RestartNever, 1, 137, false},
		"giving up goes before a kill":       {RestartAlways, 2, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.Workers, c.Restart, c.GiveUp = 2, tt.restart, tt.crashes }, func(w *world) {
				w.obey = deaf
				w.run()
				for range tt.crashes {
					w.last(0).crash(3)
					if tt.restart == RestartAlways {
						w.last(1).crash(3)
					}
					if tt.final && len(w.result) > 0 {
						break
					}
					w.pass(time.Second)
				}
				w.pool.Stop("SIGTERM")
				result := w.wait(10 * time.Second)
				w.want("code", []any{result.Code, result.Final}, []any{tt.code, tt.final})
			})
		})
	}
}

// signalsAlone returns the signals that went to the process alone, but for CONT.
func (p *fakeProc) signalsAlone() (sigs []syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sig := range p.alone {
		if sig != syscall.SIGCONT {
			sigs = append(sigs, sig)
		}
	}
	return sigs
}
