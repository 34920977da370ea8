package supervisor

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

func (w *world) scale(n int) {
	w.t.Helper()
	if err := w.pool.Scale(n); err != nil {
		w.t.Errorf("scale to %d: %v", n, err)
	}
	synctest.Wait()
}

// shown are the states of the workers that Stats has.
func (w *world) shown() (states []State) {
	for _, s := range w.pool.Stats().Workers {
		states = append(states, s.State)
	}
	return states
}

func TestScaleUp(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
		w.run()
		w.scale(3)
		w.want("workers", w.pool.Workers(), 3)
		w.want("shown", w.shown(), "[ready ready ready]")
		for slot := 1; slot < 3; slot++ {
			w.want("identity", w.last(slot).id, Identity{ID: slot, Workers: 3, Generation: 1})
		}
		w.want("the first one", w.count(0), 1)
		w.last(2).crash(1)
		w.pass(time.Second)
		w.want("restarts", w.count(2), 2)
		w.scale(3)
		w.want("scaled again", w.alive(), 3)
		told := w.pool.ReloadWait("SIGUSR1")
		w.pass(time.Second)
		w.want("outcome", (<-told).Outcome, Complete)
		w.want("reloaded", []int{w.count(0), w.count(1), w.count(2)}, []int{2, 2, 3})
	})
}

// The workers with the highest numbers stop, when they have answered what they
// have in hand, and are shown until then.
func TestScaleDown(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 4 }, func(w *world) {
		w.run()
		w.pass(time.Minute)
		p := w.last(3)
		p.inHand = make(chan struct{})
		w.scale(2)
		w.want("fed", p.fed.Load(), false)
		w.pass(5 * time.Second)
		w.want("signals", p.got(), "[]")
		w.want("shown", w.shown(), "[ready ready stopped stopping]")
		stats := w.pool.Stats()
		w.want("wanted, running", []int{stats.Wanted, stats.Running()}, []int{2, 3})
		close(p.inHand)
		w.pass(10 * time.Millisecond)
		w.want("signals", p.got(), "[terminated]")
		w.want("shown", w.shown(), "[ready ready]")
		w.want("exits", w.pool.Stats().Exits, map[Cause]uint64{Scaled: 2})
		w.pass(time.Hour)
		w.want("alive", w.alive(), 2)

		w.last(0).crash(1)
		w.pass(time.Second)
		w.want("identity", w.last(0).id, Identity{ID: 0, Workers: 2, Generation: 1})
		w.scale(3)
		w.want("shown", w.shown(), "[ready ready ready]")
		w.want("starts", w.pool.Stats().Workers[2].Starts, uint64(2))
		w.pool.Stop("SIGTERM")
		w.want("code", w.wait(time.Second).Code, 0)
	})
}

// A worker that is wanted again while it stops is followed by another one.
func TestScaleDownAndUp(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 2 }, func(w *world) {
		w.obey = deaf
		w.run()
		w.scale(1)
		w.scale(2)
		w.want("shown", w.shown(), "[ready stopping]")
		w.pass(8 * time.Second)
		w.want("shown", w.shown(), "[ready ready]")
		w.want("processes", w.count(1), 2)
	})
}

// What a slot does when it is not wanted any more does not matter: it ends up
// empty.
func TestScaleDownInAnyState(t *testing.T) {
	for name, tt := range map[string]struct {
		config func(*Config)
		before func(w *world)
		within time.Duration
	}{
		"backs off":    {nil, func(w *world) { w.last(1).crash(1) }, 0},
		"has retired":  {func(c *Config) { c.Restart = RestartOnFailure }, func(w *world) { w.last(1).crash(0) }, 0},
		"is not ready": {func(c *Config) { c.Ready = ReadyNotify }, func(w *world) {}, 10 * time.Millisecond},
		"is detached":  {nil, func(w *world) { w.pass(time.Minute); w.last(1).ask(AskDetach) }, 10 * time.Millisecond},
		"is replaced": {func(c *Config) { c.StopTimeout = time.Minute }, func(w *world) {
			p := w.last(1)
			p.inHand = make(chan struct{})
			p.ask(AskRecycle)
			time.AfterFunc(time.Second, func() { close(p.inHand) })
		}, 1010 * time.Millisecond},
		"has a successor": {func(c *Config) { c.StartFirst, c.Ready = true, ReadyNotify }, func(w *world) {
			w.last(1).say(notify.Message{Ready: true})
			w.last(1).ask(AskRecycle)
			w.pass(time.Second)
			w.last(1).say(notify.Message{Ready: true})
		}, 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) {
				c.Workers = 2
				if tt.config != nil {
					tt.config(c)
				}
			}, func(w *world) {
				w.run()
				tt.before(w)
				w.scale(1)
				w.pass(tt.within)
				state, cur, next := w.pool.places.all[1].look()
				w.want("state", []any{state, cur == nil, next == nil}, []any{slotParked, true, true})
				n := w.count(1)
				w.pass(time.Hour)
				w.want("processes", w.count(1), n)
				if strings := w.shown(); len(strings) > 2 {
					t.Error(strings)
				}
			})
		})
	}
}

func TestScaleIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		n      int
		before func(w *world)
		want   string
	}{
		"none":         {0, nil, "0 workers are not allowed: from 1 to 65536"},
		"too many":     {65537, nil, "65537 workers are not allowed: from 1 to 65536"},
		"reloads":      {2, func(w *world) { w.pool.Reload("SIGUSR1") }, "a reload is running: scale the pool when it has ended"},
		"stops":        {2, func(w *world) { w.pool.Stop("SIGTERM") }, "the pool is stopping"},
		"has stopped":  {2, func(w *world) { w.pool.Stop("SIGTERM"); w.wait(time.Minute) }, "the pool is stopping"},
		"has terminal": {2, func(w *world) { w.pool.cfg.Interactive = true }, "the worker has the terminal: there can be only one"},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
				w.run()
				if tt.before != nil {
					tt.before(w)
				}
				w.want("error", fmt.Sprint(w.pool.Scale(tt.n)), tt.want)
				w.want("workers", w.pool.Workers(), 1)
			})
		})
	}
}

// A pool that serves is ready while it gets more workers. One that has not been
// ready yet waits for them, too.
func TestScaleAndReadiness(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.Ready = 2, ReadyNotify }, func(w *world) {
		w.run()
		ready := func() bool { s := w.pool.Stats(); ok, _ := s.Ready(); return ok }
		w.last(0).say(notify.Message{Ready: true})
		w.scale(3)
		w.last(1).say(notify.Message{Ready: true})
		w.want("before all have been ready", ready(), false)
		w.last(2).say(notify.Message{Ready: true})
		w.want("then", ready(), true)
		w.scale(4)
		w.want("scaled up", ready(), true)
		w.scale(2)
		w.scale(4)
		w.want("scaled down and up", ready(), true)
	})
	inWorld(t, func(c *Config) { c.Workers, c.Ready = 2, ReadyNotify }, func(w *world) {
		w.run()
		w.last(0).say(notify.Message{Ready: true})
		w.scale(1) // the one that never gets ready is not wanted any more
		s := w.pool.Stats()
		ok, why := s.Ready()
		w.want("ready", fmt.Sprint(ok, why), "true")
	})
}

// A slot that is not wanted neither keeps the pool from giving up, nor from
// ending when no worker is left.
func TestScaleAndTheEnd(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.GiveUp = 3, 3 }, func(w *world) {
		w.run()
		w.scale(1)
		for range 3 {
			w.pass(time.Second)
			w.last(0).crash(5)
		}
		w.want("code", w.wait(time.Minute).Code, 5)
	})
	inWorld(t, func(c *Config) { c.Workers, c.GiveUp = 2, 3 }, func(w *world) {
		w.run()
		for range 2 {
			for slot := range 2 {
				w.last(slot).crash(5)
			}
			w.pass(time.Second)
		}
		w.scale(1)
		w.scale(2) // slot 1 begins anew
		w.pass(time.Second)
		w.last(0).crash(5)
		w.pass(time.Second)
		w.want("running", len(w.result), 0)
	})
	inWorld(t, func(c *Config) { c.Workers, c.Restart = 2, RestartNever }, func(w *world) {
		w.run()
		w.last(0).crash(0)
		w.want("running", len(w.result), 0)
		w.scale(1)
		w.want("code", w.wait(time.Minute).Code, 0)
		w.want("why", w.pool.Stats().Stopping, "no worker is left to restart")
	})
}
