package daemon

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/supervisor"
)

// second is a drain that ends by itself after a second.
func second(time.Time) <-chan struct{} { return whole(time.Now().Add(time.Second)) }

// hangs is a drain that never ends.
func hangs(time.Time) <-chan struct{} { return make(chan struct{}) }

// What happens at a stop, in its order, and what the log says of it.
func TestOrderOfAStop(t *testing.T) {
	inWorld(t, func(c *setup) { c.DrainDelay, c.Pool.Workers = 2*time.Second, 1 }, func(w *world) {
		w.drain = second
		w.run()
		w.d.pool.Stop("SIGTERM")
		w.want("took", w.end(time.Minute), 3*time.Second+10*time.Millisecond)
		w.want("steps", w.begun(), "drain at 2s, clients at 3.01s, exit command at 3.01s, rest at 3.01s, reaper at 3.01s")
		w.want("signals", w.last(0).got(), "[terminated]")
		var lines []string
		for _, m := range regexp.MustCompile(`"message":"([^"]*)"`).FindAllStringSubmatch(w.log.String(), -1) {
			lines = append(lines, m[1])
		}
		w.want("log", strings.Join(lines, "; "), "worker started; stopping; drain delay: still serving; worker exited; "+
			"stopped: handled 118, spooled 0, lost 0, killed 0, in 3.0s")
		w.want("why", w.logged(`"why":"SIGTERM","timeout":"8s","message":"stopping"`), true)
	})
}

// Without a message source there is no drain, and without a command at exit that
// step is not there either.
func TestStopWithoutMessages(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.d.atExit = nil
		w.run()
		w.stop()
		w.want("took", w.end(time.Minute), 10*time.Millisecond)
		w.want("steps", w.begun(), "clients at 10ms, rest at 10ms, reaper at 10ms")
	})
}

// Each step has a deadline, whatever it waits for.
func TestDeadlineOfEachStep(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*world)
		took   time.Duration
		steps  string
	}{
		"nothing is slow": {func(*world) {}, 1010 * time.Millisecond, "drain at 1s, clients at 1.01s, exit command at 1.01s, rest at 1.01s, reaper at 1.01s"},
		"drain":           {func(w *world) { w.drain = whole }, 7010 * time.Millisecond, "drain at 1s, clients at 7.01s, exit command at 7.01s, rest at 7.01s, reaper at 7.01s"},
		"drain that hangs": {func(w *world) { w.drain = hangs }, 8 * time.Second,
			"drain at 1s, clients at 8s, exit command at 8s, rest at 8s, reaper at 8s"},
		"workers": {func(w *world) { w.obey = deaf }, 8 * time.Second,
			"drain at 1s, clients at 8s, exit command at 8s, rest at 8s, reaper at 8s"},
		"clients": {func(w *world) { w.slow["clients"] = true }, 8 * time.Second,
			"drain at 1s, clients at 1.01s, exit command at 8s, rest at 8s, reaper at 8s"},
		"exit command": {func(w *world) { w.slow["exit command"] = true }, 8 * time.Second,
			"drain at 1s, clients at 1.01s, exit command at 1.01s, rest at 8s, reaper at 8s"},
		"rest": {func(w *world) { w.slow["rest"] = true }, 3010 * time.Millisecond,
			"drain at 1s, clients at 1.01s, exit command at 1.01s, rest at 1.01s, reaper at 3.01s"},
		"all": {func(w *world) {
			w.drain, w.obey = hangs, deaf
			w.slow["clients"], w.slow["exit command"], w.slow["rest"] = true, true, true
		}, 8100 * time.Millisecond, "drain at 1s, clients at 8s, exit command at 8s, rest at 8s, reaper at 8.1s"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *setup) { c.DrainDelay = time.Second }, func(w *world) {
				w.drain = func(time.Time) <-chan struct{} { return whole(time.Now()) }
				tt.change(w)
				w.run()
				w.stop()
				w.want("took", w.end(time.Minute), tt.took)
				w.want("steps", w.begun(), tt.steps)
				w.want("killed", w.logged(", killed 3, "), tt.took == 8*time.Second && strings.Contains(tt.steps, "clients at 8s") || name == "all")
			})
		})
	}
}

