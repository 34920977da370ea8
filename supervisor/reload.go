package supervisor

import (
	"fmt"
	"time"
)

// A reload replaces the workers one after the other, in the order of their
// numbers.
type reload struct {
	request    reloadRequest
	generation int // of the new workers
	began      time.Time
	done       chan error    // 1: the result
	aborted    chan struct{} // closed when a worker that was replaced has failed; reason is set before
	reason     error
}

func (r *reload) doneC() <-chan error {
	if r == nil {
		return nil
	}
	return r.done
}

// A reloadRequest asks for a reload.
type reloadRequest struct {
	why  string
	told []chan<- ReloadResult // 1 each: who waits for the result
}

func (r *reloadRequest) tell(result ReloadResult) {
	if r == nil {
		return
	}
	for _, c := range r.told {
		c <- result
	}
	r.told = nil
}

// Reload asks for a rolling reload; why is for the log. During one it asks for
// another one after it.
func (p *Pool) Reload(why string) { p.requestReload(reloadRequest{why: why}) }

// ReloadWait is Reload for who wants to know the result. The channel yields it
// once.
func (p *Pool) ReloadWait(why string) <-chan ReloadResult {
	told := make(chan ReloadResult, 1)
	if !p.requestReload(reloadRequest{why, []chan<- ReloadResult{told}}) {
		told <- ReloadResult{Outcome: Interrupted, Reason: "the pool has stopped"}
	}
	return told
}

func (p *Pool) requestReload(r reloadRequest) bool {
	select {
	case p.reloadC <- r:
		return true
	case <-p.done:
		return false
	}
}

// reloadAsked: somebody wants a reload. One that comes during another is not
// lost: what it is meant to bring in may not be there for workers that have
// been replaced already.
func (p *Pool) reloadAsked(request reloadRequest) {
	switch {
	case p.isHalting():
		p.log.Info().Str("why", request.why).Msg("not reloading: the pool stops")
		request.tell(ReloadResult{Outcome: Interrupted, Reason: "the pool stops"})
	case p.reload == nil:
		p.startReload(request)
	default:
		p.log.Info().Str("why", request.why).Msg("another reload will follow this one")
		if p.queued == nil {
			p.queued = &reloadRequest{why: request.why}
			p.show(func(s *public) { s.reload.Queued = true })
		}
		p.queued.told = append(p.queued.told, request.told...)
	}
}

func (p *Pool) startReload(request reloadRequest) {
	r := &reload{
		request:    request,
		generation: int(p.generation.Add(1)),
		began:      time.Now(),
		done:       make(chan error, 1),
		aborted:    make(chan struct{}),
	}
	p.reload = r
	p.show(func(s *public) {
		s.reload.Running, s.reload.Queued = true, false
		s.reload.Generation, s.reload.Began, s.reload.Replaced = r.generation, r.began, 0
	})
	p.log.Info().Str("why", request.why).Int("generation", r.generation).Int("workers", len(p.slots)).Msg("reload begins")
	p.lives.Go(func() { r.done <- p.roll(r) })
}

// roll replaces one worker after the other until one fails.
func (p *Pool) roll(r *reload) error {
	for i, s := range p.slots {
		if err := p.rollOne(s, r); err != nil {
			return err
		}
		p.log.Info().Int("worker", s.id).Msgf("worker replaced, %d of %d", i+1, len(p.slots))
		p.show(func(s *public) { s.reload.Replaced = i + 1 })
	}
	if isClosed(r.aborted) {
		return r.reason
	}
	return nil
}

func (p *Pool) rollOne(s *slot, r *reload) error {
	if isClosed(r.aborted) { // a select with both ready would choose at random
		return r.reason
	}
	change := newReplacement(Reloaded)
	select {
	case s.replaceC <- change:
	case <-r.aborted:
		return r.reason
	case <-p.halting:
		return errStopping
	}
	select {
	case err := <-change.result:
		if err != nil && err != errStopping {
			err = fmt.Errorf("new worker %d is not ready: %w", s.id, err)
		}
		return err
	case <-p.halting:
		return errStopping
	}
}

// abort stops a reload whose new workers fail after they were ready. A crash of
// an old one has nothing to do with it.
func (r *reload) abort(e event) {
	select {
	case <-r.aborted:
	default:
		r.reason = fmt.Errorf("new worker %d %v", e.slot, e.end)
		close(r.aborted)
	}
}

func (p *Pool) reloadEnded(err error) {
	r := p.reload
	p.reload = nil
	result := ReloadResult{Outcome: Complete, Generation: r.generation, Began: r.began, Took: time.Since(r.began)}
	took := round(result.Took)
	switch err {
	case nil:
		p.log.Info().Int("generation", r.generation).Str("took", took).Msg("reload done")
	case errStopping:
		result.Outcome, result.Reason = Interrupted, err.Error()
		p.log.Info().Int("generation", r.generation).Msg("reload given up: the pool stops")
	default:
		result.Outcome, result.Reason = Failed, err.Error()
		p.log.Error().Err(err).Int("generation", r.generation).Str("took", took).
			Msg("reload failed: the workers that were not replaced yet stay")
	}
	p.show(func(s *public) { s.reload.ended(result) })
	if p.cfg.OnReload != nil {
		p.cfg.OnReload(result)
	}
	r.request.tell(result)
	if next := p.queued; next != nil {
		p.queued = nil
		p.startReload(*next)
	}
}
