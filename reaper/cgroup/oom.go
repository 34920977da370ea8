package cgroup

import (
	"sync"
	"syscall"
)

// OOM distinguishes a SIGKILL of the OOM killer from any other. The kernel counts
// its victims but does not name them. So each death by SIGKILL that this program
// has not caused is compared with the count: if that has grown, the OOM killer was
// it, and the death uses up one.
//
// The answer can be wrong in two ways. A victim that a worker waited for itself
// leaves a count behind, and the next SIGKILL from outside is attributed to the OOM
// killer. And when another program sends a SIGKILL while the OOM killer kills, the
// two deaths may be exchanged. The number of OOM kills is never too high.
//
// A nil *OOM, and one without a memory controller, knows of no OOM kills. All
// methods may be called concurrently.
type OOM struct {
	memory *Memory
	reason error // why there is no memory controller, or nil

	mu   sync.Mutex
	seen uint64 // kills that are accounted for
}

// NewOOM returns an OOM for the memory controller of this process's cgroup, if
// there is one. Earlier kills do not count. It keeps one descriptor open until
// Close.
func NewOOM() *OOM { return newOOM(Find("")) }

// Watch returns an OOM for a certain memory controller, which may be nil. Close
// closes it.
func Watch(memory *Memory) *OOM {
	if memory == nil {
		return newOOM(nil, ErrNone)
	}
	return newOOM(memory, nil)
}

func newOOM(memory *Memory, reason error) *OOM {
	o := &OOM{memory: memory, reason: reason}
	o.Sync()
	return o
}

// Err returns why OOM kills cannot be distinguished here, or nil if they can. The
// answer never changes.
func (o *OOM) Err() error {
	if o == nil {
		return ErrNone
	}
	return o.reason
}

// Close closes the memory controller. After that Killed returns false.
func (o *OOM) Close() error {
	if o == nil {
		return nil
	}
	return o.memory.Close()
}

// Killed reports whether the OOM killer has killed a process, and uses up one
// count. The caller calls it once for each process that died of a SIGKILL which
// this program did not send, after the process has died.
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

// Orphan accounts for the end of a process that is not a worker. If that was a
// SIGKILL, it uses up one count, if there is one: a worker must not be charged with
// it. It does not use up all of them, as Sync does: a worker that was killed
// together with the orphan may not have been looked at yet.
func (o *OOM) Orphan(signal syscall.Signal) {
	if signal == syscall.SIGKILL {
		o.Killed()
	}
}

// Sync counts all kills until now as accounted for.
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
