package supervisor

import (
	"cmp"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// A slot is one place in the pool. Its number stays, its processes come and go.
type slot struct {
	id   int
	pool *Pool
	log  zerolog.Logger
	none *worker // stands for a worker that is not there: nothing is ever heard of it

	reloadC chan *replacement // from the pool's reload, which waits until the slot takes it
	skipC   chan struct{}     // 1: from the pool's drain, which never waits
	wantC   chan struct{}     // 1: unwanted has changed; the pool never waits
	goneC   chan *worker      // detached workers that are gone

	// What follows belongs to life.
	event       slotNews     // what came with the event at hand
	replacement *replacement // under way, or nil
	tried       bool         // to start a worker, at least once
	nextTries   int          // successors of this worker that failed
	replaceFor  Cause        // why this worker is due to be replaced; "": it is not
	dueHeard    bool         // the worker's share of messages is over, and that was heard
	memory      memoryLimit
	at          slotTimers

	mu       sync.Mutex // guards what follows for readers outside of life
	state    slotState
	cur      *worker   // has the place, or nil
	next     *worker   // its successor while both run (start-first), or nil
	detached []*worker // those that still live
	skipped  bool      // it has skipped a backoff in the drain
	unwanted bool      // the pool was scaled down
	record   record    // for Stats
}

// slotTimers are what a slot waits for. A nil channel is off.
type slotTimers struct {
	start    <-chan time.Time // of the next worker
	retry    <-chan time.Time // when to try again to replace the worker
	healthy  <-chan time.Time // HealthyAfter
	lifetime <-chan time.Time // MaxLifetime
	memory   <-chan time.Time // the next look at the worker's memory
}

// slotNews is what comes with a slotEvent.
type slotNews struct {
	asked   *replacement // by a reload, or because the worker is due
	started *worker
	end     ending
	broken  bool // the very first start failed, and will never succeed
	verdict verdict
	gone    *worker // a detached one
}

func newSlot(p *Pool, id int) *slot {
	return &slot{
		id: id, pool: p, none: new(worker), state: slotLaunching, record: record{idle: Backoff},
		log:     p.log.With().Int("worker", id).Logger(),
		reloadC: make(chan *replacement),
		skipC:   make(chan struct{}, 1),
		wantC:   make(chan struct{}, 1),
		goneC:   make(chan *worker),
	}
}

// life is a slot's life: each event is looked up in slotRules. It returns when
// the pool stops and the slot's workers are gone.
func (s *slot) life() {
	for s.state != slotHalted || len(s.workers()) > 0 {
		s.apply(s.wait())
	}
}

func (s *slot) apply(e slotEvent) { s.pool.slotTable.apply(s, s.state, e, s.enter) }

func (s *slot) handles(e slotEvent) bool { return s.pool.slotTable.handles(s.state, e) }

func (s *slot) enter(state slotState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	s.record.entered(state)
}

// wait returns the next event, with what belongs to it in s.event.
func (s *slot) wait() slotEvent {
	stop := listen(s.handles(stopAsked), s.pool.stopping)
	select {
	case <-stop: // first: whatever else has happened, no worker is started after it
		return stopAsked
	default:
	}
	if e := s.scaling(); s.handles(e) {
		return e
	}
	if s.state == slotLaunching || s.state == slotLaunchingNext {
		return s.launch()
	}
	cur, next := cmp.Or(s.cur, s.none), cmp.Or(s.next, s.none)
	select {
	case <-listen(s.handles(backoffElapsed), s.at.start):
		return backoffElapsed
	case <-s.skipC:
		return skipAsked
	case <-s.wantC:
		return "" // looked at above
	case r := <-listen(s.handles(reloadAsked), s.reloadC):
		return s.hear(reloadAsked, slotNews{asked: r})
	case <-listen(s.handles(workerBecameReady), cur.ready):
		return workerBecameReady
	case <-listen(s.handles(workerWasDetached), cur.detached):
		return workerWasDetached
	case <-listen(s.handles(workerEnded), cur.gone):
		return s.judge(workerEnded, slotNews{end: cur.end})
	case <-listen(s.handles(nextBecameReady), next.ready):
		return nextBecameReady
	case <-listen(s.handles(nextWasDetached), next.detached):
		return nextWasDetached
	case <-listen(s.handles(nextEnded), next.gone):
		return s.hear(nextEnded, slotNews{end: next.end})
	case w := <-s.goneC:
		return s.hear(detachedEnded, slotNews{gone: w})
	case <-listen(s.record.failures > 0 && s.handles(workerAnswered), cur.proven):
		return workerAnswered
	case <-s.at.healthy:
		return livedLong
	case <-s.at.lifetime:
		return s.due(Lifetime)
	case <-listen(!s.dueHeard && s.handles(workerFellDue), cur.due):
		s.dueHeard = true
		return s.due(cur.dueFor)
	case <-s.at.retry:
		s.at.retry = nil
		return s.due(s.replaceFor)
	case <-listen(s.looksAtMemory(), s.at.memory):
		return s.lookAtMemory()
	case <-stop:
		return stopAsked
	}
}

func (s *slot) hear(e slotEvent, news slotNews) slotEvent {
	s.event = news
	return e
}

func (s *slot) due(cause Cause) slotEvent {
	return s.hear(workerFellDue, slotNews{asked: newReplacement(cause)})
}

// launch starts a process and its life. It does so on a stack that is given
// back: a slot keeps its own for as long as there is a pool, and to start a
// process takes a deep one.
func (s *slot) launch() slotEvent {
	var w *worker
	var err error
	launched := make(chan struct{})
	go func() { // ends at once; launch waits for it
		defer close(launched)
		w, err = s.launchWorker()
	}()
	<-launched
	first := !s.tried
	s.tried = true
	if err != nil {
		return s.judge(startFailed, slotNews{end: s.noStart(err), broken: first && !temporary(err)})
	}
	return s.hear(workerStarted, slotNews{started: w})
}

func (s *slot) launchWorker() (*worker, error) {
	id := Identity{ID: s.id, Workers: s.pool.Workers(), Generation: s.pool.Generation()}
	proc, err := s.pool.launch(id)
	if err != nil {
		return nil, err
	}
	w := newWorker(s.pool, s.id, proc, s.minReady(), s.log)
	w.generation = id.Generation
	w.end.reloaded = s.replacement != nil && s.replacement.cause == Reloaded
	w.log.Info().Int("generation", id.Generation).Msg("worker started")
	s.note(func(r *record) { r.starts++ })
	s.pool.lives.Go(w.live)
	return w, nil
}

// minReady is how long the worker that is started now must stay up. After the
// first one of a reload, the canary, a tenth of that is enough with ReadyAuto.
func (s *slot) minReady() time.Duration {
	cfg := &s.pool.cfg
	if cfg.Ready == ReadyAuto && s.replacement != nil && s.replacement.afterCanary {
		return cfg.MinReady / 10
	}
	return cfg.MinReady
}

func (s *slot) noStart(err error) ending {
	return ending{cause: NoStart, err: err, generation: s.pool.Generation()}
}

// judge says what follows after an end, which it completes.
func (s *slot) judge(e slotEvent, news slotNews) slotEvent {
	news.verdict = judge(&s.pool.cfg, &s.record, news.end)
	news.verdict.delay = max(news.verdict.delay, s.pool.left.delay(&s.pool.cfg, s.id, news.end))
	news.end.idle = news.verdict.idle >= mostIdle
	return s.hear(e, news)
}

// What follows are the conditions of slotRules.

func (s *slot) isReplacing() bool  { return s.replacement != nil }
func (s *slot) isBroken() bool     { return s.event.broken }
func (s *slot) restarts() bool     { return s.event.verdict.restart }
func (s *slot) startsAtOnce() bool { return s.event.verdict.restart && s.event.verdict.delay == 0 }
func (s *slot) startsFirst() bool  { return s.pool.cfg.StartFirst }
func (s *slot) nextIsReady() bool  { return s.next.hasBeenReady() }

// maySkip: one backoff of a slot in a drain, so that a worker that dies again
// keeps to its backoff.
func (s *slot) maySkip() bool { return !s.skipped }

// isYoung reports whether the worker had hardly begun: a command that closes
// what it inherits must not become a fork bomb.
func (s *slot) isYoung() bool { return time.Since(s.cur.began) < shortLife }

// What follows are the actions of slotRules.

// occupy gives the place to the worker that was started.
func (s *slot) occupy() { s.give(s.event.started) }

// give makes w the slot's worker, and sets what is counted from its start.
func (s *slot) give(w *worker) {
	s.set(w, nil)
	s.stopCounting()
	s.dueHeard, s.nextTries = false, 0
	cfg, age := &s.pool.cfg, time.Since(w.began)
	s.at.healthy = time.After(cfg.HealthyAfter - age)
	if cfg.MaxLifetime > 0 {
		s.at.lifetime = time.After(jitter(cfg.MaxLifetime, 0.1) - age)
	}
	if cfg.MaxMemory > 0 {
		s.at.memory = time.After(s.memory.begin(cfg) - age)
	}
}

// vacate leaves the slot without a worker.
func (s *slot) vacate() {
	s.set(nil, s.next)
	s.note((*record).emptied)
	s.stopCounting()
}

func (s *slot) stopCounting() {
	s.at, s.replaceFor = slotTimers{}, ""
}

func (s *slot) set(cur, next *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur, s.next = cur, next
}

// reportBroken: the very first start failed for good, so that patience will not
// help. The pool has to hear of it.
func (s *slot) reportBroken() {
	s.pool.say(poolEvent{slot: s.id, kind: commandBroken, end: s.event.end})
	s.pool.say(poolEvent{slot: s.id, kind: slotRetired})
}

// comeBack empties the slot after a worker that ended, or could not start, and
// sets when the next one starts. Without a next one the place stays empty for
// good, unless a reload fills it again.
func (s *slot) comeBack() {
	end, v := s.event.end, s.event.verdict
	told := s.replacement != nil
	if end.wasReady && !end.failsReload() {
		s.answer(nil) // that was just not heard yet
	} else {
		s.answer(&endError{end})
	}
	s.vacate()
	s.note(func(r *record) { r.judged(v, end) })
	line := s.logEnd(end)
	if v.restart {
		line = line.Str("restart_in", round(v.delay))
	}
	line.Msg(end.what())
	if v.idle == mostIdle {
		s.pool.cfg.logIdle(s.log, s.record.idleFirst, end)
	}
	s.pool.say(poolEvent{slot: s.id, kind: workerLeft, end: end, failures: s.record.failures, told: told})
	switch {
	case !v.restart:
		s.pool.say(poolEvent{slot: s.id, kind: slotRetired})
	case v.delay > 0:
		s.backOff(v.delay)
	}
}

func (s *slot) backOff(delay time.Duration) {
	s.at.start = time.After(delay)
	s.note(func(r *record) { r.startAt = time.Now().Add(delay) })
}

func (s *slot) noteSkip() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skipped, s.record.startAt = true, time.Time{}
}

