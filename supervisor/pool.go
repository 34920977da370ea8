package supervisor

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper/signals"
)

// A Pool keeps Config.Workers worker processes alive. Its methods may be called
// from any goroutine; the requests (Stop, Reload, Forward) wait until Run takes
// them, and do nothing after it has returned.
type Pool struct {
	cfg    Config
	launch Launch
	log    zerolog.Logger
	slots  []*slot

	stopC    chan string
	reloadC  chan reloadRequest
	forwardC chan syscall.Signal
	events   chan event    // from the slots
	done     chan struct{} // closed when Run returns

	halting  chan struct{} // closed at the stop request: no more reloads
	stopping chan struct{} // closed when the stop signal is due; deadline is set before
	hurry    chan struct{} // closed when everybody is to be killed at once
	deadline time.Time

	lives      sync.WaitGroup // of the workers
	generation atomic.Int32

	// What follows belongs to Run.
	delayed  <-chan time.Time // the end of the drain delay
	drained  <-chan struct{}  // no message is left
	overdue  <-chan time.Time // it should be so by now
	hastenAt <-chan time.Time // when a drain looks again whether messages wait
	began    time.Time        // of the stop
	reload   *reload          // under way, or nil
	queued   *reloadRequest   // what another reload follows for, or nil
	failures []int            // in a row, by slot
	retired  []bool           // slots that are empty for good
	code     int              // the exit code, but for killed
	decided  bool             // code is a failure's, and stays
	killed   int              // workers that the stop had to kill
	helpless bool             // the stop began, or goes on, without workers

	mu     sync.Mutex // guards public
	public public
}

// An event is what a slot tells its pool.
type event struct {
	slot     int
	kind     eventKind
	end      ending // with workerEnded
	failures int    // the slot's, in a row

	successor bool // with workerEnded: the slot has another worker
}

type eventKind int

const (
	workerEnded eventKind = iota
	workerHealthy
	commandBroken // the first start failed for good
	slotRetired
	slotRevived
	slotClosed // its life is over
)

// A Result is how a pool ended.
type Result struct {
	Code   int           // for exit(2)
	Killed int           // workers that the stop had to kill
	Took   time.Duration // from the stop request on
}

// New returns a pool that has not started anything yet.
func New(cfg Config, launch Launch, log zerolog.Logger) *Pool {
	p := &Pool{
		cfg: cfg, launch: launch, log: log,
		stopC:    make(chan string),
		reloadC:  make(chan reloadRequest),
		forwardC: make(chan syscall.Signal),
		events:   make(chan event),
		done:     make(chan struct{}),
		halting:  make(chan struct{}),
		stopping: make(chan struct{}),
		hurry:    make(chan struct{}),
		failures: make([]int, cfg.Workers),
		retired:  make([]bool, cfg.Workers),
		public:   public{exits: make(map[Cause]uint64), reload: ReloadStats{Results: make(map[Outcome]uint64)}},
	}
	p.generation.Store(1)
	for id := range cfg.Workers {
		p.slots = append(p.slots, newSlot(p, id))
	}
	return p
}

// Stop asks the pool to stop; why is for the log. Asked a second time it kills
// the workers.
func (p *Pool) Stop(why string) {
	select {
	case p.stopC <- why:
	case <-p.done:
	}
}

// Forward passes a signal on to every worker process.
func (p *Pool) Forward(sig syscall.Signal) {
	select {
	case p.forwardC <- sig:
	case <-p.done:
	}
}

// Generation returns what workers that are started now are told.
func (p *Pool) Generation() int { return int(p.generation.Load()) }

// Run starts the workers, keeps them alive and returns when the pool was
// stopped, gave up or has no worker left to restart, and all of them are gone.
func (p *Pool) Run() Result {
	defer close(p.done)
	p.show(func(s *public) { s.began = time.Now() })
	for _, s := range p.slots {
		p.lives.Go(func() {
			s.life()
			p.say(event{slot: s.id, kind: slotClosed})
		})
	}
	for open := len(p.slots); open > 0; {
		select {
		case e := <-p.events:
			if e.kind == slotClosed {
				open--
				continue
			}
			p.heard(e)
		case why := <-p.stopC:
			p.stopAsked(why)
		case r := <-p.reloadC:
			p.reloadAsked(r)
		case sig := <-p.forwardC:
			p.forward(sig)
		case err := <-p.reload.doneC():
			p.reloadEnded(err)
		case <-p.delayed:
			p.drain(p.deadline)
		case <-p.hastenAt:
			p.hasten()
		case <-p.overdue: // the drain hangs, on a disk for one
			p.stopWorkers()
		case <-p.drained:
			p.stopWorkers()
		}
	}
	p.lives.Wait()
	return p.result()
}

func (p *Pool) result() Result {
	if p.reload != nil {
		p.reloadEnded(<-p.reload.done)
	}
	r := Result{Code: p.code, Killed: p.killed, Took: time.Since(p.began)}
	if r.Killed > 0 && !p.decided {
		r.Code = 128 + int(syscall.SIGKILL)
	}
	return r
}

// say is how slots tell their pool what happened. Run listens as long as there
// are slots.
func (p *Pool) say(e event) { p.events <- e }

func (p *Pool) heard(e event) {
	switch e.kind {
	case workerEnded:
		p.workerEnded(e)
	case commandBroken:
		p.commandBroken(e.end)
	case workerHealthy:
		p.failures[e.slot] = 0
	case slotRetired:
		p.retired[e.slot] = true
		if !slices.Contains(p.retired, false) {
			p.stopFor("no worker is left to restart")
		}
	case slotRevived:
		p.retired[e.slot] = false
	}
}

// commandBroken: nothing can be started, which only the user can mend.
func (p *Pool) commandBroken(end ending) {
	if !p.isHalting() {
		p.log.Error().Err(end.err).Msg("the command cannot be started")
		p.decide(end.code())
		p.haltHelpless("the command cannot be started")
	}
}

func (p *Pool) workerEnded(e event) {
	p.failures[e.slot] = e.failures
	switch end := e.end; {
	case isClosed(p.stopping): // before that nobody was asked to stop, and who fails is restarted
		p.stoppedWorker(end)
	case !end.cause.failure():
	case p.cfg.Restart == RestartNever, p.cfg.Interactive && end.interrupted():
		p.decide(end.code())
	case !e.successor && p.hasGivenUp():
		p.decide(end.code())
		p.stopFor("every worker failed too often in a row")
	case end.reloaded && !end.healthy && p.reload != nil && !p.isHalting() && end.generation == p.reload.generation:
		p.reload.abort(e)
	}
}

// stoppedWorker looks how a worker took the stop. Dying of the stop signal is
// clean, in both ways that programs have of doing so.
func (p *Pool) stoppedWorker(end ending) {
	clean := 128 + int(p.cfg.StopSignal)
	switch status := end.exit.Status(); {
	case end.killed:
		p.killed++
	case p.cfg.Restart != RestartAlways && status != 0 && status != clean:
		p.decide(end.code())
	}
}

// decide sets the exit code; the first to do so wins.
func (p *Pool) decide(code int) {
	if !p.decided {
		p.code, p.decided = code, true
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

// temporary reports whether a start failed for want of something that may come
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
	p.log.Debug().Str("signal", signals.Name(sig)).Msg("passing a signal on")
	for _, s := range p.slots {
		for _, w := range s.workers() {
			_ = w.proc.Signal(Alone, sig) // ended meanwhile: nobody to tell
		}
	}
}
