package cgroup

import (
	"sync"
	"syscall"
)

// OOM tells a SIGKILL of the OOM killer from any other. The kernel counts its victims but does not name
// them, so each death by SIGKILL that nobody here has sent is held against the count: it used up one if
// there was one more than before.
//
// That can be wrong in two ways. A victim that a worker reaped itself leaves a count behind: the next
// SIGKILL from outside is taken for the OOM killer's. And where it strikes while somebody sends a SIGKILL
// from outside, the two deaths may be mixed up. The number of OOM kills is never overstated.
//
// A nil *OOM, and one without a memory controller, knows of no OOM kills. All methods may be called
// concurrently.
type OOM struct {
	memory *Memory
	reason error // why there is no memory controller

	mu   sync.Mutex
	seen uint64 // kills that are accounted for
}

// NewOOM returns an OOM over the memory controller of this process's cgroup, if there is one. What was
// killed earlier does not count. It keeps one descriptor open until Close.
func NewOOM() *OOM {
	memory, err := Find("")
	o := Watch(memory)
	o.reason = err
	return o
}

// Watch returns an OOM over a certain memory controller, which may be nil. Close closes it.
func Watch(memory *Memory) *OOM {
	o := &OOM{memory: memory}
	o.Sync()
	return o
}

// Err says why OOM kills cannot be told apart here, or nil if they can. The answer never changes.
func (o *OOM) Err() error {
	switch {
	case o == nil || o.memory == nil && o.reason == nil:
		return ErrNone
	case o.memory == nil:
		return o.reason
	}
	return nil
}

// Close closes the memory controller. Killed answers false from then on.
func (o *OOM) Close() error {
	if o == nil {
		return nil
	}
	return o.memory.Close()
}

// Killed says whether a process was killed by the OOM killer, and uses up one count. Call it once for each
// process that died of a SIGKILL which this program did not send, after it has died.
func (o *OOM) Killed() bool {
	if o == nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now, err := o.memory.OOMKills()
	if err != nil {
		return false
	}
	if now <= o.seen {
		o.seen = now
		return false
	}
	o.seen++
	return true
}

// Orphan is told of what ended a process that is nobody's worker. If that was a SIGKILL it uses up one
// count, if there is one: it must not be charged to a worker. One and not all, as with Sync: a worker that
// was killed along with it may not have been looked at yet.
func (o *OOM) Orphan(signal syscall.Signal) {
	if signal == syscall.SIGKILL {
		o.Killed()
	}
}

// Sync declares all kills so far accounted for.
func (o *OOM) Sync() {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if now, err := o.memory.OOMKills(); err == nil {
		o.seen = now
	}
}