// proveHealthy: the worker has lived long enough. A worker that is not even
// ready has proved nothing yet.
func (s *slot) proveHealthy() {
	s.at.healthy = nil
	if !s.cur.isStarted() {
		s.at.healthy = time.After(max(s.pool.cfg.HealthyAfter, time.Second)) // 0 would spin until it is ready
		return
	}
	s.forgetFailures()
}

// forgetFailures: the worker is healthy, so that the failures before it are over.
func (s *slot) forgetFailures() {
	if s.record.failures > 0 {
		s.note(func(r *record) { r.failures = 0 })
		s.pool.say(poolEvent{slot: s.id, kind: workerHealthy})
	}
}

// scaling is the event that fits what the pool wants of the slot. A state that
// has a rule for it is left by that.
func (s *slot) scaling() slotEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unwanted {
		return scaledDown
	}
	return scaledUp
}

// looksAtMemory: not at that of a worker that is on its way out, or soon tried
// again.
func (s *slot) looksAtMemory() bool { return s.state == slotOccupied && s.replaceFor == "" }

func (s *slot) lookAtMemory() slotEvent {
	s.at.memory = time.After(memoryTick)
	rss, err := s.pool.cfg.Memory(s.cur.proc.Info().PID)
	if err != nil || !s.memory.exceeds(rss, s.cur.log) { // an error: it is just exiting
		return ""
	}
	return s.due(Memory)
}

