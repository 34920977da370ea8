package daemon

import (
	"context"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/reaper/signals"
	"github.com/poolinit/poolinit/supervisor"
)

// A requests is a pool as signals and the control socket see it. A second request
// to stop, and any after the pool's own end, also hurries what comes after the
// pool: nothing of that waits for clients or for grace periods any longer.
type requests struct {
	*supervisor.Pool
	hurried  context.Context
	hurry    context.CancelFunc
	stops    atomic.Int32 // requests; the pool's own end counts as one
	debounce debounce     // belongs to signal
}

func newRequests(pool *supervisor.Pool) *requests {
	r := &requests{Pool: pool}
	r.hurried, r.hurry = context.WithCancel(context.Background())
	return r
}

// Stop asks the pool to stop; why is for the log.
func (r *requests) Stop(why string) {
	r.Pool.Stop(why)
	if r.stops.Add(1) > 1 {
		r.hurry()
	}
}

// ended notes that the pool has ended, by itself or because it was asked to.
func (r *requests) ended() { r.stops.CompareAndSwap(0, 1) }

// signal does what a signal asks for. One goroutine calls it.
func (r *requests) signal(sig syscall.Signal) {
	switch {
	case signals.Stop[sig]:
		if !r.debounce.repeats(sig, time.Now()) {
			r.Stop(signals.Name(sig))
		}
	case signals.Reload[sig]:
		r.Reload(signals.Name(sig))
	case !signals.Own[sig]:
		r.Forward(sig)
	}
}

// A debounce recognises a signal that was sent twice for one request. timeout(1)
// does so: it signals its child, and then the group that the child is in.
type debounce struct {
	signal syscall.Signal // the last one that was not a repetition, and when it came
	at     time.Time
}

// debounceTime is how soon after a signal the same one is a repetition. It is too
// short for a person who asks a second time.
const debounceTime = 100 * time.Millisecond

// repeats notes a signal, and reports whether it repeats the last one.
func (d *debounce) repeats(sig syscall.Signal, at time.Time) bool {
	if sig == d.signal && at.Sub(d.at) < debounceTime {
		return true
	}
	d.signal, d.at = sig, at
	return false
}
