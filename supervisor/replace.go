package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A replacement is a new worker in place of an old one, for a reload or because
// the old one is due. A slot has at most one under way.
type replacement struct {
	cause       Cause
	afterCanary bool       // the reload has replaced another worker before
	result      chan error // 1: the slot never waits for the reload
}

var (
	errStopping = errors.New("the pool is stopping")

	// errDetached is why a new worker cannot replace another: nothing can tell any
	// more whether it gets ready.
	errDetached = errors.New("it closed its channel before it was ready")
)

// An endError is the end of a new worker that was not ready yet.
type endError struct{ end ending }

func (e *endError) Error() string { return e.end.String() }

// A workerError is why a reload failed at a worker.
type workerError struct {
	worker int
	why    string
	cause  error
}

func (e *workerError) Error() string {
	return fmt.Sprintf("new worker %d %s%v", e.worker, e.why, e.cause)
}
func (e *workerError) Unwrap() error { return e.cause }

func newReplacement(cause Cause) *replacement {
	return &replacement{cause: cause, result: make(chan error, 1)}
}

// replaceIn replaces the worker in a reload, and returns when the new one is
// ready, or cannot be.
func (s *slot) replaceIn(r *reload, afterCanary bool) error {
	if r.aborted.Err() != nil { // a select with both ready would choose at random
		return context.Cause(r.aborted)
	}
	request := newReplacement(Reloaded)
	request.afterCanary = afterCanary
	select {
	case s.reloadC <- request:
	case <-r.aborted.Done():
		return context.Cause(r.aborted)
	}
	select {
	case err := <-request.result:
		if err != nil && err != errStopping {
			err = &workerError{s.id, "is not ready: ", err}
		}
		return err
	case <-r.halted:
		return errStopping
	}
}

// What follows are the actions of slotRules that are about a replacement, a
// successor, or a detached worker.

// accept begins a replacement. An empty slot is filled at once, whatever its
// backoff says: the new worker may be the cure.
func (s *slot) accept() { s.replacement = s.event.asked }

func (s *slot) revive() {
	s.accept()
	s.pool.say(poolEvent{slot: s.id, kind: slotRevived})
}

func (s *slot) acceptAndStop() {
	s.accept()
	s.stopOld()
}

// noteDue keeps why a worker is due until it is gone: what says so says it once,
// and the replacement under way may fail.
func (s *slot) noteDue() {
	if s.replaceFor == "" {
		s.replaceFor = s.event.asked.cause
	}
}

func (s *slot) replaceDue() {
	s.noteDue()
	s.accept()
}

func (s *slot) replaceDueAndStop() {
	s.noteDue()
	s.acceptAndStop()
}

// stopOld asks the old worker to stop, in a time of its own.
func (s *slot) stopOld() { s.stopFor(s.cur, s.replacement.cause) }

func (s *slot) stopFor(w *worker, cause Cause) {
	cfg := &s.pool.cfg
	w.stop(order{cause: cause, signal: cfg.StopSignal, deadline: time.Now().Add(cfg.StopTimeout)})
}

// answer ends the replacement that is under way, if there is one.
func (s *slot) answer(err error) {
	if s.replacement != nil {
		s.replacement.result <- err
		s.replacement = nil
	}
}

// proveReady: the new worker of a replacement is ready. It may have fallen due
// already, where its start took longer than its lifetime.
func (s *slot) proveReady() {
	s.answer(nil)
	s.tryLater()
}

// tryLater sets when a worker that is due is replaced.
func (s *slot) tryLater() {
	if s.replaceFor != "" {
		s.at.retry = time.After(s.pool.cfg.backoff(max(s.nextTries, 1)))
	}
}

// clear: the old worker is gone, and the new one of its replacement can start.
func (s *slot) clear() {
	s.logEnded(s.event.end)
	s.vacate()
}

func (s *slot) admitNext() { s.set(s.cur, s.event.started) }

