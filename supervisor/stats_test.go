package supervisor

import (
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

func TestStatsOfALife(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers, c.Ready = 1, ReadyNotify }, func(w *world) {
		began := time.Now()
		w.run()
		s := w.pool.Stats()
		first := s.Workers[0]
		w.want("state", first.State, Starting)
		w.want("complete", s.Complete, false)
		w.want("pid", first.PID, w.last(0).pid)
		w.want("began", s.Began, began)
		if ok, why := s.Ready(); ok || why != "not every worker has been ready yet" {
			t.Errorf("ready: %v, %q", ok, why)
		}
		w.pass(time.Second)
		w.last(0).say(notify.Message{Ready: true, Status: "at work"})
		w.pass(0)
		s = w.pool.Stats()
		w.want("state", s.Workers[0].State, Ready)
		w.want("since", s.Workers[0].Since, began.Add(time.Second))
		w.want("started", s.Workers[0].Started, began)
		w.want("status", s.Workers[0].Status, "at work")
		if ok, why := s.Ready(); !ok || why != "" {
			t.Errorf("ready: %v, %q", ok, why)
		}

		w.last(0).die(3, 0)
		w.pass(0)
		s = w.pool.Stats()
		last := s.Workers[0].LastExit
		w.want("state", s.Workers[0].State, Backoff)
		w.want("cause", last.Cause, Crash)
		w.want("text", last.Text, "exited with code 3 after 1s (crash)")
		w.want("failures", s.Workers[0].Failures, 1)
		w.want("exits", s.Exits[Crash], uint64(1))
		w.want("pid", s.Workers[0].PID, 0)
		if in := time.Until(s.Workers[0].NextStart); in < 80*time.Millisecond || in > 120*time.Millisecond {
			t.Errorf("the next start is in %v", in)
		}
		if ok, why := s.Ready(); ok || why != "no worker is ready" {
			t.Errorf("ready: %v, %q", ok, why)
		}
		w.pass(time.Second)
		s = w.pool.Stats()
		w.want("state", s.Workers[0].State, Starting)
		w.want("starts", s.Workers[0].Starts, uint64(2))
		w.want("next start", s.Workers[0].NextStart, time.Time{})

		w.pool.Stop("the end")
		w.pass(0)
		s = w.pool.Stats()
		w.want("stopping", s.Stopping, "the end")
		w.want("cause", s.Workers[0].LastExit.Cause, Crash)
		if ok, why := s.Ready(); ok || why != "the pool stops: the end" {
			t.Errorf("ready: %v, %q", ok, why)
		}
		w.wait(time.Minute)
		s = w.pool.Stats()
		w.want("cause", s.Workers[0].LastExit.Cause, Stop)
		w.want("signal", s.Workers[0].LastExit.SignalName(), "SIGTERM")
	})
}

// What every cause, and no other, leads to in the counts.
func TestStatsCountsEveryCause(t *testing.T) {
	for _, c := range []struct {
		cause  Cause
		config func(*Config)
		make   func(w *world)
	}{
		{Done, nil, func(w *world) { w.last(0).die(0, 0) }},
		{Crash, nil, func(w *world) { w.last(0).die(0, syscall.SIGSEGV) }},
		{OOM, nil, func(w *world) { w.set(func() { w.oom = true }); w.last(0).die(0, syscall.SIGKILL) }},
		{NotReady, func(c *Config) { c.Ready, c.ReadyTimeout = ReadyNotify, time.Second }, func(w *world) { w.pass(2 * time.Second) }},
		{Hung, func(c *Config) { c.Watchdog = time.Second }, func(w *world) { w.pass(2 * time.Second) }},
		{Reloaded, nil, func(w *world) { w.pool.Reload("x") }},
		{Lifetime, func(c *Config) { c.MaxLifetime = time.Second }, func(w *world) { w.pass(1500 * time.Millisecond) }},
		{NoStart, nil, func(w *world) {
			w.set(func() { w.refuse = func(Identity) error { return errors.New("no") } })
			w.last(0).die(1, 0)
			w.pass(150 * time.Millisecond)
		}},
	} {
		t.Run(string(c.cause), func(t *testing.T) {
			inWorld(t, func(cfg *Config) {
				cfg.Workers = 1
				if c.config != nil {
					c.config(cfg)
				}
			}, func(w *world) {
				w.run()
				c.make(w)
				w.pass(50 * time.Millisecond)
				s := w.pool.Stats()
				w.want("exits", s.Exits[c.cause], uint64(1))
				w.want("last", s.Workers[0].LastExit.Cause, c.cause)
				if !slices.Contains(Causes(), c.cause) {
					t.Errorf("Causes lacks it")
				}
			})
		})
	}
}

func TestStatsOfReloads(t *testing.T) {
	inWorld(t, func(c *Config) { c.Ready = ReadyNotify }, func(w *world) {
		var told []ReloadResult
		w.pool.cfg.OnReload = func(r ReloadResult) { told = append(told, r) }
		w.run()
		for i := range 3 {
			w.last(i).say(notify.Message{Ready: true})
		}
		w.pass(0)
		first := w.pool.ReloadWait("one")
		second := w.pool.ReloadWait("two")
		third := w.pool.ReloadWait("three")
		w.pass(100 * time.Millisecond)
		s := w.pool.Stats().Reload
		w.want("running", s.Running && s.Queued, true)
		w.want("generation", s.Generation, 2)
		w.want("replaced", s.Replaced, 0)
		w.last(0).say(notify.Message{Ready: true})
		w.pass(100 * time.Millisecond)
		w.want("replaced", w.pool.Stats().Reload.Replaced, 1)
		for i := 1; i < 3; i++ {
			w.last(i).say(notify.Message{Ready: true})
			w.pass(100 * time.Millisecond)
		}
		w.want("first", (<-first).Outcome, Complete)
		w.last(0).die(1, 0) // of the second reload
		w.pass(100 * time.Millisecond)
		for _, c := range []<-chan ReloadResult{second, third} {
			r := <-c
			w.want("outcome", r.Outcome, Failed)
			w.want("generation", r.Generation, 3)
			if r.Reason == "" {
				t.Error("no reason")
			}
		}
		s = w.pool.Stats().Reload
		w.want("running", s.Running || s.Queued, false)
		w.want("last", s.Last.Outcome, Failed)
		w.want("results", s.Results[Complete]+10*s.Results[Failed]+100*s.Results[Interrupted], uint64(11))
		w.want("told", len(told), 2)

		fourth := w.pool.ReloadWait("four")
		fifth := w.pool.ReloadWait("five")
		w.pool.Stop("enough")
		w.want("fourth", (<-fourth).Outcome, Interrupted)
		w.want("fifth", (<-fifth).Outcome, Interrupted)
		w.want("sixth", (<-w.pool.ReloadWait("six")).Outcome, Interrupted)
		w.wait(time.Minute)
		w.want("seventh", (<-w.pool.ReloadWait("seven")).Outcome, Interrupted)
	})
}
