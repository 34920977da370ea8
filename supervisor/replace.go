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
}

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
// ends anyway.
func (s *slot) replaceItself(cause Cause) {
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

func (s *slot) replacementBecameReady() {
	if s.replacing.old == nil {
		s.replaced(nil)
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

func (s *slot) successorFailed(end ending) {
	s.count(end)
	s.logEnd(end).Msg("successor ended: the old worker stays")
	s.tellPool(end)
	s.replacementFailed(errors.New(end.String()))
}

// replacementFailed ends a replacement that is under way, if there is one. A
// worker that was due and is still there tries again later.
func (s *slot) replacementFailed(err error) {
	r := s.replacing
	if r == nil {
		return
	}
	s.replaced(err)
	if s.cur == nil || s.cur != r.old || s.stopping == nil {
		return
	}
	retry := s.pool.cfg.backoff(max(s.failures, 1))
	switch r.cause {
	case Lifetime:
		s.oldAt = time.After(retry)
	case Memory:
		s.measure.Reset(max(retry, memoryTick))
	case Messages:
		s.oldAt = time.After(retry)
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
	default: // a new worker that detaches at once is as good as ready
		s.replaced(nil)
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
