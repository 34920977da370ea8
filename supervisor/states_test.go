package supervisor

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/supervisor/notify"
)

var update = flag.Bool("update", false, "write testdata/states.txt")

// What the tables say is in testdata/states.txt, to be read.
// go test -run StatesAreWritten -update . puts it there.
func TestStatesAreWritten(t *testing.T) {
	const name = "testdata/states.txt"
	text := "A slot\n" + printed(slotRules()) + "\nA worker\n" + printed(workerRules())
	if *update {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	was, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(was) != text {
		t.Errorf("%s does not say what the tables say: go test -run StatesAreWritten -update .", name)
	}
}

// printed returns a table as text: by state what each event does, and which
// events have no effect.
func printed[S, E ~string, T any](rules []rule[S, E, T]) string {
	var b strings.Builder
	states, events := statesOf(rules), eventsOf(rules)
	for _, s := range states {
		fmt.Fprintf(&b, "\n  %s\n", s)
		var ignored []string
		for _, e := range events {
			found := false
			for _, r := range rules {
				if !slices.Contains(r.in, s) || r.on != e {
					continue
				}
				found = true
				on, to := string(e), string(r.to)
				if r.when != nil {
					on += " [" + nameOf(r.when) + "]"
				}
				if r.to == "" {
					to = "(stays)"
				}
				line := fmt.Sprintf("    %-34s -> %-14s", on, to)
				if r.do != nil {
					line += " " + nameOf(r.do)
				}
				fmt.Fprintln(&b, strings.TrimRight(line, " "))
			}
			if !found {
				ignored = append(ignored, string(e))
			}
		}
		fmt.Fprintln(&b, wrapped("    no effect: "+strings.Join(ignored, ", ")))
	}
	return b.String()
}

// wrapped breaks a line at 80 columns.
func wrapped(line string) string {
	var b strings.Builder
	for len(line) > 80 {
		cut := strings.LastIndex(line[:80], ", ") + 1
		b.WriteString(line[:cut] + "\n")
		line = strings.Repeat(" ", 14) + line[cut:]
	}
	return b.String() + line
}

// nameOf returns the name of a method, such as becomeReady.
func nameOf(method any) string {
	name := runtime.FuncForPC(reflect.ValueOf(method).Pointer()).Name()
	return name[strings.LastIndex(name, ".")+1:]
}

func statesOf[S, E ~string, T any](rules []rule[S, E, T]) (states []S) {
	add := func(s S) {
		if s != "" && !slices.Contains(states, s) {
			states = append(states, s)
		}
	}
	for _, r := range rules {
		for _, s := range r.in {
			add(s)
		}
		add(r.to)
	}
	return states
}

func eventsOf[S, E ~string, T any](rules []rule[S, E, T]) (events []E) {
	for _, r := range rules {
		if !slices.Contains(events, r.on) {
			events = append(events, r.on)
		}
	}
	return events
}

// The tables are sound: no rule is hidden by one before it, every state can be
// reached, and every state leads to the end.
func TestStatesAreSound(t *testing.T) {
	t.Run("slot", func(t *testing.T) { checkSound(t, slotRules(), slotLaunching, slotHalted) })
	t.Run("worker", func(t *testing.T) { checkSound(t, workerRules(), workerStarting, workerGone) })
}

func checkSound[S, E ~string, T any](t *testing.T, rules []rule[S, E, T], first, last S) {
	always := make(map[string]bool) // state and event that have a rule without a condition
	for _, r := range rules {
		for _, in := range r.in {
			key := fmt.Sprint(in, "/", r.on)
			if always[key] {
				t.Errorf("%s: a rule comes after one that always holds", key)
			}
			always[key] = r.when == nil
		}
	}
	reach := func(from S) []S {
		seen := []S{from}
		for i := 0; i < len(seen); i++ {
			for _, r := range rules {
				if slices.Contains(r.in, seen[i]) && r.to != "" && !slices.Contains(seen, r.to) {
					seen = append(seen, r.to)
				}
			}
		}
		return seen
	}
	for _, s := range statesOf(rules) {
		if !slices.Contains(reach(first), s) {
			t.Errorf("%s is never reached", s)
		}
		if !slices.Contains(reach(s), last) {
			t.Errorf("%s never leads to %s", s, last)
		}
	}
}

// inState are the ways into each state of slot 0, in a pool of two whose workers
// have to say that they are ready.
var inState = []struct {
	state slotState
	first bool // start-first
	enter func(*world)
}{
	{slotBackoff, false, func(w *world) { w.run(); w.last(0).crash(1) }},
	{slotStopped, false, func(w *world) {
		w.pool.cfg.Restart = RestartOnFailure
		w.run()
		w.last(0).crash(0)
	}},
	{slotOccupied, false, (*world).occupied},
	{slotOccupied, true, (*world).occupied},
	{slotProving, false, func(w *world) {
		w.run()
		w.last(0).crash(1)
		w.pool.Reload("test")
		w.pass(2 * time.Second)
	}},
	{slotReplacing, false, (*world).reloading},
	{slotAwaitingNext, true, (*world).reloading},
	{slotDiscarding, true, func(w *world) {
		w.reloading()
		w.last(0).ask(AskDetach)
	}},
	{slotHandingOver, true, func(w *world) {
		w.reloading()
		w.last(0).say(notify.Message{Ready: true})
	}},
	{slotVacating, false, func(w *world) {
		w.occupied()
		w.pool.places.all[0].want(false)
	}},
	{slotParked, false, func(w *world) {
		w.obey = prompt
		w.occupied()
		w.pool.places.all[0].want(false)
	}},
	{slotHalted, false, func(w *world) {
		w.occupied()
		w.pool.Stop("test")
	}},
}

func (w *world) occupied() {
	w.runReady()
	w.pass(2 * time.Second)
}

func (w *world) reloading() {
	w.occupied()
	w.pool.Reload("test")
	synctest.Wait()
}

// happens are the events that a test can bring about.
var happens = []struct {
	name string
	to   func(*slot) *worker // nil: to the pool
	do   func(*world, *fakeProc)
}{
	{"exit", holderOf, func(_ *world, p *fakeProc) { p.crash(0) }},
	{"crash", holderOf, func(_ *world, p *fakeProc) { p.crash(1) }},
	{"crash, start fails", holderOf, func(w *world, p *fakeProc) {
		w.set(func() { w.refuse = func(Identity) error { return errNoProcess } })
		p.crash(1)
	}},
	{"ready", holderOf, func(_ *world, p *fakeProc) { p.say(notify.Message{Ready: true}) }},
	{"detach", holderOf, func(_ *world, p *fakeProc) { p.ask(AskDetach) }},
	{"due", holderOf, func(_ *world, p *fakeProc) { p.ask(AskRecycle) }},
	{"next exits", nextOf, func(_ *world, p *fakeProc) { p.crash(0) }},
	{"next ready", nextOf, func(_ *world, p *fakeProc) { p.say(notify.Message{Ready: true}) }},
	{"next detaches", nextOf, func(_ *world, p *fakeProc) { p.ask(AskDetach) }},
	{"reload", nil, func(w *world, _ *fakeProc) { w.pool.Reload("test") }},
	{"reload, start fails", nil, func(w *world, _ *fakeProc) {
		w.set(func() { w.refuse = func(Identity) error { return errNoProcess } })
		w.pool.Reload("test")
	}},
	{"scaled down", nil, func(w *world, _ *fakeProc) { w.pool.places.all[0].want(false) }},
	{"scaled up", nil, func(w *world, _ *fakeProc) { w.pool.places.all[0].want(true) }},
	{"stop", nil, func(w *world, _ *fakeProc) { w.pool.Stop("test") }},
	{"stop timeout", nil, func(w *world, _ *fakeProc) { time.Sleep(8 * time.Second) }},
}

func holderOf(s *slot) *worker {
	_, cur, _ := s.look()
	return cur
}

func nextOf(s *slot) *worker {
	_, _, next := s.look()
	return next
}

func (s *slot) look() (state slotState, cur, next *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.cur, s.next
}

// What each event leads to in each state. The slot may pass through others on
// its way; a state that does not change is left out.
const walk = `
backoff
    reload               proving
    scaled down          parked
    stop                 halted
    stop timeout         occupied

stopped
    reload               proving
    reload, start fails  backoff
    scaled down          parked
    stop                 halted

occupied
    crash                backoff
    crash, start fails   backoff
    due                  replacing
    reload               replacing
    reload, start fails  replacing
    scaled down          vacating
    stop                 halted

occupied, start-first
    crash                backoff
    crash, start fails   backoff
    due                  awaiting next
    reload               awaiting next
    scaled down          vacating
    stop                 halted

proving
    exit                 occupied
    crash                backoff
    crash, start fails   backoff
    ready                occupied
    detach               occupied
    scaled down          vacating
    stop                 halted

replacing
    exit                 proving
    crash                proving
    crash, start fails   backoff
    scaled down          vacating
    stop                 halted
    stop timeout         proving

awaiting next, start-first
    exit                 proving
    crash                proving
    crash, start fails   proving
    detach               proving
    next exits           occupied
    next ready           handing over
    next detaches        discarding
    scaled down          discarding
    stop                 halted

discarding, start-first
    exit                 backoff
    crash                backoff
    crash, start fails   backoff
    detach               backoff
    next exits           occupied
    stop                 halted
    stop timeout         occupied

handing over, start-first
    exit                 occupied
    crash                occupied
    crash, start fails   occupied
    next exits           occupied
    scaled down          discarding
    stop                 halted
    stop timeout         occupied

vacating
    exit                 parked
    crash                parked
    crash, start fails   parked
    stop                 halted
    stop timeout         parked

parked
    scaled up            occupied
    stop                 halted

halted
`

func TestWalk(t *testing.T) {
	var b strings.Builder
	for _, from := range inState {
		title := string(from.state)
		if from.first {
			title += ", start-first"
		}
		fmt.Fprintf(&b, "\n%s\n", title)
		for _, event := range happens {
			inWorld(t, func(c *Config) { c.Workers, c.Ready, c.StartFirst = 2, ReadyNotify, from.first }, func(w *world) {
				w.obey = deaf
				from.enter(w)
				synctest.Wait()
				s := w.pool.places.all[0]
				state, _, _ := s.look()
				w.want("state", state, from.state)
				var p *fakeProc
				if event.to != nil {
					worker := event.to(s)
					if worker == nil {
						return
					}
					p = worker.proc.(*fakeProc)
				}
				event.do(w, p)
				synctest.Wait()
				if state, _, _ = s.look(); state != from.state {
					fmt.Fprintf(&b, "    %-20s %s\n", event.name, state)
				}
			})
		}
	}
	if b.String() != walk {
		t.Errorf("is:\n%s", b.String())
	}
}

// applied are the tables of all tests.
var applied = newCountingTables()

// countingTables count how often each of their rules is applied.
type countingTables struct {
	slots, workers []atomic.Uint64
	slotTable      *slotTable
	workerTable    *workerTable
}

func newCountingTables() *countingTables {
	c := &countingTables{slots: make([]atomic.Uint64, len(slotRules())), workers: make([]atomic.Uint64, len(workerRules()))}
	c.slotTable, c.workerTable = newTable(counting(slotRules(), c.slots)), newTable(counting(workerRules(), c.workers))
	return c
}

func counting[S, E ~string, T any](rules []rule[S, E, T], counts []atomic.Uint64) []rule[S, E, T] {
	for i := range rules {
		do := rules[i].do
		rules[i].do = func(object T) {
			counts[i].Add(1)
			if do != nil {
				do(object)
			}
		}
	}
	return rules
}

// The tests of this package together apply every rule.
func TestMain(m *testing.M) {
	code := m.Run()
	if all := flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.list").Value.String() == ""; all && code == 0 {
		if unused := append(unused(slotRules(), applied.slots), unused(workerRules(), applied.workers)...); len(unused) > 0 {
			fmt.Fprintf(os.Stderr, "rules that no test applies:\n%s\n", strings.Join(unused, "\n"))
			code = 1
		}
	}
	os.Exit(code)
}

