package supervisor

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// A world is a pool with fake processes, in a synctest bubble.
type world struct {
	t      *testing.T
	pool   *Pool
	log    logBook
	result chan Result

	started bool

	mu     sync.Mutex
	procs  []*fakeProc // all that were ever started
	most   int         // that lived at a time
	refuse func(id Identity) error
	obey   func(p *fakeProc, sig syscall.Signal) // what new ones do on a signal
	oom    bool
	rss    uint64

	lastAnswer time.Time // of any process
}

// A logBook keeps what was logged. The mutex never blocks for long, so fake
// time does not mind it.
type logBook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// sane is a configuration like the defaults of the command line.
func sane(change func(*Config)) Config {
	cfg := Config{
		Workers: 3, Restart: RestartAlways,
		RestartDelay: 100 * time.Millisecond, RestartDelayMax: 30 * time.Second, HealthyAfter: 10 * time.Second,
		StopSignal: syscall.SIGTERM, StopTimeout: 8 * time.Second, ReadyTimeout: 30 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

// inWorld runs f in a bubble with a running pool, and then stops the pool.
func inWorld(t *testing.T, change func(*Config), f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, result: make(chan Result, 1), obey: obedient}
		cfg := sane(change)
		cfg.OOMKilled = func() (yes bool) { w.set(func() { yes = w.oom }); return }
		cfg.Memory = func(int) (rss uint64, _ error) { w.set(func() { rss = w.rss }); return }
		w.pool = newPool(cfg, w.launch, zerolog.New(&w.log), applied.slotTable, applied.workerTable)
		f(w)
		if len(w.result) == 0 {
			w.run()
			w.pool.Stop("end of test")
			w.pool.Stop("end of test")
			<-w.result
		}
		if n := w.alive(); n != 0 {
			t.Errorf("%d workers alive after Run", n)
		}
	})
}

// run starts the pool, once.
func (w *world) run() {
	if w.started {
		return
	}
	w.started = true
	go func() { w.result <- w.pool.runToEnd() }() // ends with the pool; inWorld waits for it
	synctest.Wait()
}

// pass lets time go by in the bubble.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// wait returns the pool's result, which must come within d.
func (w *world) wait(d time.Duration) Result {
	w.t.Helper()
	select {
	case r := <-w.result:
		w.result <- r // for inWorld
		return r
	case <-time.After(d):
		w.t.Fatalf("the pool has not ended within %s\n%s", d, w.log.String())
		return Result{}
	}
}

func (w *world) launch(id Identity) (Process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		if err := w.refuse(id); err != nil {
			return nil, err
		}
	}
	p := &fakeProc{
		w: w, id: id, pid: 100 + len(w.procs), obey: w.obey, began: time.Now(),
		proven: make(chan struct{}), exited: make(chan struct{}), gone: make(chan struct{}), notices: make(chan notify.Message), asks: make(chan Ask, 1),
	}
	w.procs = append(w.procs, p)
	alive := 0
	for _, p := range w.procs {
		if p.alive() {
			alive++
		}
	}
	w.most = max(w.most, alive)
	return p, nil
}

// set changes what processes will do.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) procsCount() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.procs)
}

func (w *world) alive() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, p := range w.procs {
		if p.alive() {
			n++
		}
	}
	return n
}

// last returns the newest process of a slot.
func (w *world) last(slot int) *fakeProc {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.procs) - 1; i >= 0; i-- {
		if w.procs[i].id.ID == slot {
			return w.procs[i]
		}
	}
	w.t.Fatalf("slot %d never had a process\n%s", slot, w.log.String())
	return nil
}

// nth returns a process of a slot; 0 is its first.
func (w *world) nth(slot, n int) *fakeProc {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.procs {
		if p.id.ID != slot {
			continue
		}
		if n == 0 {
			return p
		}
		n--
	}
	w.t.Fatalf("slot %d had fewer processes\n%s", slot, w.log.String())
	return nil
}

// count returns how many processes a slot has had.
func (w *world) count(slot int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, p := range w.procs {
		if p.id.ID == slot {
			n++
		}
	}
	return n
}

func (w *world) want(what string, got, want any) {
	w.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("%s: %v, want %v\n%s", what, got, want, w.log.String())
	}
}

func (w *world) logged(text string) bool { return strings.Contains(w.log.String(), text) }

// A fakeProc is a process that does what the test says.
type fakeProc struct {
	w       *world
	id      Identity
	pid     int
	obey    func(*fakeProc, syscall.Signal)
	began   time.Time
	notices chan notify.Message
	asks    chan Ask
	fed     atomic.Bool
	newborn atomic.Bool   // it is fed, but not proven
	inHand  chan struct{} // closed by the test when it has answered; nil: it has nothing in hand
	proven  chan struct{} // see Events.Answered
	exited  chan struct{}
	gone    chan struct{}

	saidReady, saidDue bool        // for trials
	finished           atomic.Bool // it was told that no more messages come

	mu       sync.Mutex
	exit     reaper.Exit
	signals  []syscall.Signal // to the group, CONT left out
	alone    []syscall.Signal // to the process
	children bool             // somebody else is in its group
	released bool
	grace    time.Time // as told by Feed
	life     Life

	lateAnswer bool // it answers a message when it is released

	refused error // what the kernel says to a signal for its group
}

