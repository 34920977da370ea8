package supervisor

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper"
)

// What an end does to the count of failures in a row, which was 4, and how long
// the slot waits then: not at all, for one RestartDelay at most, or for the fifth
// delay of the backoff.
func TestBlame(t *testing.T) {
	began := time.Now()
	var (
		none     = Life{}
		holds    = Life{Held: true}
		answered = Life{Answered: true, LastAnswer: began.Add(time.Second)}
		both     = Life{Answered: true, Held: true, LastAnswer: began.Add(time.Second)}
		another  = Life{Held: true, LastAnswer: began.Add(time.Second)}
		earlier  = Life{Held: true, LastAnswer: began.Add(-time.Second)}
	)
	const (
		atOnce = "at once"
		short  = "short"
		grown  = "grown"
	)
	for _, tt := range []struct {
		cause    Cause
		life     Life
		failures int
		delay    string
	}{
		{Crash, none, 5, grown},
		{Crash, answered, 0, atOnce},
		{Crash, both, 0, atOnce},
		{Crash, holds, 5, short},   // no worker has ever answered
		{Crash, earlier, 5, short}, // none since this one began
		{Crash, another, 4, short}, // others can
		{OOM, none, 5, grown},
		{OOM, another, 4, short},
		{Hung, none, 5, grown},
		{Hung, another, 4, short},
		{Timeout, holds, 4, short},
		{Timeout, another, 4, short},
		{Timeout, both, 0, atOnce},
		{Protocol, another, 5, grown}, // no message makes a worker answer nonsense
		{NotReady, another, 5, grown},
		{NoStart, none, 5, grown},
		{Done, none, 0, short}, // it lived for less than shortLife
		{Done, holds, 0, short},
		{Failing, both, 4, atOnce},
		{Messages, both, 4, atOnce},
	} {
		t.Run(fmt.Sprintf("%s %+v", tt.cause, tt.life), func(t *testing.T) {
			p := New(sane(nil), nil, zerolog.Nop())
			s := newSlot(p, 0)
			s.record.failures = 4
			end := ending{cause: tt.cause, began: began, uptime: time.Second / 2, life: tt.life, healthy: tt.life.Answered, exit: reaper.Exit{Code: 1}}
			v := judge(&p.cfg, &s.record, end)
			delay := grown
			switch {
			case v.delay == 0:
				delay = atOnce
			case v.delay <= p.cfg.RestartDelay*6/5:
				delay = short
			}
			if tt.cause != Done && delay == short && v.delay > p.cfg.RestartDelay {
				t.Errorf("a delay of %s", v.delay)
			}
			if v.failures != tt.failures || delay != tt.delay || !v.restart {
				t.Errorf("%d failures, restarts %s (%v); want %d, %s", v.failures, delay, v.restart, tt.failures, tt.delay)
			}
		})
	}
}

// A pool whose workers die of one message after the other goes on, as long as
// others are answered in between.
func TestPoisonNeverGivesUp(t *testing.T) {
	for name, tt := range map[string]func(w *world, victim *fakeProc){
		"each life answers first": func(_ *world, victim *fakeProc) { victim.answer() },
		"the other one answers":   func(w *world, _ *fakeProc) { w.last(1).answer() },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, auto(func(c *Config) { c.Workers, c.GiveUp = 2, 2 }), func(w *world) {
				w.run()
				for n := range 100 {
					p := w.last(0)
					w.pass(10 * time.Millisecond)
					tt(w, p)
					p.hold()
					p.crash(1)
					w.pass(w.pool.cfg.RestartDelay)
					w.want("processes", w.count(0), n+2)
				}
				w.want("failures", w.pool.Stats().Workers[0].Failures, 0)
				w.want("running", len(w.result), 0)
			})
		})
	}
}

