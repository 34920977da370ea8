package supervisor

import (
	"errors"
	"slices"
	"time"
)

// A replacement is a new worker in place of an old one, for a reload or because
// the old one is due. A slot has at most one under way.
type replacement struct {
	cause  Cause
	result chan error // 1: the slot never waits for who asked

	old    *worker // whom it replaces, while he is there
	handed bool    // start-first: the new one is ready, and the old one was told to stop
	spoilt error   // start-first: why the new one, which still runs, is told to stop; or nil
}

// errLoose is why a new worker cannot replace anybody: nothing can tell any more
// whether it gets ready.
var errLoose = errors.New("it closed its channel before it was ready")

func newReplacement(cause Cause) *replacement {
	return &replacement{cause: cause, result: make(chan error, 1)}
}

// replaceable is nil while a replacement is under way or the pool stops: who
// asks then waits, or hears of the stop.
func (s *slot) replaceable() <-chan *replacement {
	if s.replacing != nil || s.stopping == nil {
		return nil
	}
	return s.replaceC
}

// replaceItself replaces a worker that is due, unless it is being replaced or
// ends anyway. That it is due is kept: what says so says it once, and the
// replacement under way may fail.
func (s *slot) replaceItself(cause Cause) {
	if s.owed == "" {
		s.owed = cause
	}
	if s.replacing == nil && s.stopping != nil && s.cur != nil {
		s.replace(newReplacement(cause))
	}
}

// replace begins a replacement. An empty slot is filled at once, whatever its
// backoff says: the new worker may be the cure.
func (s *slot) replace(r *replacement) {
	s.replacing, r.old = r, s.cur
	switch {
	case s.cur == nil:
		s.revive()
		s.start()
	case s.pool.cfg.StartFirst:
		s.startSuccessor()
	default:
		s.stopOld()
	}
}

// stopOld asks the old worker to stop, in a time of its own.
func (s *slot) stopOld() {
	cfg := &s.pool.cfg
	s.cur.stop(order{cause: s.replacing.cause, signal: cfg.StopSignal, deadline: time.Now().Add(cfg.StopTimeout)})
}

func (s *slot) startSuccessor() {
	next, err := s.launch()
	if err != nil {
		s.successorFailed(s.noStart(err))
		return
	}
	s.set(s.cur, next)
}

// replacementReady is the ready channel of the new worker while somebody waits
// for it.
func (s *slot) replacementReady() <-chan struct{} {
	switch r := s.replacing; {
	case r == nil || r.handed:
		return nil
	case r.old == nil:
		return s.cur.orNobody().ready
	}
	return s.next.orNobody().ready
}

// successorLoose is the loose channel of a successor while it has to get ready.
func (s *slot) successorLoose() <-chan struct{} {
	if r := s.replacing; r == nil || r.handed || r.spoilt != nil {
		return nil
	}
	return s.next.orNobody().loose
}

// successorDetached: the successor is not fed and will never be ready, so that
// waiting for it would hold the replacement up for ever. It has failed, when it
// is gone.
func (s *slot) successorDetached() {
	if s.next.wasReady() { // a select with both ready chooses at random
		s.replacementBecameReady()
		return
	}
	s.replacing.spoilt = errLoose
	s.next.log.Warn().Msg("successor closed its channel before it was ready: stopping it")
	cfg := &s.pool.cfg
	s.next.stop(order{cause: NotReady, signal: cfg.StopSignal, deadline: time.Now().Add(cfg.StopTimeout)})
}

func (s *slot) replacementBecameReady() {
	if s.replacing.old == nil {
		s.replaced(nil)
		s.tryLater() // its start may have taken longer than its lifetime
		return
	}
	s.replacing.handed = true
	s.stopOld()
}

// successorTakesOver: the old worker is gone while its successor runs. If it
// was not told to, it died in between, and the successor still has to get ready.
func (s *slot) successorTakesOver() {
	s.take(s.next)
	switch r := s.replacing; {
	case r == nil:
	case r.handed:
		s.replaced(nil)
	default:
		r.old = nil
	}
}

// successorEnded: the new worker died while the old one was still there.
func (s *slot) successorEnded() {
	end := s.next.end
	s.set(s.cur, nil)
	if s.stopping == nil {
		s.logEnd(end).Msg("worker ended")
		s.tellPool(end)
		return
	}
	s.successorFailed(end)
}

// successorFailed counts for the pace of further tries only: the slot has not
// failed while its old worker serves, however often its successors do.
func (s *slot) successorFailed(end ending) {
	s.tries++
	if line := s.logEnd(end); s.cur.current() == Stopping {
		line.Msg("successor ended: the old worker stops all the same")
	} else {
		line.Msg("successor ended: the old worker stays")
	}
	s.pool.say(event{slot: s.id, kind: workerEnded, end: end, failures: s.failures, successor: true})
	err := errors.New(end.String())
	if r := s.replacing; r != nil && r.spoilt != nil {
		err = r.spoilt
	}
	s.replacementFailed(err)
}

// replacementFailed ends a replacement that is under way, if there is one. A
// worker that is due, for whatever reason, and is still there tries again later.
func (s *slot) replacementFailed(err error) {
	r := s.replacing
	if r == nil {
		return
	}
	s.replaced(err)
	if s.cur == nil || s.cur != r.old || s.stopping == nil {
		return
	}
	s.tryLater()
}

// tryLater sees to it that what fell due during a replacement is not forgotten.
func (s *slot) tryLater() {
	if s.owed != "" {
		s.retryAt = time.After(s.pool.cfg.backoff(max(s.tries, 1)))
	}
}

func (s *slot) replaced(err error) {
	s.replacing.result <- err
	s.replacing = nil
}

// dueC fires once when the worker has handled its share of messages.
func (s *slot) dueC() <-chan struct{} {
	if s.overdue {
		return nil
	}
	return s.cur.orNobody().due
}

// cutLoose: the worker is detached. Its place is free at once; it still hears of
// the pool's stop.
func (s *slot) cutLoose() {
	w := s.cur
	s.mu.Lock()
	s.cur, s.record.idleFrom = nil, time.Now()
	s.loose = append(s.loose, w)
	s.mu.Unlock()
	s.pool.lives.Go(func() { // ends with w; life listens as long as there is one
		<-w.gone
		s.looseGone <- w
	})
	s.stopCounting()
	switch r := s.replacing; {
	case s.stopping == nil:
	case s.next != nil:
		s.successorTakesOver()
	case r == nil || r.old == w:
		if r != nil {
			r.old = nil
		}
		s.startAfterDetach(w)
	case w.wasReady(): // a select with both ready chooses at random
		s.replaced(nil)
		s.startAfterDetach(w)
	default:
		s.replacementFailed(errLoose)
		s.startAfterDetach(w)
	}
}

// startAfterDetach fills the place at once, unless the worker had hardly begun:
// a command that closes what it inherits would else be a fork bomb.
func (s *slot) startAfterDetach(w *worker) {
	if s.replacing == nil && time.Since(w.began) < shortLife {
		delay := s.pool.cfg.backoff(len(s.loose))
		s.startAt = time.After(delay)
		s.noteNextStart(delay)
		return
	}
	s.start()
}

func (s *slot) looseEnded(w *worker) {
	s.mu.Lock()
	s.loose = slices.DeleteFunc(s.loose, func(o *worker) bool { return o == w })
	s.mu.Unlock()
	s.logEnd(w.end).Msg("detached worker ended")
	s.tellPool(w.end)
}
