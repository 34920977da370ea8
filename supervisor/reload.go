package supervisor

import (
	"context"
	"fmt"
	"time"
)

// reloads carries out one reload after the other. Its methods are called from
// Run.
type reloads struct {
	pool    *Pool
	running *reload        // or nil
	queued  *reloadRequest // a further reload, asked for meanwhile; or nil
}

// A reload replaces the workers one after the other, in the order of their
// numbers.
type reload struct {
	request    reloadRequest
	generation int // of the new workers
	began      time.Time
	result     chan error      // 1: roll never waits for Run
	aborted    context.Context // its cause says why no more workers are replaced
	abort      context.CancelCauseFunc
	halted     chan struct{} // closed when the pool stops: even the worker at hand is not waited for
}

// A reloadRequest asks for a reload.
type reloadRequest struct {
	why     string
	waiting []chan<- ReloadResult // 1 each: callers that wait for the result
}

func (r *reloadRequest) answer(result ReloadResult) {
	for _, c := range r.waiting {
		c <- result
	}
}

// ask begins a reload. One that is asked for during another is not lost: what it
// is meant to bring in may not have been there for workers that have been
// replaced already.
func (rs *reloads) ask(request reloadRequest) {
	log := &rs.pool.log
	switch {
	case rs.pool.phase >= halting:
		log.Info().Str("why", request.why).Msg("reload refused: the pool is stopping")
		request.answer(ReloadResult{Outcome: Interrupted, Reason: errStopping.Error()})
	case rs.running == nil:
		rs.start(request)
	default:
		log.Info().Str("why", request.why).Msg("reload already running, another one is queued")
		if rs.queued == nil {
			rs.queued = &reloadRequest{why: request.why}
			rs.pool.show(func(s *public) { s.reload.Queued = true })
		}
		rs.queued.waiting = append(rs.queued.waiting, request.waiting...)
	}
}

func (rs *reloads) start(request reloadRequest) {
	p := rs.pool
	r := &reload{
		request:    request,
		generation: int(p.generation.Add(1)),
		began:      time.Now(),
		result:     make(chan error, 1),
		halted:     make(chan struct{}),
	}
	r.aborted, r.abort = context.WithCancelCause(context.Background())
	rs.running = r
	p.show(func(s *public) {
		s.reload.Running, s.reload.Queued = true, false
		s.reload.Generation, s.reload.Began, s.reload.Replaced = r.generation, r.began, 0
	})
	p.log.Info().Str("why", request.why).Int("generation", r.generation).Int("workers", p.Workers()).Msg("reload started")
	p.lives.Go(func() { r.result <- r.roll(p) })
}

// resultC is the result of the reload that is under way.
func (rs *reloads) resultC() <-chan error {
	if rs.running == nil {
		return nil
	}
	return rs.running.result
}

// halt ends all reloads, because the pool stops.
func (rs *reloads) halt() {
	if rs.running != nil {
		rs.running.abort(errStopping)
		close(rs.running.halted)
	}
	if rs.queued != nil {
		rs.queued.answer(ReloadResult{Outcome: Interrupted, Reason: errStopping.Error()})
		rs.queued = nil
	}
}

// abort ends a reload whose new workers fail after they were ready. A crash of
// an old one has nothing to do with it.
func (rs *reloads) abort(e poolEvent) {
	if r := rs.running; r != nil && e.end.generation == r.generation {
		r.abort(fmt.Errorf("new worker %d %v", e.slot, e.end))
	}
}

// ended tells the result, and begins the reload that was asked for meanwhile.
func (rs *reloads) ended(err error) {
	p, r := rs.pool, rs.running
	rs.running = nil
	r.abort(nil) // frees the context
	result := ReloadResult{Outcome: Complete, Generation: r.generation, Began: r.began, Took: time.Since(r.began)}
	took := round(result.Took)
	switch err {
	case nil:
		p.log.Info().Int("generation", r.generation).Str("took", took).Msg("reload done")
	case errStopping:
		result.Outcome, result.Reason = Interrupted, err.Error()
		p.log.Info().Int("generation", r.generation).Msg("reload cancelled: the pool is stopping")
	default:
		result.Outcome, result.Reason = Failed, err.Error()
		p.log.Error().Err(err).Int("generation", r.generation).Str("took", took).
			Msg("reload failed, workers not yet replaced keep running")
	}
	p.show(func(s *public) { s.reload.ended(result) })
	if p.cfg.OnReload != nil {
		p.cfg.OnReload(result)
	}
	r.request.answer(result)
	if next := rs.queued; next != nil {
		rs.queued = nil
		rs.start(*next)
	}
}

// roll replaces one worker after the other until one fails.
func (r *reload) roll(p *Pool) error {
	slots := p.places.those() // no pool is scaled during a reload
	for i, s := range slots {
		if err := s.replaceIn(r, i > 0); err != nil {
			return err
		}
		p.log.Info().Int("worker", s.id).Msgf("worker replaced, %d of %d", i+1, len(slots))
		p.show(func(s *public) { s.reload.Replaced = i + 1 })
	}
	return context.Cause(r.aborted)
}
