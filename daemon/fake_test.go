package daemon

import (
	"context"
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

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// A world is a daemon in a synctest bubble: its pool is real, and its processes
// and its other parts are fakes.
type world struct {
	t      *testing.T
	d      *Daemon
	log    logBook
	began  time.Time
	result chan supervisor.Result // 1: of the pool
	code   chan int               // 1: of Stop

	started bool
	drain   func(until time.Time) <-chan struct{} // see setup
	waits   func() bool

	mu     sync.Mutex
	procs  []*fakeProc // all that were ever started
	refuse func(supervisor.Identity) error
	obey   func(p *fakeProc, sig syscall.Signal) // what new ones do on a signal
	slow   map[string]bool                       // steps that do not end by themselves
	hung   map[string]bool                       // steps that do not end before the test does
	thaw   chan struct{}                         // closed then
	steps  []string                              // those that have begun, with how far the time was
}

// A logBook keeps what was logged.
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

// A setup is a configuration, and how the intake drains.
type setup struct {
	Config
	drain func(until time.Time) <-chan struct{} // nil: no message source
	waits func() bool                           // nil: no message ever waits
}

// sane is a configuration like the defaults of the command line.
func sane(change func(*setup)) *setup {
	cfg := &setup{Config: Config{Pool: supervisor.Config{
		Workers: 3, Restart: supervisor.RestartAlways,
		RestartDelay: 100 * time.Millisecond, RestartDelayMax: 30 * time.Second, HealthyAfter: 10 * time.Second,
		StopSignal: syscall.SIGTERM, StopTimeout: 8 * time.Second, ReadyTimeout: 30 * time.Second,
	}}}
	if change != nil {
		change(cfg)
	}
	return cfg
}

// inWorld runs f in a bubble with a daemon that runs, and then stops it.
func inWorld(t *testing.T, change func(*setup), f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, began: time.Now(), result: make(chan supervisor.Result, 1), code: make(chan int, 1), obey: obedient, slow: map[string]bool{}, hung: map[string]bool{}, thaw: make(chan struct{})}
		defer w.melt()
		log := zerolog.New(&w.log)
		cfg := sane(change)
		w.drain, w.waits = cfg.drain, cfg.waits
		pool := newRequests(supervisor.New(cfg.Pool, w.launch, log), cfg.auto, cfg.Pool.StopTimeout, cfg.Signals, log)
		w.d = &Daemon{
			cfg: &cfg.Config, log: log, reaper: fakeNamespace{w}, intake: fakeIntake{w}, pool: pool, endpoints: &endpoints{log: log},
			atExit: fakeExit{w}, poolEnded: make(chan supervisor.Result, 1), signalsOff: make(chan struct{}),
		}
		f(w)
		w.run()
		if len(w.code) == 0 {
			w.d.pool.StopNow("end of test")
		}
		if code, r := <-w.code, <-w.result; code != r.Code {
			t.Errorf("code %d, that of the pool %d", code, r.Code)
		}
		if n := w.alive(); n != 0 {
			t.Errorf("%d workers alive after the stop", n)
		}
	})
}

// melt ends the steps that hang.
func (w *world) melt() {
	select {
	case <-w.thaw:
	default:
		close(w.thaw)
	}
}

// run starts the daemon, once.
func (w *world) run() {
	if w.started {
		return
	}
	w.started = true
	go func() { // ends with the pool; inWorld waits for it
		r := w.d.pool.Run()
		w.result <- r
		w.d.poolEnded <- r
	}()
	go func() { w.code <- w.d.stopAtLast(w.d.reasonToStop()) }() // inWorld waits for it
	synctest.Wait()
}

func (w *world) stop()    { w.d.pool.Stop("SIGTERM") }
func (w *world) stopNow() { w.d.pool.StopNow("SIGINT") }

// pass lets time go by in the bubble.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// wait returns the pool's result, which must come within d.
func (w *world) wait(d time.Duration) supervisor.Result {
	w.t.Helper()
	select {
	case r := <-w.result:
		w.result <- r // for inWorld
		return r
	case <-time.After(d):
		w.t.Fatalf("the pool has not ended within %s\n%s", d, w.log.String())
		return supervisor.Result{}
	}
}

// end waits for the end of the stop, and returns how long after the start it was.
func (w *world) end(d time.Duration) time.Duration {
	w.t.Helper()
	select {
	case code := <-w.code:
		w.code <- code // for inWorld
	case <-time.After(d):
		w.t.Fatalf("the stop has not ended within %s\n%s", d, w.log.String())
	}
	return time.Since(w.began)
}

func (w *world) launch(id supervisor.Identity) (supervisor.Process, error) {
	w.mu.Lock()
	refuse := w.refuse
	w.mu.Unlock()
	if refuse != nil {
		if err := refuse(id); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &fakeProc{
		slot: id.ID, pid: 100 + len(w.procs), obey: w.obey,
		exited: make(chan struct{}), notices: make(chan notify.Message),
	}
	w.procs = append(w.procs, p)
	return p, nil
}

// set changes what processes and steps will do.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) of(slot int) (procs []*fakeProc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.procs {
		if p.slot == slot {
			procs = append(procs, p)
		}
	}
	return procs
}

