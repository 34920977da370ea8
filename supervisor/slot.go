package supervisor

import (
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// A slot is one place in the pool. Its number stays, its processes come and go.
type slot struct {
	id   int
	pool *Pool
	log  zerolog.Logger

	replaceC chan *replacement // from the reload
	hastenC  chan struct{}     // 1: from the pool's drain, which never waits

	// What follows belongs to life.
	started   bool             // it has tried to start a worker at least once
	replacing *replacement     // under way, or nil
	failures  int              // in a row
	tries     int              // successors of this worker that failed
	owed      Cause            // why this worker is due to be replaced; "": it is not
	retryAt   <-chan time.Time // when to try that again
	startAt   <-chan time.Time // the next start; nil: none is due
	healthyAt <-chan time.Time
	oldAt     <-chan time.Time // the end of its lifetime
	measure   *time.Ticker     // of its memory
	limit     uint64           // bytes of RSS, this process's own
	overdue   bool             // the worker's due was heard
	looseGone chan *worker     // from who waits for a detached worker
	stopping  <-chan struct{}  // nil once it was heard

	mu     sync.Mutex // guards what follows for readers outside of life
	cur    *worker    // whose place this is, or nil
	next   *worker    // its successor while both run (start-first), or nil
	loose  []*worker  // detached ones that still live
	idle   State      // what the slot is without a worker
	record record     // for Stats

	hastened bool // it has skipped a backoff in the drain
}

var errStopping = errors.New("the pool stops")

func newSlot(p *Pool, id int) *slot {
	return &slot{
		id: id, pool: p, idle: Backoff,
		log:       p.log.With().Int("worker", id).Logger(),
		replaceC:  make(chan *replacement),
		hastenC:   make(chan struct{}, 1),
		looseGone: make(chan *worker),
		stopping:  p.stopping,
		measure:   new(time.Ticker),
	}
}

// life is a slot's life: start, ready, serve, stop, back off, again. It
// returns when the pool stops and the slot's workers are gone.
func (s *slot) life() {
	s.start()
	for s.cur != nil || s.next != nil || len(s.loose) > 0 || s.stopping != nil {
		select {
		case <-s.startAt:
			s.start()
		case <-s.hastenC:
			s.skipBackoff()
		case <-s.cur.orNobody().gone:
			s.ended()
		case <-s.healthyAt:
			s.provedHealthy()
		case <-s.oldAt:
			s.oldAt = nil
			s.replaceItself(Lifetime)
		case <-s.dueC():
			s.overdue = true
			s.replaceItself(Messages)
		case <-s.retryAt:
			s.retryAt = nil
			s.replaceItself(s.owed)
		case <-s.measure.C:
			s.measured()
		case r := <-s.replaceable():
			s.replace(r)
		case <-s.replacementReady():
			s.replacementBecameReady()
		case <-s.next.orNobody().gone:
			s.successorEnded()
		case <-s.successorLoose():
			s.successorDetached()
		case <-s.cur.orNobody().loose:
			s.cutLoose()
		case w := <-s.looseGone:
			s.looseEnded(w)
		case <-s.stopping:
			s.poolStops()
		}
	}
}

// start puts a worker into the empty slot, or backs off if that fails. If the
// very first start fails for good, the pool has to hear of it, since no
// patience will help.
func (s *slot) start() {
	s.startAt = nil
	w, err := s.launch()
	first := !s.started
	s.started = true
	switch {
	case err == nil:
		s.take(w)
	case first && !temporary(err):
		s.pool.say(event{slot: s.id, kind: commandBroken, end: s.noStart(err)})
		s.retire()
	default:
		s.replacementFailed(err)
		s.comeBack(s.noStart(err))
	}
}

// launch starts a process and its life. It does so on a stack that is given back: a slot keeps its
// own for as long as there is a pool, and to start a process takes a deep one.
func (s *slot) launch() (w *worker, err error) {
	launched := make(chan struct{})
	go func() {
		defer close(launched)
		w, err = s.launchHere()
	}()
	<-launched
	return w, err
}

func (s *slot) launchHere() (*worker, error) {
	id := Identity{ID: s.id, Workers: len(s.pool.slots), Generation: s.pool.Generation()}
	proc, err := s.pool.launch(id)
	if err != nil {
		return nil, err
	}
	w := newWorker(&s.pool.cfg, proc, s.log, s.pool.hurry)
	w.end.generation = id.Generation
	w.end.reloaded = s.replacing != nil && s.replacing.cause == Reloaded
	w.log.Info().Int("generation", id.Generation).Msg("worker started")
	s.noteStart()
	s.pool.lives.Go(w.live)
	return w, nil
}

func (s *slot) noStart(err error) ending {
	return ending{cause: NoStart, err: err, generation: s.pool.Generation()}
}

// take makes w the slot's worker, and sets what is counted from its start.
func (s *slot) take(w *worker) {
	s.set(w, nil)
	s.overdue, s.tries, s.owed, s.retryAt = false, 0, "", nil
	cfg, age := &s.pool.cfg, time.Since(w.began)
	s.healthyAt = time.After(cfg.HealthyAfter - age)
	if cfg.MaxLifetime > 0 {
		s.oldAt = time.After(jitter(cfg.MaxLifetime, 0.1) - age)
	}
	if cfg.MaxMemory > 0 {
		s.limit = uint64(jitter(time.Duration(cfg.MaxMemory), 0.1))
		s.measure = time.NewTicker(memoryTick)
	}
}

// vacate leaves the slot without a worker.
func (s *slot) vacate() {
	s.set(nil, s.next)
	s.noteEmpty()
	s.stopCounting()
}

func (s *slot) stopCounting() {
	s.healthyAt, s.oldAt, s.retryAt, s.owed = nil, nil, nil, ""
	s.measure.Stop()
	s.measure = new(time.Ticker) // its channel is nil
}

// workers returns the processes in the slot; any goroutine may ask.
func (s *slot) workers() []*worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ws []*worker
	for _, w := range []*worker{s.cur, s.next} {
		if w != nil {
			ws = append(ws, w)
		}
	}
	return append(ws, s.loose...)
}

func (s *slot) set(cur, next *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur, s.next = cur, next
}

// provedHealthy: the worker has lived long enough. If it is not even ready, it
// has proved nothing yet.
func (s *slot) provedHealthy() {
	s.healthyAt = nil
	switch {
	case !s.cur.wasReady():
		s.healthyAt = time.After(max(s.pool.cfg.HealthyAfter, time.Second)) // 0 would spin until it is ready
	case s.failures > 0:
		s.setFailures(0)
		s.pool.say(event{slot: s.id, kind: workerHealthy})
	}
}

// measured: it is time to look at the worker's memory.
func (s *slot) measured() {
	if s.replacing != nil || s.owed != "" {
		return // it is on its way out, or soon tried again
	}
	rss, err := s.pool.cfg.Memory(s.cur.proc.Info().PID)
	if err != nil || rss <= s.limit {
		return // an error: it is just exiting
	}
	s.cur.log.Info().Str("memory", size(rss)).Str("limit", size(s.limit)).Msg("worker is above its memory limit")
	s.replaceItself(Memory)
}

// poolStops: the time has come to send the stop signal.
func (s *slot) poolStops() {
	s.stopping, s.startAt = nil, nil
	s.replacementFailed(errStopping)
	s.stopCounting()
	o := order{cause: Stopped, signal: s.pool.cfg.StopSignal, deadline: s.pool.deadline}
	for _, w := range s.workers() {
		w.stop(o)
	}
}