// discardNext: a successor that detached is not fed and will never be ready, so
// that waiting for it would hold the replacement up for ever. The replacement
// has failed when it is gone.
func (s *slot) discardNext() {
	s.next.log.Warn().Msg("new worker closed its channel before it was ready, stopping it")
	s.stopFor(s.next, NotReady)
}

func (s *slot) nextFailed() { s.loseNext(&endError{s.event.end}) }

func (s *slot) nextDiscarded() { s.loseNext(errDetached) }

// loseNext: the successor ended, or could not be started. That counts for the
// pace of further tries only: the slot has not failed while its worker serves,
// however often successors do.
func (s *slot) loseNext(why error) {
	s.set(s.cur, nil)
	s.nextTries++
	line := s.logEnd(s.event.end)
	if state, _, _ := s.cur.shows(); state == Stopping {
		line.Msg("new worker exited, the old one is stopping anyway")
	} else {
		line.Msg("new worker exited, the old one keeps running")
	}
	s.pool.say(poolEvent{
		slot: s.id, kind: workerLeft, end: s.event.end, failures: s.record.failures, successor: true, told: s.replacement != nil,
	})
	s.answer(why)
	s.tryLater()
}

// succeed: the old worker died before its successor was ready. The successor has
// the place, and still has to get ready.
func (s *slot) succeed() {
	s.logEnded(s.event.end)
	s.give(s.next)
}

func (s *slot) succeedReady() {
	s.succeed()
	s.answer(nil)
}

func (s *slot) succeedDetached() {
	next := s.next
	s.setAside()
	s.give(next)
}

func (s *slot) succeedDetachedReady() {
	s.succeedDetached()
	s.answer(nil)
}

// setAside takes a detached worker from its place, which is free at once. The
// worker still hears of the pool's stop.
func (s *slot) setAside() {
	w := s.cur
	s.mu.Lock()
	s.cur, s.record.idleFrom = nil, time.Now()
	s.detached = append(s.detached, w)
	s.mu.Unlock()
	s.pool.lives.Go(func() { // ends with w; life listens as long as there is one
		<-w.gone
		s.goneC <- w
	})
	s.stopCounting()
}

// detach sets the worker aside. The replacement that waited for it to be ready
// has failed, unless that was just not heard yet.
func (s *slot) detach() {
	if s.cur.hasBeenReady() {
		s.answer(nil)
	} else {
		s.answer(errDetached)
	}
	s.setAside()
}

func (s *slot) detachYoung() {
	s.detach()
	s.backOff(s.pool.cfg.backoff(len(s.detached)))
}

func (s *slot) forgetDetached() {
	s.mu.Lock()
	s.detached = slices.DeleteFunc(s.detached, func(w *worker) bool { return w == s.event.gone })
	s.mu.Unlock()
	s.logEnd(s.event.gone.end).Msg("detached worker exited")
	s.tellPool(s.event.gone.end)
}

// What follows are the actions of slotRules that are about a pool which is scaled.

// stopForScale: another worker will not follow.
func (s *slot) stopForScale() {
	s.answer(errScaledDown)
	s.stopCounting()
	s.stopFor(s.cur, Scaled)
}

// stopBothForScale: neither the worker nor its successor is wanted any more.
func (s *slot) stopBothForScale() {
	s.answer(errScaledDown)
	s.stopFor(s.next, Scaled)
	s.stopFor(s.cur, Scaled)
}

// park leaves the slot empty until it is wanted again.
func (s *slot) park() {
	s.answer(errScaledDown)
	s.stopCounting()
	s.note(func(r *record) { r.failures, r.startAt = 0, time.Time{} })
	s.pool.say(poolEvent{slot: s.id, kind: slotRetired})
}

func (s *slot) parkEnded() {
	s.logEnded(s.event.end)
	s.vacate()
	s.tellPool(s.event.end)
	s.park()
}

func (s *slot) parkDetached() {
	s.setAside()
	s.park()
}

func (s *slot) unpark() {
	s.pool.say(poolEvent{slot: s.id, kind: workerHealthy}) // what failed before is over
	s.pool.say(poolEvent{slot: s.id, kind: slotRevived})
}