// A backend that is away makes every message time out. That is no reason to end.
func TestTimeoutsNeverGiveUp(t *testing.T) {
	inWorld(t, auto(func(c *Config) { c.Workers, c.GiveUp, c.TimeoutSignal = 2, 3, syscall.SIGKILL }), func(w *world) {
		w.run()
		for n := range 50 {
			for slot := range 2 {
				p := w.last(slot)
				p.hold()
				p.ask(AskTimeout)
			}
			w.pass(w.pool.cfg.RestartDelay)
			w.want("processes", []int{w.count(0), w.count(1)}, []int{n + 2, n + 2})
		}
		w.want("failures", w.pool.Stats().Workers[0].Failures, 0)
		w.want("running", len(w.result), 0)
	})
}

// A version that dies of every message gives up, without a growing backoff.
func TestVersionThatDiesOfEveryMessageGivesUp(t *testing.T) {
	inWorld(t, auto(func(c *Config) { c.Workers, c.GiveUp = 2, 10 }), func(w *world) {
		w.run()
		for n := range 10 {
			for slot := range 2 {
				p := w.last(slot)
				p.hold()
				p.crash(7)
			}
			if n < 9 {
				w.pass(w.pool.cfg.RestartDelay)
				w.want("processes", []int{w.count(0), w.count(1)}, []int{n + 2, n + 2})
			}
		}
		w.want("code", w.wait(time.Minute).Code, 7)
		w.want("why", w.pool.Stats().Stopping, "every worker failed too many times in a row")
	})
}

// One answer ends a row of failures while the worker lives.
func TestAnswerForgetsFailures(t *testing.T) {
	inWorld(t, auto(func(c *Config) { c.Workers, c.GiveUp = 1, 3 }), func(w *world) {
		w.run()
		for range 5 {
			for range 2 {
				w.last(0).crash(1)
				w.pass(time.Second)
			}
			w.want("failures", w.pool.Stats().Workers[0].Failures, 2)
			w.last(0).answer()
			w.want("failures", w.pool.Stats().Workers[0].Failures, 0)
			w.last(0).crash(1)
			w.pass(0)
			w.want("failures", w.pool.Stats().Workers[0].Failures, 0)
		}
	})
}

// A worker that lives for HealthyAfter is healthy, whether or not it was ready by
// then; but one that has to say that it is ready has to have said so.
func TestHealthyBeforeReady(t *testing.T) {
	for name, tt := range map[string]struct {
		ready    Readiness
		healthy  time.Duration // HealthyAfter
		failures int
	}{
		"auto, any life is healthy": {ReadyAuto, 0, 0},
		"auto, lives long enough":   {ReadyAuto, 10 * time.Millisecond, 0},
		"auto, does not":            {ReadyAuto, time.Second, 3},
		"started":                   {ReadyStarted, 0, 0},
		"notify":                    {ReadyNotify, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, auto(func(c *Config) { c.Workers, c.Ready, c.HealthyAfter = 1, tt.ready, tt.healthy }), func(w *world) {
				w.run()
				for n := range 3 {
					w.pass(20 * time.Millisecond)
					w.last(0).crash(1)
					if tt.failures == 0 {
						w.want("starts", w.count(0), n+2) // at once
					}
					w.pass(500 * time.Millisecond)
				}
				w.want("failures", w.pool.Stats().Workers[0].Failures, tt.failures)
			})
		})
	}
}

// A new worker that dies of a message does not stop a reload: the second one does,
// if none of the two has answered before (TestNewWorkersDieOfMessages). One that
// crashes without a message in hand does.
func TestReloadAndPoison(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*fakeProc)
		want Outcome
	}{
		"dies without a message":       {func(p *fakeProc) { p.crash(1) }, Failed},
		"dies of its first message":    {func(p *fakeProc) { p.hold(); p.crash(1) }, Complete},
		"has answered one before":      {func(p *fakeProc) { p.answer(); p.hold(); p.crash(1) }, Complete},
		"its first message takes long": {func(p *fakeProc) { p.hold(); p.ask(AskTimeout) }, Complete},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, auto(func(c *Config) { c.TimeoutSignal = syscall.SIGKILL }), func(w *world) {
				w.run()
				w.pass(10 * time.Second)
				told := w.pool.ReloadWait("SIGUSR1")
				w.pass(3100 * time.Millisecond)
				tt.end(w.nth(0, 1)) // while the next one gets ready
				w.want("outcome", (<-told).Outcome, tt.want)
			})
		})
	}
}
