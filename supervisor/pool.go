package supervisor

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/signals"
)

// A Pool keeps a number of worker processes alive, at first Config.Workers. Its methods may be called
// from any goroutine. Requests wait until Run takes them, are carried out in
// their order, and do nothing after Run has returned.
type Pool struct {
	cfg         Config
	launch      Launch
	log         zerolog.Logger
	places      places
	slotTable   *slotTable
	workerTable *workerTable

	requests chan func()    // for Run
	events   chan poolEvent // from the slots
	over     chan Over      // 1: said once, and Run never waits for the reader
	done     chan struct{}  // closed when the last worker is gone

	stopping chan struct{} // closed when the stop signal is due; deadline is set before
	killing  chan struct{} // closed when all workers are to be killed at once
	deadline time.Time     // SIGKILL then

	lives      sync.WaitGroup // of the workers
	left       *leftovers
	generation atomic.Int32

	// What follows belongs to Run.
	phase    poolPhase
	began    time.Time // of the stop
	saidOver bool
	reloads  reloads
	opened   int    // slots whose life is not over
	failures []int  // in a row, by slot
	retired  []bool // slots that are empty for good
	code     int    // the exit code, but for killed
	decided  bool   // code is a failure's, and stays
	final    bool   // code goes before that of killed
	worst    Over   // Worker and How of the end that code is from
	killed   int    // workers that the stop had to kill

	mu     sync.Mutex // guards public
	public public
}

// A poolPhase is how far a pool's stop has come.
type poolPhase int

const (
	serving  poolPhase = iota
	halting            // no more reloads; workers that end are still restarted
	stopping           // the workers were told to stop; no more starts
	killing            // they were sent SIGKILL
)

// A poolEvent is what a slot tells its pool.
type poolEvent struct {
	slot     int
	kind     poolEventKind
	end      ending // with workerLeft and commandBroken
	failures int    // the slot's, in a row

	successor bool // with workerLeft: the slot has another worker
	told      bool // with workerLeft: the slot has told the reload that waits for this worker
}

type poolEventKind int

const (
	workerLeft poolEventKind = iota
	workerHealthy
	commandBroken // the first start failed for good
	slotRetired
	slotRevived
	slotClosed // its life is over
)

// An Over says why a pool has to stop by itself. It has halted already.
type Over struct {
	Why    string
	Broken bool // cannot start the command at all, which the pool has logged
	Ready  bool // a worker is ready that could still handle messages

	Worker int    // whose end was the last straw; -1: none
	How    string // it ended
}

// A Result is how a pool ended.
type Result struct {
	Code   int           // for exit(2)
	Final  bool          // Code tells why the pool gave up, or that it could not start the command
	Killed int           // workers that the stop had to kill
	Took   time.Duration // from the stop request on
}

// New returns a pool that has not started anything yet.
func New(cfg Config, launch Launch, log zerolog.Logger) *Pool {
	return newPool(cfg, launch, log, newTable(slotRules()), newTable(workerRules()))
}

func newPool(cfg Config, launch Launch, log zerolog.Logger, slots *slotTable, workers *workerTable) *Pool {
	p := &Pool{
		cfg: cfg, launch: launch, log: log,
		slotTable:   slots,
		workerTable: workers,
		requests:    make(chan func()),
		events:      make(chan poolEvent),
		over:        make(chan Over, 1),
		done:        make(chan struct{}),
		stopping:    make(chan struct{}),
		killing:     make(chan struct{}),
		left:        &leftovers{over: make(chan struct{})},
		public:      public{exits: make(map[Cause]uint64), reload: ReloadStats{Results: make(map[Outcome]uint64)}},
	}
	p.generation.Store(1)
	p.reloads.pool, p.worst.Worker = p, -1
	for id := range cfg.Workers {
		p.places.set(cfg.Workers, []*slot{newSlot(p, id)})
	}
	return p
}

// Run starts the workers and keeps them alive. It returns when StopWorkers was
// called, and all of them are gone.
func (p *Pool) Run() Result {
	defer close(p.done)
	p.show(func(s *public) { s.began = time.Now() })
	for _, s := range p.places.those() {
		p.open(s)
	}
	for p.opened > 0 {
		select {
		case e := <-p.events:
			p.heard(e)
		case request := <-p.requests:
			request()
		case err := <-p.reloads.resultC():
			p.reloads.ended(err)
		}
	}
	close(p.left.over)
	p.lives.Wait()
	return p.result()
}

func (p *Pool) result() Result {
	if p.reloads.running != nil {
		p.reloads.ended(<-p.reloads.running.result)
	}
	r := Result{Code: p.code, Final: p.final, Killed: p.killed, Took: time.Since(p.began)}
	if (r.Killed > 0 || len(p.Left()) > 0) && !p.final {
		r.Code = 128 + int(syscall.SIGKILL)
	}
	return r
}