func (p *fakeProc) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// fakePeak is the peak memory of every fake process: 12.5 MiB.
const fakePeak = 12<<20 + 512<<10

func (p *fakeProc) Info() ProcessInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return ProcessInfo{PID: p.pid, Exit: p.exit}
}

func (p *fakeProc) Events() Events {
	return Events{Exited: p.exited, Gone: p.gone, Notices: p.notices, Asks: p.asks, Answered: p.proven}
}

func (p *fakeProc) Feed(proven bool, grace time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fed.Store(true)
	p.newborn.Store(!proven)
	p.grace = grace
}

func (p *fakeProc) MarkReady() { p.newborn.Store(false) }

// answer has it answer a message without failure.
func (p *fakeProc) answer() {
	p.MarkReady()
	p.set(p.noteAnswer)
	synctest.Wait()
}

// noteAnswer is for who holds mu.
func (p *fakeProc) noteAnswer() {
	if !p.life.Answered {
		p.life.Answered = true
		close(p.proven)
	}
	p.w.set(func() { p.w.lastAnswer = time.Now() })
}

// hold gives it a message that it does not answer.
func (p *fakeProc) hold() { p.set(func() { p.life.Held = true }) }

func (p *fakeProc) Finish() <-chan struct{} {
	p.fed.Store(false)
	p.finished.Store(true)
	if p.inHand != nil {
		return p.inHand
	}
	answered := make(chan struct{})
	close(answered)
	return answered
}

// ask has the worker's channel want something.
func (p *fakeProc) ask(what Ask) {
	p.asks <- what
	synctest.Wait()
}

func (p *fakeProc) Release(string, bool) (life Life) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lateAnswer {
		p.noteAnswer()
	}
	life = p.life
	p.w.set(func() { life.LastAnswer = p.w.lastAnswer })
	if p.released {
		p.w.t.Error("released twice")
	}
	p.released = true
	return life
}

func (p *fakeProc) Signal(target Target, sig syscall.Signal) error {
	if target == Alone {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.alone = append(p.alone, sig)
		return nil
	}
	select {
	case <-p.gone:
		return os.ErrProcessDone
	default:
	}
	if sig != syscall.SIGCONT {
		p.mu.Lock()
		if p.refused != nil {
			defer p.mu.Unlock()
			return p.refused
		}
		p.signals = append(p.signals, sig)
		obey := p.obey
		p.mu.Unlock()
		obey(p, sig)
	}
	return nil
}

func (p *fakeProc) setObey(obey func(*fakeProc, syscall.Signal)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.obey = obey
}

// refuse has the kernel refuse each signal for its group.
func (p *fakeProc) refuse(err error) { p.set(func() { p.refused = err }) }

func (p *fakeProc) got() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprint(p.signals)
}

func (p *fakeProc) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// die ends the process: code for an exit, sig for a death by signal.
func (p *fakeProc) die(code int, sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.alive() {
		return
	}
	p.exit = reaper.Exit{Code: code, Signal: sig, Peak: fakePeak}
	close(p.exited)
	if !p.children {
		close(p.gone)
	}
}

// getChildren has somebody else in its group.
func (p *fakeProc) getChildren() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.children = true
}

func (p *fakeProc) hasChildren() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.children
}

// childrenGo ends what is left of the group.
func (p *fakeProc) childrenGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.children && !p.alive() {
		p.children = false
		close(p.gone)
	}
}

func (p *fakeProc) crash(code int) {
	p.die(code, 0)
	synctest.Wait()
}

func (p *fakeProc) say(m notify.Message) {
	select {
	case p.notices <- m:
	case <-p.exited:
	}
	synctest.Wait()
}

// obedient dies of what it is sent, 10 ms later.
func obedient(p *fakeProc, sig syscall.Signal) {
	if sig == syscall.SIGKILL {
		p.die(0, sig)
		p.childrenGo()
		return
	}
	time.AfterFunc(10*time.Millisecond, func() {
		p.die(0, sig)
		p.childrenGo()
	})
}

// prompt dies of what it is sent at once.
func prompt(p *fakeProc, sig syscall.Signal) {
	p.die(0, sig)
	p.childrenGo()
}

// deaf dies of SIGKILL only.
func deaf(p *fakeProc, sig syscall.Signal) {
	if sig == syscall.SIGKILL {
		obedient(p, sig)
	}
}

var errNoFile = fmt.Errorf("cannot start worker: %w", syscall.ENOENT)
var errNoProcess = fmt.Errorf("cannot start worker: %w", syscall.EAGAIN)