// halt: the time has come to send the stop signal.
func (s *slot) halt() {
	s.answer(errStopping)
	s.stopCounting()
	o := order{cause: Stop, signal: s.pool.cfg.StopSignal, deadline: s.pool.deadline}
	for _, w := range s.workers() {
		w.stop(o)
	}
}

func (s *slot) noteStopped() {
	s.logEnded(s.event.end)
	s.vacate()
	s.tellPool(s.event.end)
}

func (s *slot) noteNextStopped() {
	s.set(s.cur, nil)
	s.logEnded(s.event.end)
	s.tellPool(s.event.end)
}

func (s *slot) tellPool(end ending) {
	s.pool.say(poolEvent{slot: s.id, kind: workerLeft, end: end, failures: s.record.failures})
}

func (s *slot) logEnded(end ending) { s.logEnd(end).Msg(end.what()) }

// logEnd counts an end, and begins the log line that tells of it.
func (s *slot) logEnd(end ending) *zerolog.Event {
	s.note(func(r *record) { r.ended(end) })
	s.pool.show(func(p *public) { p.exits[end.cause]++ })
	if end.failed() {
		return end.log(s.log.Warn())
	}
	return end.log(s.log.Info())
}

// note changes the record. Life itself may read it without the mutex.
func (s *slot) note(change func(*record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.record)
}