func unused[S, E ~string, T any](rules []rule[S, E, T], counts []atomic.Uint64) (lines []string) {
	for i, r := range rules {
		if counts[i].Load() == 0 {
			lines = append(lines, fmt.Sprintf("%v: %s -> %s", r.in, r.on, r.to))
		}
	}
	return lines
}

// A worker may detach, or get ready, just before its slot decides something
// else, and be heard afterwards. No test can bring that about from outside: the
// slot is moved by hand.
func TestHeardLate(t *testing.T) {
	detach := func(p *fakeProc) { p.ask(AskDetach) }
	ready := func(p *fakeProc) { p.say(notify.Message{Ready: true}) }
	reload := func(s *slot) slotEvent { return s.hear(reloadAsked, slotNews{asked: newReplacement(Reloaded)}) }
	for _, tt := range []struct {
		first bool
		steps []any // what a process does, and what the slot hears then
		want  slotState
	}{
		{false, []any{detach, reload, workerWasDetached}, slotLaunching},
		{false, []any{detach, stopAsked, workerWasDetached}, slotHalted},
		{false, []any{detach, scaledDown, workerWasDetached}, slotParked},
		{true, []any{reload, scaledDown}, slotOccupied},
		{true, []any{reload, (*slot).launch, ready, detach, nextWasDetached}, slotHandingOver},
		{true, []any{detach, reload, (*slot).launch, ready, nextBecameReady, workerWasDetached}, slotOccupied},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{t: t, obey: obedient}
			w.pool = newPool(trialConfig(1, tt.first), w.launch, zerolog.Nop(), applied.slotTable, applied.workerTable)
			go func() { // ends with the test
				for range w.pool.events {
				}
			}()
			s := w.pool.places.all[0]
			s.apply(s.launch())
			for _, step := range tt.steps {
				switch step := step.(type) {
				case slotEvent:
					s.apply(step)
				case func(*slot) slotEvent:
					s.apply(step(s))
				case func(*fakeProc):
					step(w.last(0))
				}
			}
			if s.state != tt.want {
				t.Errorf("%s, want %s", s.state, tt.want)
			}
			w.pool.deadline = time.Now().Add(time.Second)
			close(w.pool.stopping)
			s.life()
			w.pool.lives.Wait()
			close(w.pool.events)
		})
	}
}

// When the pool stops at the very moment at which a start is due, nothing is
// started.
func TestStopComesBeforeAStart(t *testing.T) {
	for _, state := range []slotState{slotBackoff, slotLaunching, slotLaunchingNext} {
		p := New(sane(nil), nil, zerolog.Nop())
		close(p.stopping)
		for range 50 { // a select with both ready would choose at random
			s := newSlot(p, 0)
			s.state, s.at.start = state, time.After(0)
			if e := s.wait(); e != stopAsked {
				t.Fatalf("%s: hears %s", state, e)
			}
		}
	}
}
