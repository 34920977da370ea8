package supervisor

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/internal/testkit/race"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// All sequences of events up to a depth, for one slot and for a pool of two.

// A trial is a pool that one sequence of events happens to.
type trial struct {
	*world
	first  bool      // start-first
	drains bool      // as a stop does while messages wait
	stops  int       // how often it was asked to stop
	stopBy time.Time // the pool has to end until then
	ended  time.Time // when it has

	signalled atomic.Pointer[time.Time] // when the workers were told to stop

	reloads  []<-chan ReloadResult
	problems []string
	immortal map[*fakeProc]bool
	apart    map[*fakeProc]bool // detached
	refused  bool
	passed   int // how often passTime happened
}

// A step is one event that can happen to a trial.
type step struct {
	name string
	can  func(*trial) bool // reports whether it can happen now
	do   func(*trial)
}

// A pick returns a slot's process, or nil.
type pick func(tr *trial, slot int) *fakeProc

// holder picks the process that has the place, next its successor, either only
// while it lives.
func holder(tr *trial, slot int) *fakeProc {
	_, cur, _ := tr.pool.places.all[slot].look()
	return living(cur)
}

func next(tr *trial, slot int) *fakeProc {
	_, _, next := tr.pool.places.all[slot].look()
	return living(next)
}

func living(w *worker) *fakeProc {
	if w == nil || !w.proc.(*fakeProc).alive() {
		return nil
	}
	return w.proc.(*fakeProc)
}

// of makes a step of what happens to a process of a slot.
func of(name string, slot int, who pick, can func(*trial, *fakeProc) bool, do func(*trial, *fakeProc)) step {
	return step{name, func(tr *trial) bool {
		p := who(tr, slot)
		return p != nil && can(tr, p)
	}, func(tr *trial) { do(tr, who(tr, slot)) }}
}

func dies(name string, code, slot int, who pick) step {
	return of(name, slot, who, func(tr *trial, _ *fakeProc) bool { return code != 0 || tr.codeMatters(slot) },
		func(_ *trial, p *fakeProc) { p.die(code, 0) })
}

// diesOfMessage: it has one in hand.
func diesOfMessage(name string, slot int, who pick) step {
	return of(name, slot, who, func(tr *trial, _ *fakeProc) bool { return tr.codeMatters(slot) },
		func(_ *trial, p *fakeProc) {
			p.hold()
			p.die(1, 0)
		})
}

// codeMatters reports whether the slot's next start depends on its worker's end.
func (tr *trial) codeMatters(slot int) bool {
	state, _, _ := tr.pool.places.all[slot].look()
	return state == slotOccupied || state == slotProving
}

func becomesReady(name string, slot int, who pick) step {
	return of(name, slot, who, func(tr *trial, p *fakeProc) bool { return !p.saidReady && !tr.apart[p] && !p.finished.Load() }, func(_ *trial, p *fakeProc) {
		p.saidReady = true
		p.notices <- notify.Message{Ready: true}
	})
}

// detaches: a process that was told to stop does not.
func detaches(name string, slot int, who pick) step {
	return of(name, slot, who, func(tr *trial, p *fakeProc) bool { return !tr.apart[p] && !p.finished.Load() }, func(tr *trial, p *fakeProc) {
		tr.set(func() { tr.apart[p] = true })
		p.asks <- AskDetach
	})
}

func fallsDue(slot int) step {
	return of("due", slot, holder, func(_ *trial, p *fakeProc) bool { return !p.saidDue && !p.finished.Load() }, func(_ *trial, p *fakeProc) {
		p.saidDue = true
		p.asks <- AskRecycle
	})
}

// refusesToDie: even SIGKILL has no effect any more.
func refusesToDie(slot int) step {
	return of("refuses to die", slot, holder, func(tr *trial, p *fakeProc) bool { return !tr.immortal[p] }, func(tr *trial, p *fakeProc) {
		tr.immortal[p] = true
		p.setObey(func(*fakeProc, syscall.Signal) {})
	})
}