// A step that hangs is left behind at its limit, and those after it are done.
func TestStepThatHangs(t *testing.T) {
	for name, tt := range map[string]struct {
		second time.Duration // when a second stop is asked for; 0: never
		took   time.Duration
		steps  string
	}{
		"clients":      {0, 8*time.Second + overrun, "clients at 10ms, exit command at 8.5s, rest at 8.5s, reaper at 8.5s"},
		"exit command": {0, 9*time.Second + overrun, "clients at 10ms, exit command at 10ms, rest at 9.5s, reaper at 9.5s"},
		"rest":         {0, 3510 * time.Millisecond, "clients at 10ms, exit command at 10ms, rest at 10ms, reaper at 3.51s"},
		"reaper":       {0, 10*time.Millisecond + overrun, "clients at 10ms, exit command at 10ms, rest at 10ms, reaper at 10ms"},
		"clients, second stop": {time.Second, time.Second + hurriedStep + overrun,
			"clients at 10ms, exit command at 3.5s, rest at 3.5s, reaper at 3.5s"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				step, _, _ := strings.Cut(name, ",")
				w.hung[step] = true
				w.run()
				w.stop()
				if tt.second > 0 {
					time.Sleep(tt.second)
					w.stopNow()
				}
				w.want("took", w.end(time.Minute), tt.took)
				w.want("steps", w.begun(), tt.steps)
				w.want("says so", strings.Count(w.log.String(), "the stop hangs in one of its steps, going on without it"), 1)
				w.want("last line", w.logged("stopped: handled 118,"), true)
			})
		})
	}
}

// What hangs where nothing expects it does not hold up the end either.
func TestLastResort(t *testing.T) {
	for name, tt := range map[string]struct {
		second time.Duration // when a second stop is asked for; 0: never
		took   time.Duration
	}{
		"deadline":                   {0, 8*time.Second + lastResort},
		"second stop":                {2 * time.Second, 2*time.Second + lastResort},
		"second stop, deadline over": {9 * time.Second, 8*time.Second + lastResort},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, nil, func(w *world) {
				w.hung["resume"] = true
				w.run()
				w.stop()
				if tt.second > 0 {
					time.Sleep(tt.second)
					w.stopNow()
				}
				w.want("took", w.end(time.Minute), tt.took)
				w.want("code", <-w.code, 137)
				w.want("log", w.logged("the stop hangs, ending the process"), true)
				w.want("last line", w.logged("stopped: handled 118,"), true)
				w.melt()
				w.code <- 137 // for inWorld
			})
		})
	}
}

// A worker that survives SIGKILL is named in the last line.
func TestLastLineNamesWhatIsLeft(t *testing.T) {
	inWorld(t, func(c *setup) { c.Pool.Workers = 1 }, func(w *world) {
		w.obey = func(*fakeProc, syscall.Signal) {}
		w.run()
		w.stop()
		w.want("took", w.end(time.Minute), 9*time.Second)
		w.want("code", <-w.code, 137)
		w.want("log", w.logged(`"left":[100],"code":137,"message":"stopped: handled 118, spooled 0, lost 0, killed 1, in 9.0s"`), true)
		w.last(0).die(0, syscall.SIGKILL)
		w.code <- 137 // for inWorld
	})
}

