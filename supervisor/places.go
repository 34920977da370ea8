package supervisor

import (
	"errors"
	"fmt"
	"sync"
)

// MaxWorkers is the most workers that a pool may have. It is far above what a
// machine can run, and far below what a typing error may ask for.
const MaxWorkers = 65536

// errScaledDown is why a worker is not replaced.
var errScaledDown = errors.New("the pool was scaled down")

// places are the slots of a pool. It never loses one: a slot that is not wanted
// any more is parked until it is wanted again.
type places struct {
	mu     sync.Mutex
	all    []*slot // by number
	wanted int     // the first ones
}

// look returns all slots, and how many of them are wanted.
func (p *places) look() (all []*slot, wanted int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all, p.wanted
}

// those returns the slots that are wanted.
func (p *places) those() []*slot {
	all, wanted := p.look()
	return all[:wanted]
}

func (p *places) count() int {
	_, wanted := p.look()
	return wanted
}

func (p *places) at(id int) *slot {
	all, _ := p.look()
	return all[id]
}

// set changes how many are wanted, and adds slots that there have not been
// before.
func (p *places) set(wanted int, added []*slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all, p.wanted = append(p.all, added...), wanted
}

// scalable says why a pool cannot have n workers now. It is called from Run.
func (p *Pool) scalable(n int) error {
	switch {
	case n < 1 || n > MaxWorkers:
		return fmt.Errorf("%d workers are not allowed: from 1 to %d", n, MaxWorkers)
	case p.phase >= halting:
		return errStopping
	case p.reloads.running != nil:
		return errors.New("a reload is running: scale the pool when it has ended")
	case p.cfg.Interactive && n > 1:
		return errors.New("the worker has the terminal: there can be only one")
	}
	return nil
}

// scale is Scale, called from Run.
func (p *Pool) scale(n int) error {
	if err := p.scalable(n); err != nil {
		return err
	}
	all, from := p.places.look()
	if n == from {
		return nil
	}
	stats := p.Stats()
	var added []*slot
	for id := len(all); id < n; id++ {
		added = append(added, newSlot(p, id))
	}
	p.places.set(n, added)
	if all = append(all, added...); n > from {
		for _, s := range all[from:n] {
			s.note(func(r *record) { r.complete = r.complete || stats.Complete }) // a pool that serves goes on
			s.want(true)
		}
	} else {
		for _, s := range all[n:from] {
			s.want(false)
		}
	}
	for _, s := range added {
		p.open(s)
	}
	return nil
}

// open begins the life of a slot. It is called from Run.
func (p *Pool) open(s *slot) {
	p.opened++
	for len(p.failures) <= s.id {
		p.failures, p.retired = append(p.failures, 0), append(p.retired, false)
	}
	p.lives.Go(func() {
		s.life()
		p.say(poolEvent{slot: s.id, kind: slotClosed})
	})
}
