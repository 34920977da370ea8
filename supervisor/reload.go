package supervisor

import (
	"fmt"
	"time"
)

// A reload replaces the workers one after the other, in the order of their
// numbers.
type reload struct {
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

// reloadAsked: somebody wants a reload. One that comes during another is not
// lost: what it is meant to bring in may not be there for workers that have
// been replaced already.
func (p *Pool) reloadAsked(why string) {
	switch {
	case p.isHalting():
		p.log.Info().Str("why", why).Msg("not reloading: the pool stops")
	case p.reload != nil:
		p.log.Info().Str("why", why).Msg("another reload will follow this one")
		p.queued = why
	default:
		p.startReload(why)
	}
}

func (p *Pool) startReload(why string) {
	r := &reload{
		generation: int(p.generation.Add(1)),
		began:      time.Now(),
		done:       make(chan error, 1),
		aborted:    make(chan struct{}),
	}
	p.reload = r
	p.log.Info().Str("why", why).Int("generation", r.generation).Int("workers", len(p.slots)).Msg("reload begins")
	p.lives.Go(func() { r.done <- p.roll(r) })
}

// roll replaces one worker after the other until one fails.
func (p *Pool) roll(r *reload) error {
	for i, s := range p.slots {
		if err := p.rollOne(s, r); err != nil {
			return err
		}
		p.log.Info().Int("worker", s.id).Msgf("worker replaced, %d of %d", i+1, len(p.slots))
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
	took := round(time.Since(r.began))
	switch err {
	case nil:
		p.log.Info().Int("generation", r.generation).Str("took", took).Msg("reload done")
	case errStopping:
		p.log.Info().Int("generation", r.generation).Msg("reload given up: the pool stops")
	default:
		p.log.Error().Err(err).Int("generation", r.generation).Str("took", took).
			Msg("reload failed: the workers that were not replaced yet stay")
	}
	if why := p.queued; why != "" {
		p.queued = ""
		p.startReload(why)
	}
}
