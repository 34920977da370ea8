package supervisor

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Stop drives the phases of a stop for tests that are not about when each of them
// begins: there are no messages to wait for. The second one kills the workers.
func (p *Pool) Stop(why string) {
	p.request(func() {
		if p.phase >= stopping {
			p.kill()
			return
		}
		p.halt(why)
		p.stopWorkers(time.Now().Add(p.cfg.StopTimeout))
	})
}

// runToEnd runs a pool, and stops its workers if it is over by itself.
func (p *Pool) runToEnd() Result {
	go func() { // ends with the pool
		select {
		case <-p.Over():
			p.StopWorkers(time.Now().Add(p.cfg.StopTimeout))
		case <-p.Done():
		}
	}()
	return p.Run()
}

// drain keeps the workers of a pool that has halted at work, as if messages
// waited for them, for as long as a stop can. Then it stops them.
func (p *Pool) drain(deadline time.Time) {
	until := deadline.Add(-p.cfg.LastPart())
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(until) {
		p.SkipBackoff()
		if p.IsLost(until) {
			break
		}
		select {
		case <-tick.C:
		case <-p.stopping:
			return
		}
	}
	p.StopWorkers(deadline)
}

// A pool that has halted is not ready, serves and restarts, but does not reload.
func TestHalt(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.run()
		w.pool.Halt("SIGTERM")
		w.pool.Halt("another reason")
		w.pass(time.Second)
		w.want("stopping", w.pool.Stats().Stopping, "SIGTERM")
		w.want("signals", w.last(0).got(), "[]")
		w.last(0).crash(1)
		w.want("reload", (<-w.pool.ReloadWait("SIGUSR1")).Outcome, Interrupted)
		w.pass(time.Second)
		w.want("processes", w.count(0), 2)
		w.want("generation", w.pool.Generation(), 1)
		w.pool.StopWorkers(time.Now().Add(time.Second))
		r := w.wait(time.Second)
		w.want("code", r.Code, 0)
		w.want("took", r.Took, 2*time.Second+10*time.Millisecond)
	})
}

// What kills the workers may come first of all.
func TestKill(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.obey = deaf
		w.run()
		w.pool.Kill()
		w.pool.StopWorkers(time.Now().Add(time.Hour))
		w.want("killed", w.wait(time.Millisecond).Killed, 3)
	})
}

// A slot skips one backoff, and is lost when its next start comes too late.
func TestSkipBackoff(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.RestartDelay = 1, 20*time.Second }, func(w *world) {
		w.run()
		soon, late := time.Now().Add(10*time.Second), time.Now().Add(time.Hour)
		w.want("lost with a worker", w.pool.IsLost(soon), false)
		w.last(0).crash(1)
		w.pass(time.Second)
		w.want("lost before it has skipped", w.pool.IsLost(soon), false)
		w.pool.Halt("SIGTERM")
		w.pool.SkipBackoff()
		synctest.Wait()
		w.want("processes", w.count(0), 2)
		w.last(0).crash(1)
		w.pass(time.Second)
		w.pool.SkipBackoff()
		synctest.Wait()
		w.want("processes", w.count(0), 2)
		w.want("lost soon", w.pool.IsLost(soon), true)
		w.want("lost for good", w.pool.IsLost(late), false)
	})
}

// A pool that is over by itself says so once, with what can still be done, and
// waits to be stopped.
func TestOver(t *testing.T) {
	for name, tt := range map[string]struct {
		config func(*Config)
		end    func(*world)
		want   Over
	}{
		"gives up": {func(c *Config) { c.GiveUp = 1 }, func(w *world) { w.last(0).crash(4) },
			Over{Why: "every worker failed too many times in a row", How: "exited with code 4 after 0s (crash)"}},
		"none is left": {func(c *Config) { c.Restart = RestartNever }, func(w *world) { w.last(0).die(0, syscall.SIGSEGV) },
			Over{Why: "no worker is left to restart", How: "died of SIGSEGV after 0s (crash)"}},
		"none is needed": {func(c *Config) { c.Restart = RestartOnFailure }, func(w *world) { w.last(0).die(0, 0) },
			Over{Why: "no worker is left to restart", Worker: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) {
				c.Workers = 1
				tt.config(c)
			}, func(w *world) {
				w.started = true
				go func() { w.result <- w.pool.Run() }() // ends with the pool; inWorld waits for it
				synctest.Wait()
				tt.end(w)
				w.want("over", <-w.pool.Over(), tt.want)
				w.pass(time.Minute)
				w.want("ended", len(w.result), 0)
				w.want("stopping", w.pool.Stats().Stopping, tt.want.Why)
				w.pool.StopWorkers(time.Now())
				w.wait(time.Millisecond)
			})
		})
	}
}