// endsLate: a process that was given up ends after all.
func endsLate(slot int) step {
	given := func(tr *trial) *fakeProc {
		for _, p := range tr.procs {
			if p.id.ID == slot && p.alive() && tr.isGivenUp(p) {
				return p
			}
		}
		return nil
	}
	return step{"ends late", func(tr *trial) bool { return given(tr) != nil }, func(tr *trial) { given(tr).die(0, syscall.SIGKILL) }}
}

// getsChildren: others are in its group, which survive even SIGKILL. It dies of
// nothing less.
func getsChildren(slot int) step {
	return of("gets children", slot, holder, func(tr *trial, p *fakeProc) bool { return !p.hasChildren() && !tr.immortal[p] },
		func(_ *trial, p *fakeProc) {
			p.getChildren()
			p.setObey(func(p *fakeProc, sig syscall.Signal) {
				if sig == syscall.SIGKILL {
					p.die(0, sig)
				}
			})
		})
}

// askReload: a third request that waits would only be answered with the second.
func askReload() step {
	return step{"reload", func(tr *trial) bool {
		return tr.unanswered() < 2 && !(tr.stops > 0 && tr.unanswered() < len(tr.reloads))
	}, func(tr *trial) {
		tr.reloads = append(tr.reloads, tr.pool.ReloadWait("test"))
	}}
}

func (tr *trial) unanswered() (n int) {
	for _, c := range tr.reloads {
		if len(c) == 0 {
			n++
		}
	}
	return n
}

// scale: a pool of two, or of one.
func scale(n int) step {
	return step{fmt.Sprint("scale to ", n), func(tr *trial) bool { return tr.pool.Workers() != n }, func(tr *trial) {
		err := tr.pool.Scale(n)
		if refused := tr.stops > 0 || tr.unanswered() > 0; (err != nil) != refused {
			tr.problem("scale to %d: %v", n, err)
		}
	}}
}

func askStop() step {
	return step{"stop", func(tr *trial) bool { return tr.stops < 2 }, (*trial).stop}
}

func startsFail() step {
	return step{"starts fail", func(tr *trial) bool { return !tr.refused && tr.stops == 0 }, func(tr *trial) {
		tr.refused = true
		tr.set(func() { tr.refuse = func(Identity) error { return errNoProcess } })
	}}
}

// passTime is longer than every timeout of trialConfig.
func passTime() step {
	return step{"time", func(tr *trial) bool { return tr.passed < 3 }, func(tr *trial) {
		tr.passed++
		time.Sleep(6 * time.Second)
	}}
}

func (tr *trial) stop() {
	tr.stops++
	grace := trialConfig(1, false).StopTimeout
	if tr.stops > 1 {
		grace = 0
	}
	if by := time.Now().Add(grace + killGrace); tr.stopBy.IsZero() || by.Before(tr.stopBy) {
		tr.stopBy = by
	}
	if tr.drains && tr.stops == 1 {
		tr.pool.Halt("test")
		go tr.pool.drain(time.Now().Add(grace)) // ends with the pool
		return
	}
	if tr.drains {
		tr.pool.Kill()
		return
	}
	tr.pool.Stop("test")
}

func trialConfig(workers int, first bool) Config {
	return Config{
		Workers: workers, Restart: RestartAlways, RestartDelay: time.Second, RestartDelayMax: 4 * time.Second, HealthyAfter: 10 * time.Second,
		StopSignal: syscall.SIGTERM, StopTimeout: 4 * time.Second, Ready: ReadyNotify, ReadyTimeout: 5 * time.Second, StartFirst: first,
	}
}

func (tr *trial) problem(format string, args ...any) {
	tr.set(func() { tr.problems = append(tr.problems, fmt.Sprintf(format, args...)) })
}

// start is the pool's Launch. It looks whether a process may be started now.
func (tr *trial) start(id Identity) (Process, error) {
	if at := tr.signalled.Load(); at != nil && time.Now().After(*at) { // at the same moment the start may have been first
		tr.problem("a start after the stop signal")
	}
	p, err := tr.launch(id)
	if err != nil {
		return nil, err
	}
	others := 0
	tr.set(func() {
		for _, o := range tr.procs {
			if o != p && o.id.ID == id.ID && o.alive() && !tr.apart[o] && !tr.isGivenUp(o) {
				others++
			}
		}
	})
	if tr.first && others > 1 || !tr.first && others > 0 {
		tr.problem("a start beside %d other processes of the slot", others)
	}
	return p, nil
}

