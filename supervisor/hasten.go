package supervisor

import "time"

// hastenTick is how often a drain looks whether messages wait while workers
// back off.
const hastenTick = 100 * time.Millisecond

// hasten has what waits handled while there is time: workers that back off
// start at once. Each slot may do so once in a drain, so that a worker that dies
// again keeps to its backoff. If nobody is left who starts before the drain ends,
// there is nothing to wait for.
func (p *Pool) hasten() {
	p.hastenAt = time.After(hastenTick)
	if p.cfg.Waiting == nil || !p.cfg.Waiting() {
		return
	}
	lost, end := true, p.deadline.Add(-p.cfg.lastPart())
	for _, s := range p.slots {
		s.askToHasten()
		lost = lost && s.isLost(end)
	}
	if lost {
		p.stopFor("no worker starts before the time is up")
	}
}

// askToHasten does not wait for life, which may be waiting for Run.
func (s *slot) askToHasten() {
	select {
	case s.hastenC <- struct{}{}:
	default:
	}
}

// skipBackoff starts the next worker now, if one waits for its time.
func (s *slot) skipBackoff() {
	if s.startAt == nil || s.hastened {
		return
	}
	s.mu.Lock()
	s.hastened, s.record.startAt = true, time.Time{} // else it would count as lost while it starts
	s.mu.Unlock()
	s.start()
}

// isLost reports whether the slot has no worker and gets none before the given
// time. One that may still skip its backoff is not lost.
func (s *slot) isLost(end time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur == nil && s.next == nil && (s.idle == Ended || s.hastened && s.record.startAt.After(end))
}