// A second stop ends the step at hand, and no later one waits for anything. Only
// while there are workers it says that it kills them.
func TestSecondStopDuringEachStep(t *testing.T) {
	for name, tt := range map[string]struct {
		at    time.Duration // of the second stop
		kills bool
		steps string
	}{
		"at once":      {0, true, "clients at 0s, exit command at 0s, rest at 0s, reaper at 0s"},
		"drain delay":  {500 * time.Millisecond, true, "clients at 500ms, exit command at 500ms, rest at 500ms, reaper at 500ms"},
		"drain":        {1500 * time.Millisecond, true, "drain at 1s, clients at 1.5s, exit command at 1.5s, rest at 1.5s, reaper at 1.5s"},
		"workers":      {2500 * time.Millisecond, true, "drain at 1s, clients at 2.5s, exit command at 2.5s, rest at 2.5s, reaper at 2.5s"},
		"clients":      {3500 * time.Millisecond, false, "drain at 1s, clients at 3s, exit command at 3.5s, rest at 3.5s, reaper at 3.5s"},
		"exit command": {3500 * time.Millisecond, false, "drain at 1s, clients at 3s, exit command at 3s, rest at 3.5s, reaper at 3.5s"},
		"rest":         {3500 * time.Millisecond, false, "drain at 1s, clients at 3s, exit command at 3s, rest at 3s, reaper at 3.5s"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *setup) { c.DrainDelay = time.Second }, func(w *world) {
				w.drain = second
				w.obey = func(p *fakeProc, sig syscall.Signal) { // it takes a second to stop
					time.AfterFunc(time.Second, func() { p.die(0, sig) })
					deaf(p, sig)
				}
				steps := []string{"clients", "exit command", "rest"} // this one and the later ones are slow
				for i, step := range steps {
					if step == name || tt.kills {
						for _, step := range steps[i:] {
							w.slow[step] = true
						}
					}
				}
				w.run()
				w.stop()
				time.Sleep(tt.at)
				w.stopNow()
				w.stopNow() // a third one changes nothing
				w.want("took", w.end(time.Minute), tt.at)
				w.want("steps", w.begun(), tt.steps)
				kills := 0
				if tt.kills {
					kills = 1
				}
				w.want("says so", strings.Count(w.log.String(), "killing the workers now"), kills)
				w.want("killed", w.logged(fmt.Sprintf(", killed %d, ", 3*kills)), true)
			})
		})
	}
}

// A pool that is over by itself waits for nothing that only workers could bring
// about. What has arrived is settled all the same.
func TestPoolOverByItself(t *testing.T) {
	for name, tt := range map[string]struct {
		after time.Duration // the stop; < 0: there is none
		steps string
	}{
		"while it serves": {-1, "drain at 5s, clients at 5s, exit command at 5s, rest at 5s, reaper at 5s"},
		"in the delay":    {time.Second, "drain at 6s, clients at 6s, exit command at 6s, rest at 6s, reaper at 6s"},
		"in the drain":    {3 * time.Second, "drain at 7s, clients at 8s, exit command at 8s, rest at 8s, reaper at 8s"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *setup) { c.Pool.Workers, c.Pool.GiveUp, c.DrainDelay = 1, 1, 2*time.Second }, func(w *world) {
				var untils []time.Duration
				w.drain = func(until time.Time) <-chan struct{} {
					untils = append(untils, until.Sub(w.began))
					return whole(until)
				}
				w.run()
				w.pass(5 * time.Second)
				began := 0
				if tt.after >= 0 {
					w.stop()
					began++
					w.pass(tt.after)
				}
				w.last(0).crash(4)
				now := time.Since(w.began)
				w.want("ended at", w.end(time.Millisecond), now)
				w.want("code", w.wait(time.Millisecond).Code, 4)
				w.want("steps", w.begun(), tt.steps)
				w.want("times it is said", strings.Count(w.log.String(), `"message":"stopping"`), began+1)
				w.want("why", w.logged(`"why":"every worker failed too many times in a row","message":"stopping"`), true)
				if name == "in the drain" {
					now = 12 * time.Second // the end of the time that it had
				}
				w.want("time of the drain", untils, []time.Duration{now})
			})
		})
	}
}