// isGivenUp reports whether a process has survived SIGKILL for as long as it may.
func (tr *trial) isGivenUp(p *fakeProc) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return tr.immortal[p] && p.released
}

// settle waits until nothing more happens by itself, and looks at the pool.
func (tr *trial) settle() {
	synctest.Wait()
	down := 0
	for _, s := range tr.pool.places.all {
		if state, _, _ := s.look(); state == slotReplacing || state == slotProving || state == slotAwaitingNext || state == slotHandingOver {
			down++
		}
	}
	// In a pool of several no worker falls due: it is the reload's doing.
	if most := tr.pool.cfg.ReloadParallel.Of(len(tr.pool.places.those())); down > most {
		tr.problem("a reload replaces %d workers at a time, and may replace %d", down, most)
	}
}

// end stops the pool, and looks how that ends. A reload has a result before, also
// if a process refuses to die.
func (tr *trial) end() {
	if tr.stops == 0 {
		for range 6 { // until two reloads must be over
			if tr.unanswered() > 0 {
				time.Sleep(10 * time.Second)
			}
		}
		if n := tr.unanswered(); n > 0 {
			tr.problem("%d reloads have no result", n)
		}
	}
	if tr.stops == 0 {
		tr.awaitScale()
	}
	if tr.stops == 0 && len(tr.result) == 0 {
		tr.stop()
	}
	select {
	case <-tr.result:
	case <-time.After(time.Until(tr.stopBy) + time.Minute):
		tr.problem("the pool does not end")
		tr.set(func() {
			for _, p := range tr.procs {
				p.die(0, syscall.SIGKILL)
			}
		})
		<-tr.result
	}
	if tr.ended.After(tr.stopBy) {
		tr.problem("the stop ended %s after its deadline", tr.ended.Sub(tr.stopBy))
	}
	for i, c := range tr.reloads {
		if len(c) != 1 {
			tr.problem("reload %d has %d results", i, len(c))
		}
	}
	for _, p := range tr.procs {
		if !p.released {
			tr.problem("process %d was not released", p.pid)
		}
		if p.alive() && !tr.immortal[p] {
			tr.problem("process %d lives", p.pid)
		}
		if p.alive() && !slices.Contains(tr.pool.Left(), p.pid) {
			tr.problem("process %d lives, and is not among those that are left", p.pid)
		}
	}
}

// awaitScale waits until each slot does what the pool wants of it.
func (tr *trial) awaitScale() {
	all, wanted := tr.pool.places.look()
	if wanted < len(all) {
		time.Sleep(20 * time.Second)
	}
	for _, s := range all {
		if state, _, _ := s.look(); (state == slotParked) != (s.id >= wanted) {
			tr.problem("slot %d is %s, in a pool scaled to %d", s.id, state, wanted)
		}
	}
	if n := len(tr.pool.Stats().Workers); n < wanted {
		tr.problem("%d workers are shown, in a pool of %d", n, wanted)
	}
}

// play has a sequence happen, and returns what could follow.
func play(t *testing.T, cfg Config, drains bool, steps, sequence []step) (follow []step) {
	synctest.Test(t, func(t *testing.T) {
		tr := &trial{
			world: &world{t: t, result: make(chan Result, 1), obey: obedient}, first: cfg.StartFirst, drains: drains,
			immortal: make(map[*fakeProc]bool), apart: make(map[*fakeProc]bool),
		}
		tr.pool = newPool(cfg, tr.start, zerolog.Nop(), applied.slotTable, applied.workerTable)
		go func() { // ends with the pool; end waits for it
			r := tr.pool.runToEnd()
			tr.ended = time.Now()
			tr.result <- r
		}()
		go func() { // ends with the pool
			<-tr.pool.stopping
			now := time.Now()
			tr.signalled.Store(&now)
		}()
		tr.settle()
		for _, s := range sequence {
			if s.can(tr) { // as when it was chosen, but for chance
				s.do(tr)
				tr.settle()
			}
		}
		for _, s := range steps {
			if len(tr.result) == 0 && s.can(tr) {
				follow = append(follow, s)
			}
		}
		tr.end()
		if len(tr.problems) > 0 {
			t.Errorf("%s:\n\t%s", names(sequence), strings.Join(tr.problems, "\n\t"))
		}
	})
	return follow
}