// request has Run carry something out. It reports whether Run has taken it.
func (p *Pool) request(what func()) bool {
	select {
	case p.requests <- what:
		return true
	case <-p.done:
		return false
	}
}

// Forward passes a signal on to every worker process.
func (p *Pool) Forward(sig syscall.Signal) { p.request(func() { p.forward(sig) }) }

// Reload asks for a rolling reload; why is for the log. During one it asks for
// another one after it.
func (p *Pool) Reload(why string) {
	p.request(func() { p.reloads.ask(reloadRequest{why: why}) })
}

// ReloadWait is Reload for callers that wait for the result. The channel yields
// it once.
func (p *Pool) ReloadWait(why string) <-chan ReloadResult {
	result := make(chan ReloadResult, 1)
	if !p.request(func() { p.reloads.ask(reloadRequest{why, []chan<- ReloadResult{result}}) }) {
		result <- ReloadResult{Outcome: Interrupted, Reason: "the pool has stopped"}
	}
	return result
}

// Places returns how many places for workers the pool has ever had. They are
// numbered from 0.
func (p *Pool) Places() int {
	all, _ := p.places.look()
	return len(all)
}

// Workers returns how many workers the pool is to have.
func (p *Pool) Workers() int { return p.places.count() }

// Scale changes how many workers the pool is to have. More are started at once.
// Of fewer, those with the highest numbers are stopped when they have answered
// what they have in hand. It returns when that has begun, or says why it cannot
// be done now.
func (p *Pool) Scale(workers int) error {
	result := make(chan error, 1) // 1: Run does not wait for the caller
	if !p.request(func() { result <- p.scale(workers) }) {
		return errStopping
	}
	return <-result
}

// The phases of a stop, in their order. A phase that has begun does not begin a
// second time. The caller decides when each of them begins.

// Halt begins the stop: there are no more reloads, and the pool is not ready any
// more. Workers serve, and those that end are restarted. why is for Stats.
func (p *Pool) Halt(why string) { p.request(func() { p.halt(why) }) }

// SkipBackoff starts the workers that wait for their next start, so that
// messages which wait are handled while there is time. Each slot does so once,
// so that a worker that dies again keeps to its backoff.
func (p *Pool) SkipBackoff() {
	all, _ := p.places.look()
	for _, s := range all {
		s.askToSkip()
	}
}

// IsLost reports whether there is no worker, and none will start before the
// given time.
func (p *Pool) IsLost(before time.Time) bool {
	all, _ := p.places.look()
	for _, s := range all {
		if !s.isLost(before) {
			return false
		}
	}
	return true
}

// StopWorkers tells every worker to stop: the end of its input, the stop signal
// when it has answered what it has in hand, and SIGKILL at the deadline. No
// worker is started any more. Halt comes before. The pool ends when they are gone, at the latest
// killGrace after the deadline.
func (p *Pool) StopWorkers(deadline time.Time) { p.request(func() { p.stopWorkers(deadline) }) }

// Kill ends every worker by SIGKILL, at once.
func (p *Pool) Kill() { p.request(p.kill) }

// Over yields why the pool has to stop by itself, at most once: every worker
// failed too often, none is left to restart, or cannot start the command.
// The pool has halted then, and waits for StopWorkers.
func (p *Pool) Over() <-chan Over { return p.over }

// Done is closed when Run returns.
func (p *Pool) Done() <-chan struct{} { return p.done }

// Left returns the PIDs of the processes that survive SIGKILL, and were given up.
func (p *Pool) Left() []int { return p.left.pids(-1) }

func (p *Pool) halt(why string) {
	if p.phase >= halting {
		return
	}
	p.phase, p.began = halting, time.Now()
	p.show(func(s *public) { s.stopping, s.stopBegan, s.reload.Queued = why, p.began, false })
	p.reloads.halt()
}

func (p *Pool) stopWorkers(deadline time.Time) {
	if p.phase < stopping {
		p.halt("")
		p.phase, p.deadline = stopping, deadline
		close(p.stopping)
	}
}

func (p *Pool) kill() {
	if p.phase < killing {
		p.stopWorkers(time.Now())
		p.phase = killing
		close(p.killing)
	}
}

// stopItself halts the pool, and says why it has to stop.
func (p *Pool) stopItself(why string, broken bool) {
	if p.saidOver || p.phase >= stopping {
		return
	}
	p.saidOver = true
	p.halt(why)
	stats := p.Stats()
	p.over <- Over{Why: why, Broken: broken, Ready: stats.countReady() > 0, Worker: p.worst.Worker, How: p.worst.How}
}

// Generation returns what workers that are started now are told.
func (p *Pool) Generation() int { return int(p.generation.Load()) }

// say is how slots tell their pool what happened. Run listens as long as there
// are slots.
func (p *Pool) say(e poolEvent) { p.events <- e }

