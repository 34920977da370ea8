package supervisor

import (
	"errors"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper"
)

// ended: the slot's worker is gone, whatever the reason.
func (s *slot) ended() {
	w, r := s.cur, s.replacing
	switch {
	case s.stopping == nil:
		s.logEnd(w.end).Msg("worker ended")
		s.vacate()
		s.tellPool(w.end)
	case s.next != nil:
		s.logEnd(w.end).Msg("worker ended")
		s.successorTakesOver()
	case r != nil && r.old == w: // stop-first
		s.logEnd(w.end).Msg("worker ended")
		r.old = nil
		s.vacate()
		s.start()
	default:
		s.replacementFailed(errors.New(w.end.String()))
		s.comeBack(w.end)
	}
}

// comeBack empties the slot after a worker that ended, or could not start, and
// sets when the next one starts.
func (s *slot) comeBack(end ending) {
	s.vacate()
	s.count(end)
	delay, again := s.verdict(end)
	line := s.logEnd(end)
	if again {
		line = line.Str("restart_in", round(delay))
	}
	line.Msg(end.what())
	s.tellPool(end)
	switch {
	case !again:
		s.retire()
	case delay > 0:
		s.startAt = time.After(delay)
		s.noteNextStart(delay)
	default:
		s.start()
	}
}

// count keeps the failures in a row.
func (s *slot) count(end ending) {
	switch {
	case end.cause == Done:
		s.setFailures(0)
	case !end.cause.failure():
	case end.healthy:
		s.setFailures(0)
	default:
		s.setFailures(s.failures + 1)
	}
}

// verdict says whether another worker follows, and when.
func (s *slot) verdict(end ending) (delay time.Duration, again bool) {
	cfg := &s.pool.cfg
	failed := end.cause.failure()
	own := failed || end.cause == Done
	if cfg.Interactive && end.interrupted() {
		return 0, false
	}
	if own && (cfg.Restart == RestartNever || cfg.Restart == RestartOnFailure && !failed) {
		return 0, false
	}
	switch {
	case failed && s.failures > 0:
		return cfg.backoff(s.failures), true
	case end.cause == Done && end.uptime < shortLife:
		return jitter(cfg.RestartDelay, 0.2), true
	}
	return 0, true
}

// retire leaves the slot empty for good, unless a reload fills it again.
func (s *slot) retire() {
	s.mu.Lock()
	s.idle, s.record.idleFrom = Ended, time.Now()
	s.mu.Unlock()
	s.pool.say(event{slot: s.id, kind: slotRetired})
}

func (s *slot) revive() {
	if s.idle == Ended {
		s.mu.Lock()
		s.idle, s.record.idleFrom = Backoff, time.Now()
		s.mu.Unlock()
		s.pool.say(event{slot: s.id, kind: slotRevived})
	}
}

func (s *slot) tellPool(end ending) {
	s.pool.say(event{slot: s.id, kind: workerEnded, end: end, failures: s.failures})
}

func (s *slot) logEnd(end ending) *zerolog.Event {
	s.note(end)
	if end.cause.failure() {
		return end.log(s.log.Warn())
	}
	return end.log(s.log.Info())
}

// CommandKilled is told that a command which a worker had run, for one message,
// died of a SIGKILL that nobody here has sent. It reports whether that was the
// OOM killer's. Then it is logged and counted as the end of a worker would be,
// but the worker goes on, and has not failed. Any goroutine may call it.
func (p *Pool) CommandKilled(worker, pid int, exit reaper.Exit, uptime time.Duration) bool {
	if ownDoing(exit, p.cfg.OOMKilled) != OOM {
		return false
	}
	p.slots[worker].logEnd(ending{cause: OOM, pid: pid, exit: exit, uptime: uptime}).Msg("the command was killed by the OOM killer")
	return true
}