func (w *world) alive() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.procs {
		if p.alive() {
			n++
		}
	}
	return n
}

// count returns how many processes a slot has had, and last the newest of them.
func (w *world) count(slot int) int { return len(w.of(slot)) }

func (w *world) last(slot int) *fakeProc { return w.of(slot)[w.count(slot)-1] }

func (w *world) want(what string, got, want any) {
	w.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Errorf("%s: %v, want %v\n%s", what, got, want, w.log.String())
	}
}

func (w *world) logged(text string) bool { return strings.Contains(w.log.String(), text) }

// step notes that a step has begun. If the step is slow it lasts until it is
// hurried, or for the given time.
func (w *world) step(name string, hurried context.Context, most time.Duration) {
	w.mu.Lock()
	if name != "resume" { // it takes no time, unless it hangs
		w.steps = append(w.steps, fmt.Sprint(name, " at ", time.Since(w.began)))
	}
	slow, hung := w.slow[name], w.hung[name]
	w.mu.Unlock()
	if hung {
		<-w.thaw
	}
	if slow {
		select {
		case <-hurried.Done():
		case <-time.After(most):
		}
	}
}

func (w *world) begun() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.steps, ", ")
}

// A fakeIntake drains as the world says.
type fakeIntake struct{ w *world }

func (in fakeIntake) takesMessages() bool { return in.w.drain != nil }
func (in fakeIntake) serve()              {}
func (in fakeIntake) resume()             { in.w.step("resume", nil, 0) }
func (in fakeIntake) messagesWait() bool  { return in.w.waits != nil && in.w.waits() }

func (in fakeIntake) drain(until time.Time) <-chan struct{} {
	in.w.step("drain", nil, 0)
	return in.w.drain(until)
}

func (in fakeIntake) close(hurried context.Context, until time.Time) {
	in.w.step("clients", hurried, time.Until(until))
}

func (in fakeIntake) totals() ipc.Totals { return ipc.Totals{Handled: 118} }

type fakeExit struct{ w *world }

func (e fakeExit) run(hurried context.Context, until time.Time) {
	e.w.step("exit command", hurried, time.Until(until))
}

type fakeNamespace struct{ w *world }

func (n fakeNamespace) EndRest(hurried context.Context, grace time.Duration, _ func([]reaper.Left, syscall.Signal)) {
	n.w.step("rest", hurried, grace)
}

func (n fakeNamespace) Close() { n.w.step("reaper", nil, 0) }

// A fakeProc is a process that does what the test says.
type fakeProc struct {
	slot    int
	pid     int
	obey    func(*fakeProc, syscall.Signal)
	notices chan notify.Message
	fed     atomic.Bool
	exited  chan struct{}

	mu      sync.Mutex
	exit    reaper.Exit
	signals []syscall.Signal // CONT left out
}

func (p *fakeProc) Info() supervisor.ProcessInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	return supervisor.ProcessInfo{PID: p.pid, Exit: p.exit}
}

func (p *fakeProc) Events() supervisor.Events {
	return supervisor.Events{Exited: p.exited, Gone: p.exited, Notices: p.notices}
}

func (p *fakeProc) Feed(bool, time.Time) { p.fed.Store(true) }

func (p *fakeProc) MarkReady() {}

func (p *fakeProc) Finish() <-chan struct{} {
	p.fed.Store(false)
	answered := make(chan struct{})
	close(answered)
	return answered
}

func (p *fakeProc) Release(string, bool) supervisor.Life { return supervisor.Life{} }

func (p *fakeProc) Signal(_ supervisor.Target, sig syscall.Signal) error {
	if !p.alive() {
		return os.ErrProcessDone
	}
	if sig != syscall.SIGCONT {
		p.mu.Lock()
		p.signals = append(p.signals, sig)
		p.mu.Unlock()
		p.obey(p, sig)
	}
	return nil
}

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
	if p.alive() {
		p.exit = reaper.Exit{Code: code, Signal: sig}
		close(p.exited)
	}
}

func (p *fakeProc) crash(code int) {
	p.die(code, 0)
	synctest.Wait()
}

// obedient dies of what it is sent, 10 ms later.
func obedient(p *fakeProc, sig syscall.Signal) {
	if sig == syscall.SIGKILL {
		p.die(0, sig)
		return
	}
	time.AfterFunc(10*time.Millisecond, func() { p.die(0, sig) })
}

// deaf dies of SIGKILL only.
func deaf(p *fakeProc, sig syscall.Signal) {
	if sig == syscall.SIGKILL {
		p.die(0, sig)
	}
}

var errNoFile = fmt.Errorf("cannot start worker: %w", syscall.ENOENT)