// What has arrived is settled in order even if messages wait that no worker will
// ever handle: only a drain with workers looks for them.
func TestHelplessDrainIsNotCutShort(t *testing.T) {
	inWorld(t, func(c *setup) { c.Pool.Restart, c.waits = supervisor.RestartNever, func() bool { return true } }, func(w *world) {
		w.drain = second
		w.run()
		for slot := range 3 {
			w.last(slot).crash(0)
		}
		w.want("took", w.end(time.Minute), time.Second)
		w.want("processes", w.count(0), 1)
		w.want("gives up", w.logged("no worker can start before the deadline"), false)
	})
}

// A request that comes while the pool stops by itself changes nothing, unless it is one
// to kill.
func TestStopOfAPoolThatIsOver(t *testing.T) {
	inWorld(t, func(c *setup) { c.Pool.Restart = supervisor.RestartNever }, func(w *world) {
		w.drain = hangs
		w.slow["clients"], w.slow["exit command"], w.slow["rest"] = true, true, true
		w.run()
		for slot := range 3 {
			w.last(slot).crash(0)
		}
		w.want("why", w.logged(`"why":"no worker is left to restart","message":"stopping"`), true)
		w.pass(500 * time.Millisecond)
		w.stop()
		w.pass(500 * time.Millisecond)
		w.want("says that it stops already", w.logged("already stopping"), true)
		w.stopNow()
		w.want("took", w.end(time.Millisecond), time.Second)
		w.want("says so", w.logged("killing the workers now"), true)
	})
}

// A command that cannot be started has a log line of its own. There is no
// worker that a drain could wait for.
func TestStopWhenTheCommandIsBroken(t *testing.T) {
	inWorld(t, func(c *setup) { c.DrainDelay = time.Second }, func(w *world) {
		w.drain = whole
		w.refuse = func(supervisor.Identity) error { return errNoFile }
		w.run()
		w.want("took", w.end(time.Millisecond), time.Duration(0))
		w.want("code", w.wait(time.Millisecond).Code, 127)
		w.want("steps", w.begun(), "drain at 0s, clients at 0s, exit command at 0s, rest at 0s, reaper at 0s")
		w.want("lines", strings.Count(w.log.String(), `"message":"cannot start the command"`), 1)
		w.want("lines", strings.Count(w.log.String(), `"message":"stopping"`), 0)
	})
}

// When Stop returns the pool has been told: a reload that is asked for later is
// refused.
func TestReloadRightAfterAStop(t *testing.T) {
	for range 50 { // of a race one side wins sometimes
		inWorld(t, func(c *setup) { c.DrainDelay = time.Second }, func(w *world) {
			w.run()
			w.stop()
			w.want("reload", (<-w.d.pool.ReloadWait("SIGUSR1")).Outcome, supervisor.Interrupted)
			w.want("stopping", w.d.pool.Stats().Stopping, "SIGTERM")
			w.want("refused", w.logged("reload refused: the pool is stopping"), true)
			w.want("generation", w.d.pool.Generation(), 1)
		})
	}
}

// What timeout(1) sends twice is one request. The same signal later is another, and
// the second SIGINT kills.
func TestStopBySignals(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.obey = deaf
		w.run()
		w.d.pool.signal(syscall.SIGINT)
		w.pass(99 * time.Millisecond)
		w.d.pool.signal(syscall.SIGINT)
		w.pass(time.Second)
		w.want("signals", w.last(0).got(), "[terminated]")
		w.d.pool.signal(syscall.SIGINT)
		synctest.Wait()
		w.want("signals", w.last(0).got(), "[terminated killed]")
		w.want("code", w.wait(time.Millisecond).Code, 137)
	})
}

// A request that comes after the end returns at once, and is not logged.
func TestStopAfterTheEnd(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		w.stop()
		w.end(time.Minute)
		w.stopNow()
		w.stopNow()
		w.want("lines", strings.Count(w.log.String(), "stop request"), 0)
	})
}