func (p *Pool) heard(e poolEvent) {
	switch e.kind {
	case workerLeft:
		p.workerLeft(e)
	case commandBroken:
		p.commandBroken(e)
	case workerHealthy:
		p.failures[e.slot] = 0
	case slotRetired:
		p.retired[e.slot] = true
		if !slices.Contains(p.retired, false) {
			p.stopItself("no worker is left to restart", false)
		}
	case slotRevived:
		p.retired[e.slot] = false
	case slotClosed:
		p.opened--
	}
}

// commandBroken: nothing can be started, which only the user can mend.
func (p *Pool) commandBroken(e poolEvent) {
	if p.phase < halting {
		p.log.Error().Err(e.end.err).Msg("cannot start the command")
		p.decide(e)
		p.final = true
		p.stopItself("cannot start the command", true)
	}
}

func (p *Pool) workerLeft(e poolEvent) {
	p.failures[e.slot] = e.failures
	switch end := e.end; {
	case p.phase >= stopping: // before that no worker was asked to stop, and one that fails is restarted
		p.noteStopped(e)
	case !end.failed():
	case p.cfg.Restart == RestartNever, p.cfg.Interactive && end.interrupted():
		p.decide(e)
	case !e.successor && end.countsForGiveUp() && p.hasGivenUp():
		p.decide(e)
		p.final = true
		p.stopItself("every worker failed too many times in a row", false)
	case end.reloaded && !e.told && end.failsReload() && p.phase < halting:
		p.reloads.abort(e)
	}
}

// noteStopped looks how a worker took the stop. Dying of the stop signal is
// clean, in both ways that programs have of doing so.
func (p *Pool) noteStopped(e poolEvent) {
	clean := 128 + int(p.cfg.StopSignal)
	switch status := e.end.exit.Status(); {
	case e.end.killed:
		p.killed++
	case p.cfg.Restart != RestartAlways && status != 0 && status != clean:
		p.decide(e)
	}
}

// decide sets the exit code, from the end of a worker; the first to do so wins.
func (p *Pool) decide(e poolEvent) {
	if !p.decided {
		p.code, p.decided = e.end.code(), true
		p.worst = Over{Worker: e.slot, How: e.end.String()}
	}
}

func (p *Pool) hasGivenUp() bool {
	if p.cfg.GiveUp == 0 {
		return false
	}
	for id, n := range p.failures {
		if n < p.cfg.GiveUp && !p.retired[id] {
			return false
		}
	}
	return true
}

// temporary reports whether a start failed because something was missing that may come
// back, such as processes under a pids limit.
func temporary(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ETXTBSY} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func (p *Pool) forward(sig syscall.Signal) {
	p.log.Debug().Str("signal", signals.Name(sig)).Msg("forwarding signal")
	all, _ := p.places.look()
	for _, s := range all {
		for _, w := range s.workers() {
			_ = w.proc.Signal(Alone, sig) // it has ended meanwhile: fine
		}
	}
}

// CommandKilled is told that a command which a worker had run, for one message,
// died of a SIGKILL that poolinit has not sent. It reports whether that was the
// OOM killer's. Then it is logged and counted as the end of a worker would be,
// but the worker goes on, and has not failed.
func (p *Pool) CommandKilled(worker, pid int, exit reaper.Exit, uptime time.Duration) bool {
	if ownDoing(exit, p.cfg.OOMKilled) != OOM {
		return false
	}
	p.places.at(worker).logEnd(ending{cause: OOM, pid: pid, exit: exit, uptime: uptime}).Msg("command was killed by the OOM killer")
	return true
}

// Stats returns a picture of the pool. It waits for no other goroutine.
func (p *Pool) Stats() Stats {
	slots, wanted := p.places.look()
	s := Stats{Generation: p.Generation(), Complete: true, Wanted: wanted}
	for i, slot := range slots {
		w, complete := slot.stats()
		if i < wanted {
			s.Complete = s.Complete && complete
		} else if len(slot.workers()) == 0 {
			continue
		}
		for len(s.Workers) < i { // those before it that are parked
			before, _ := slots[len(s.Workers)].stats()
			s.Workers = append(s.Workers, before)
		}
		s.Workers = append(s.Workers, w)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Began, s.Stopping, s.StopBegan = p.public.began, p.public.stopping, p.public.stopBegan
	s.Exits = maps.Clone(p.public.exits)
	s.Reload = p.public.reload
	s.Reload.Results = maps.Clone(s.Reload.Results)
	return s
}

// public is what a pool shows.
type public struct {
	began     time.Time
	stopping  string
	stopBegan time.Time
	exits     map[Cause]uint64
	reload    ReloadStats
}

// show changes what Stats shows.
func (p *Pool) show(change func(*public)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.public)
}