// What follows may be called from any goroutine.

// askToSkip asks a slot that backs off to start its worker now. It does not wait
// for life, which may be waiting for Run.
func (s *slot) askToSkip() {
	select {
	case s.skipC <- struct{}{}:
	default:
	}
}

// want says whether the pool wants a worker here.
func (s *slot) want(wanted bool) {
	s.mu.Lock()
	s.unwanted = !wanted
	s.mu.Unlock()
	select {
	case s.wantC <- struct{}{}:
	default:
	}
}

// isLost reports whether the slot has no worker and gets none before the given
// time. One that may still skip its backoff is not lost.
func (s *slot) isLost(before time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case slotStopped, slotParked, slotVacating:
		return true
	}
	return s.state == slotBackoff && s.skipped && s.record.startAt.After(before)
}

// workers returns the processes in the slot.
func (s *slot) workers() []*worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ws []*worker
	for _, w := range []*worker{s.cur, s.next} {
		if w != nil {
			ws = append(ws, w)
		}
	}
	return append(ws, s.detached...)
}

// stats returns a picture of the slot, and whether it has had a ready worker.
func (s *slot) stats() (WorkerStats, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.record.stats(s.id)
	complete := s.record.complete
	if w := s.cur; w != nil {
		info := w.proc.Info()
		st.PID, st.Generation, st.Started, st.NextStart = info.PID, w.generation, w.began, time.Time{}
		st.State, st.Since, st.Status = w.shows()
		st.Ended.CPU += info.CPU
		complete = complete || w.hasBeenReady()
	}
	if s.next != nil {
		st.Successor = s.next.proc.Info().PID
	}
	st.Unkillable = s.pool.left.pids(s.id)
	for _, w := range s.detached {
		st.Detached = append(st.Detached, w.proc.Info().PID)
	}
	return st, complete
}
