package supervisor

import (
	"time"

	"github.com/rs/zerolog"
)

// A shutdown decides when the phases of a pool's stop begin: drain delay, drain,
// stop signal, SIGKILL. It uses the exported methods of the pool alone.
type shutdown struct {
	pool *Pool
	cfg  *Config // StopTimeout, DrainDelay, Drain and Waiting
	log  zerolog.Logger

	requests chan stopRequest

	// What follows belongs to run.
	phase    shutdownPhase
	helpless bool             // the drain began without workers
	deadline time.Time        // SIGKILL then
	delayed  <-chan time.Time // the end of the drain delay
	drained  <-chan struct{}  // no message is left
	overdue  <-chan time.Time // that should be so by now
	lookAt   <-chan time.Time // when a drain looks again whether messages wait
}

type shutdownPhase int

const (
	notAsked        shutdownPhase = iota
	delaying                      // still serving, so that others hear of the stop first
	draining                      // what has arrived is handled
	stoppingWorkers               // they were told to stop
	killingWorkers                // they were sent SIGKILL
)

// A stopRequest asks for the stop.
type stopRequest struct {
	why   string
	heard chan struct{} // closed when the pool has been told
}

// backoffTick is how often a drain looks whether messages wait while workers
// back off.
const backoffTick = 100 * time.Millisecond

func newShutdown(p *Pool) *shutdown {
	return &shutdown{pool: p, cfg: &p.cfg, log: p.log, requests: make(chan stopRequest)}
}

// ask asks for the stop, or for a faster one. It returns when the pool has been
// told, so that no reload which is asked for later comes first.
func (s *shutdown) ask(why string) {
	r := stopRequest{why, make(chan struct{})}
	select {
	case s.requests <- r:
		<-r.heard // run answers at once
	case <-s.pool.Done():
	}
}

// run waits for what a stop needs to know, until the pool has ended.
func (s *shutdown) run() {
	for {
		select {
		case <-s.pool.Done():
			return
		case r := <-s.requests:
			s.asked(r.why)
			close(r.heard)
		case over := <-s.pool.Over():
			s.poolIsOver(over)
		case <-s.delayed:
			s.drain(s.deadline)
		case <-s.lookAt:
			s.skipBackoff()
		case <-s.overdue: // the drain hangs, on a disk for one
			s.stopWorkers()
		case <-s.drained:
			s.stopWorkers()
		}
	}
}

// asked begins the stop. The second request kills the workers.
func (s *shutdown) asked(why string) {
	switch {
	case s.phase == notAsked:
		s.log.Info().Str("why", why).Str("timeout", s.cfg.StopTimeout.String()).Msg("stopping")
		s.halt(why)
		if s.cfg.DrainDelay == 0 {
			s.drain(s.deadline)
			return
		}
		s.log.Info().Str("drain_delay", s.cfg.DrainDelay.String()).Msg("drain delay: still serving")
		s.phase, s.delayed = delaying, time.After(s.cfg.DrainDelay)
	case s.phase < killingWorkers:
		s.log.Warn().Str("why", why).Msg("second stop request, killing the workers now")
		s.stopWorkers()
		s.pool.Kill()
		s.phase = killingWorkers
	}
}

// poolIsOver stops a pool that cannot handle messages any more.
func (s *shutdown) poolIsOver(over Over) {
	if !over.Broken {
		s.log.Info().Str("why", over.Why).Msg("stopping")
	}
	s.stopHelpless(over.Why)
}

// stopHelpless stops a pool without workers that could handle messages. A stop
// that is under way has nothing to wait for any more. What has arrived is still
// given up in order.
func (s *shutdown) stopHelpless(why string) {
	switch s.phase {
	case notAsked:
		s.halt(why)
		s.helpless = true
		s.drain(time.Now())
	case delaying:
		s.helpless = true
		s.drain(time.Now())
	case draining:
		s.stopWorkers()
	}
}

func (s *shutdown) halt(why string) {
	s.deadline = time.Now().Add(s.cfg.StopTimeout)
	s.pool.Halt(why)
}

// drain handles the messages that have arrived, and keeps some time for the
// workers to stop.
func (s *shutdown) drain(until time.Time) {
	s.phase, s.delayed = draining, nil
	if s.cfg.Drain == nil {
		s.stopWorkers()
		return
	}
	s.overdue = time.After(time.Until(s.deadline))
	s.drained = s.cfg.Drain(until.Add(-s.cfg.lastPart()))
	if !s.helpless {
		s.skipBackoff()
	}
}

// skipBackoff has waiting messages handled while there is time. If no worker
// starts before the drain ends, there is nothing to wait for.
func (s *shutdown) skipBackoff() {
	s.lookAt = time.After(backoffTick)
	if s.cfg.Waiting == nil || !s.cfg.Waiting() {
		return
	}
	s.pool.SkipBackoff()
	if s.pool.IsLost(s.deadline.Add(-s.cfg.lastPart())) {
		s.log.Info().Str("why", "no worker can start before the deadline").Msg("stopping")
		s.stopWorkers()
	}
}

func (s *shutdown) stopWorkers() {
	s.phase = stoppingWorkers
	s.delayed, s.drained, s.overdue, s.lookAt = nil, nil, nil, nil
	s.pool.StopWorkers(s.deadline)
}
