package supervisor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

// auto is the readiness of the command line's defaults.
func auto(more func(*Config)) func(*Config) {
	return func(c *Config) {
		c.Ready, c.MinReady = ReadyAuto, 3*time.Second
		if more != nil {
			more(c)
		}
	}
}

// What makes a worker ready, and from when it is fed, by Config.Ready.
func TestBecomesReady(t *testing.T) {
	lives := func(d time.Duration) func(w *world) { return func(w *world) { w.pass(d) } }
	answers := func(w *world) { w.last(0).answer() }
	says := func(w *world) { w.last(0).say(notify.Message{Ready: true}) }
	for name, tt := range map[string]struct {
		ready    Readiness
		minReady time.Duration
		after    func(w *world)
		want     State
		fed      bool
		newborn  bool
	}{
		"auto, at first":               {ReadyAuto, 3 * time.Second, lives(0), Starting, true, true},
		"auto, lives":                  {ReadyAuto, 3 * time.Second, lives(3 * time.Second), Ready, true, true},
		"auto, does not yet":           {ReadyAuto, 3 * time.Second, lives(2999 * time.Millisecond), Starting, true, true},
		"auto, answers":                {ReadyAuto, 3 * time.Second, answers, Ready, true, false},
		"auto, READY=1":                {ReadyAuto, 3 * time.Second, says, Ready, true, false},
		"auto without a wait":          {ReadyAuto, 0, lives(time.Nanosecond), Ready, true, true},
		"notify, lives":                {ReadyNotify, 0, lives(10 * time.Second), Starting, false, false},
		"notify, READY=1":              {ReadyNotify, 0, says, Ready, true, false},
		"notify, READY=1, must stay":   {ReadyNotify, 3 * time.Second, says, Starting, false, false},
		"started":                      {ReadyStarted, 0, lives(0), Ready, true, true},
		"started, READY=1":             {ReadyStarted, 0, says, Ready, true, false},
		"started, must stay":           {ReadyStarted, 2 * time.Second, lives(time.Second), Starting, true, true},
		"started, must stay, has done": {ReadyStarted, 2 * time.Second, lives(2 * time.Second), Ready, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.Workers, c.Ready, c.MinReady = 1, tt.ready, tt.minReady }, func(w *world) {
				w.run()
				tt.after(w)
				p := w.last(0)
				w.want("state", w.pool.Stats().Workers[0].State, tt.want)
				w.want("fed", p.fed.Load(), tt.fed)
				w.want("newborn", p.newborn.Load(), tt.newborn)
			})
		})
	}
}

// The message timeout of a worker that has shown nothing begins when it must be
// up, which is the same for each worker of a reload.
func TestGraceOfNewWorkers(t *testing.T) {
	inWorld(t, auto(func(c *Config) { c.Workers = 2 }), func(w *world) {
		w.run()
		w.pass(3 * time.Second)
		w.pool.Reload("SIGUSR1")
		w.pass(time.Minute)
		for slot := range 2 {
			p := w.last(slot)
			w.want("grace", p.grace.Sub(p.began), 3*time.Second)
		}
	})
	inWorld(t, func(c *Config) { c.Ready = ReadyStarted }, func(w *world) {
		w.run()
		w.want("grace", w.last(0).grace.IsZero(), true)
	})
}

// The first worker of a reload has to live for MinReady, those after it for a
// tenth of that.
func TestCanary(t *testing.T) {
	for _, startFirst := range []bool{false, true} {
		inWorld(t, auto(func(c *Config) { c.StartFirst = startFirst }), func(w *world) {
			w.obey = prompt
			w.run()
			w.pass(10 * time.Second)
			replaced := func() (n int) {
				for slot := range 3 {
					n += w.count(slot) - 1
				}
				return n
			}
			told := w.pool.ReloadWait("SIGUSR1")
			w.pass(2990 * time.Millisecond)
			w.want("started", replaced(), 1)
			w.pass(20 * time.Millisecond)
			w.want("started", replaced(), 2)
			w.pass(300 * time.Millisecond)
			w.want("started", replaced(), 3)
			w.want("took", (<-told).Took, 3600*time.Millisecond)
			w.pass(time.Minute)
			w.last(1).crash(1) // a start of its own
			w.pass(2 * time.Second)
			w.want("state", w.pool.Stats().Workers[1].State, Starting)
		})
	}
}

// A canary that answers a message need not be waited for.
func TestCanaryAnswers(t *testing.T) {
	inWorld(t, auto(func(c *Config) { c.Workers = 1 }), func(w *world) {
		w.run()
		w.pass(10 * time.Second)
		told := w.pool.ReloadWait("SIGUSR1")
		w.pass(500 * time.Millisecond)
		w.last(0).answer()
		w.want("took", (<-told).Took, 500*time.Millisecond)
	})
}

// A new worker that ends before it is ready ends the reload, whatever its exit
// code. One that dies of a message is tried once more: TestCanaryDiesOfMessage.
func TestCanaryEnds(t *testing.T) {
	for name, end := range map[string]func(*fakeProc){
		"exit 0":                    func(p *fakeProc) { p.crash(0) },
		"exit 1":                    func(p *fakeProc) { p.crash(1) },
		"closes its channel":        func(p *fakeProc) { p.ask(AskDetach) },
		"is replaced for its share": func(p *fakeProc) { p.die(0, 0) },
	} {
		for _, startFirst := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				inWorld(t, auto(func(c *Config) { c.StartFirst = startFirst }), func(w *world) {
					w.run()
					w.pass(10 * time.Second)
					told := w.pool.ReloadWait("SIGUSR1")
					w.pass(2 * time.Second)
					end(w.nth(0, 1))
					w.want("outcome", (<-told).Outcome, Failed)
					w.want("the others", []int{w.count(1), w.count(2)}, []int{1, 1})
				})
			})
		}
	}
}

// A worker that ends right after its first answer has been ready: many programs
// live for one message.
func TestAnswersAndExits(t *testing.T) {
	for range 20 { // whatever is heard first
		inWorld(t, auto(func(c *Config) { c.RestartDelay = 10 * time.Millisecond }), func(w *world) {
			w.run()
			w.pass(10 * time.Second)
			told := w.pool.ReloadWait("SIGUSR1")
			for slot := range 3 {
				w.pass(20 * time.Millisecond)
				p := w.last(slot)
				p.set(p.noteAnswer)
				p.die(0, 0)
				synctest.Wait()
			}
			w.want("outcome", (<-told).Outcome, Complete)
		})
	}
}

// The answer is read from the channel only when the process has been reaped.
func TestAnswerIsHeardLate(t *testing.T) {
	inWorld(t, auto(func(c *Config) { c.Workers = 1 }), func(w *world) {
		w.run()
		w.pass(10 * time.Second)
		told := w.pool.ReloadWait("SIGUSR1")
		w.pass(time.Second)
		p := w.last(0)
		p.set(func() { p.lateAnswer = true })
		p.crash(0)
		w.want("outcome", (<-told).Outcome, Complete)
		w.want("complete", w.pool.Stats().Complete, true)
	})
}

// The watchdog of a worker begins when it is ready.
func TestWatchdogWithAuto(t *testing.T) {
	inWorld(t, auto(func(c *Config) { c.Watchdog = time.Second }), func(w *world) {
		w.run()
		w.pass(3900 * time.Millisecond)
		w.want("signals", w.nth(0, 0).got(), "[]")
		w.pass(200 * time.Millisecond)
		w.want("signals", w.nth(0, 0).got(), "[aborted]")
	})
}
