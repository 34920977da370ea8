package supervisor

import (
	"time"
)

// stopAsked: somebody wants the pool to stop; the second time he means it.
func (p *Pool) stopAsked(why string) {
	if !p.isHalting() {
		p.log.Info().Str("why", why).Str("timeout", p.cfg.StopTimeout.String()).Msg("stopping")
		p.halt(why, p.cfg.DrainDelay)
		return
	}
	if !isClosed(p.hurry) {
		p.log.Warn().Str("why", why).Msg("asked to stop again: killing the workers now")
		if !isClosed(p.stopping) {
			p.stopWorkers()
		}
		close(p.hurry)
	}
}

// stopFor stops the pool for a reason of its own: there is nobody left to handle
// anything. A stop that is under way has nothing to wait for any more.
func (p *Pool) stopFor(why string) {
	if p.helpless || isClosed(p.stopping) {
		return
	}
	p.log.Info().Str("why", why).Msg("stopping")
	switch {
	case !p.isHalting():
		p.haltHelpless(why)
	case p.delayed != nil: // what has arrived is still to be given up in order
		p.helpless = true
		p.drain(p.began)
	default:
		p.stopWorkers()
	}
}

// haltHelpless is halt without workers that could handle messages.
func (p *Pool) haltHelpless(why string) {
	p.beginHalt(why)
	p.helpless = true
	p.drain(p.began)
}

// halt begins the stop: no more reloads, and the stop signal after the drain.
func (p *Pool) halt(why string, drain time.Duration) {
	p.beginHalt(why)
	if drain > 0 {
		p.log.Info().Str("drain_delay", drain.String()).Msg("still serving until the drain delay is over")
		p.delayed = time.After(drain)
		return
	}
	p.drain(p.deadline)
}

func (p *Pool) beginHalt(why string) {
	p.began = time.Now()
	p.deadline = p.began.Add(p.cfg.StopTimeout)
	p.queued.tell(ReloadResult{Outcome: Interrupted, Reason: "the pool stops"})
	p.queued = nil
	p.show(func(s *public) { s.stopping, s.stopBegan, s.reload.Queued = why, p.began, false })
	close(p.halting)
}

// drain has the messages that are there handled, and keeps some time for the
// workers to stop.
func (p *Pool) drain(until time.Time) {
	p.delayed = nil
	if p.cfg.Drain == nil {
		p.stopWorkers()
		return
	}
	p.overdue = time.After(time.Until(p.deadline))
	p.drained = p.cfg.Drain(until.Add(-p.cfg.lastPart()))
	if !p.helpless {
		p.hasten()
	}
}

func (p *Pool) stopWorkers() {
	p.delayed, p.drained, p.overdue, p.hastenAt = nil, nil, nil, nil
	close(p.stopping)
}

func (p *Pool) isHalting() bool { return isClosed(p.halting) }