func names(sequence []step) string {
	var words []string
	for _, s := range sequence {
		words = append(words, s.name)
	}
	return strings.Join(words, ", ")
}

// playAll plays a sequence and all that begin with it and are no longer than
// depth. It returns how many there were. An event that cannot happen is left
// out, because the sequence is the same as one without it.
func playAll(t *testing.T, cfg Config, drains bool, depth int, steps, sequence []step) (count int) {
	follow := play(t, cfg, drains, steps, sequence)
	count = 1
	if len(sequence) == depth || t.Failed() {
		return count
	}
	for _, s := range follow {
		count += playAll(t, cfg, drains, depth, steps, append(sequence[:len(sequence):len(sequence)], s))
	}
	return count
}

var full = flag.Bool("full", false, "play all sequences of all events, which takes a minute")

// Each kind of pool is tried with the events that change most to the full depth,
// and with all of them to a lesser one.
func TestAllSequences(t *testing.T) {
	usual := []step{
		dies("exit 1", 1, 0, holder), becomesReady("ready", 0, holder), detaches("detach", 0, holder),
		askReload(), askStop(), passTime(),
		dies("next exits", 1, 0, next), becomesReady("next ready", 0, next), // start-first only
	}
	all := append(usual[:len(usual):len(usual)],
		dies("exit 0", 0, 0, holder), fallsDue(0), refusesToDie(0), endsLate(0), getsChildren(0), startsFail(), detaches("next detaches", 0, next))
	two := []step{askReload(), askStop(), passTime(), startsFail(), refusesToDie(0), scale(1), scale(2)}
	for slot := range 2 {
		two = append(two, dies(fmt.Sprint("exit 1 of ", slot), 1, slot, holder), becomesReady(fmt.Sprint("ready ", slot), slot, holder),
			detaches(fmt.Sprint("detach ", slot), slot, holder),
			dies(fmt.Sprint("next exits ", slot), 1, slot, next), becomesReady(fmt.Sprint("next ready ", slot), slot, next))
	}
	four := []step{askReload(), askStop(), passTime(), startsFail(), refusesToDie(3)}
	for slot := range 4 {
		four = append(four, dies(fmt.Sprint("exit 1 of ", slot), 1, slot, holder), becomesReady(fmt.Sprint("ready ", slot), slot, holder),
			diesOfMessage(fmt.Sprint("message kills ", slot), slot, holder), becomesReady(fmt.Sprint("next ready ", slot), slot, next))
	}
	trials := []struct {
		name           string
		workers, depth int
		steps          []step
		drain          bool
		reloads        bool // a sequence that begins with a reload whose canary is ready
	}{
		{"one slot", 1, 6, usual, false, false},
		{"one slot, all events", 1, 4, all, false, false},
		{"one slot, drains", 1, 3, all, true, false},
		{"two slots", 2, 4, two, false, false},
		{"four slots, two at a time", 4, 4, four, false, true},
	}
	if *full {
		trials[0].steps = all
	}
	for _, tt := range trials {
		if race.On {
			tt.depth -= 2 // it takes ten times as long
		}
		for _, first := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, start-first=%v", tt.name, first), func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				cfg := trialConfig(tt.workers, first)
				var begin []step
				if tt.reloads {
					who := holder
					if first {
						who = next
					}
					cfg.ReloadParallel, begin = Part{Number: 2}, []step{askReload(), becomesReady("canary ready", 0, who)}
				}
				n := playAll(t, cfg, tt.drain, tt.depth, tt.steps, begin)
				t.Logf("%d sequences of up to %d of %d events in %s", n, tt.depth, len(tt.steps), round(time.Since(began)))
			})
		}
	}
}
