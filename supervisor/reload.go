package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// reloads carries out one reload after the other. Its methods are called from
// Run.
type reloads struct {
	pool    *Pool
	running *reload        // or nil
	queued  *reloadRequest // a further reload, asked for meanwhile; or nil
}

// A reload replaces the workers in the order of their numbers.
type reload struct {
	request    reloadRequest
	generation int // of the new workers
	began      time.Time
	result     chan error      // 1: roll never waits for Run
	aborted    context.Context // its cause says why no more workers are replaced
	abort      context.CancelCauseFunc
	halted     chan struct{} // closed when the pool stops: even the worker at hand is not waited for

	messageDeaths atomic.Int32 // new workers that died with a message in hand
}

// lookTimeout is how long a reload waits until the command has been looked up.
const lookTimeout = 10 * time.Second

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
	r := rs.running
	if r == nil || e.end.generation != r.generation || e.end.blamesMessage() && r.forgives(rs.pool, e.slot, e.end) {
		return
	}
	r.abort(&workerError{e.slot, "", &endError{e.end}})
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
		result.LastLines = rs.lastLines(err)
		line := p.log.Error().Err(err).Int("generation", r.generation).Str("took", took)
		if result.LastLines != "" {
			line = line.Str("stderr", result.LastLines)
		}
		line.Msg("reload failed, workers not yet replaced keep running")
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

// lastLines returns what the worker that a reload failed at has last printed to
// stderr.
func (rs *reloads) lastLines(why error) string {
	var failed *workerError
	if rs.pool.cfg.LastLines == nil || !errors.As(why, &failed) {
		return ""
	}
	return rs.pool.cfg.LastLines(failed.worker)
}

// roll replaces the workers: the first one alone, the canary, and when that is
// ready the others, ReloadParallel at a time. After a failure no further one is
// stopped.
func (r *reload) roll(p *Pool) error {
	if err := r.look(p); err != nil {
		return err
	}
	slots := p.places.those() // no pool is scaled during a reload
	if err := r.replace(p, slots, 0); err != nil {
		return err
	}
	var next atomic.Int32 // of slots, after the canary
	var crew sync.WaitGroup
	for range min(p.cfg.ReloadParallel.Of(len(slots)), len(slots)-1) {
		crew.Go(func() {
			for i := int(next.Add(1)); i < len(slots); i = int(next.Add(1)) {
				if err := r.replace(p, slots, i); err != nil {
					r.abort(err) // the others stop too
					return
				}
			}
		})
	}
	crew.Wait()
	return context.Cause(r.aborted)
}

// look looks the command up, in its own time: a disk may hang.
func (r *reload) look(p *Pool) error {
	if p.cfg.Look == nil {
		return nil
	}
	looked := make(chan error, 1) // 1: it may come when it is not waited for any more
	go func() { looked <- p.cfg.Look() }()
	select {
	case err := <-looked:
		return err
	case <-time.After(lookTimeout):
		select {
		case err := <-looked: // it came while poolinit slept
			return err
		default:
		}
		return fmt.Errorf("the command was not looked up within %s", lookTimeout)
	case <-r.halted:
		return errStopping
	}
}

// replace replaces one worker. A new one that dies with a message in hand is
// replaced once more if that is forgiven: by then the message is elsewhere.
func (r *reload) replace(p *Pool, slots []*slot, i int) error {
	s := slots[i]
	err := s.replaceIn(r, i > 0)
	var died *endError
	if errors.As(err, &died) && died.end.blamesMessage() && r.forgives(p, s.id, died.end) {
		err = s.replaceIn(r, i > 0)
	}
	if err != nil {
		return err
	}
	p.show(func(st *public) {
		st.reload.Replaced++
		p.log.Info().Int("worker", s.id).Msgf("worker replaced, %d of %d", st.reload.Replaced, len(slots))
	})
	return nil
}

// forgives reports whether the death of a new worker with a message in hand is the
// first one in this reload. It may be the message's fault.
func (r *reload) forgives(p *Pool, worker int, end ending) bool {
	if r.messageDeaths.Add(1) > 1 {
		return false
	}
	p.log.Warn().Int("worker", worker).Stringer("end", end).Msg("new worker ended with a message in hand, the reload goes on")
	return true
}
