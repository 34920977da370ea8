package reaper

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
)

// OwnsNamespace reports whether this program is PID 1 of a PID namespace that
// is not the host's, so that every process it can see is its business.
func OwnsNamespace() bool {
	if os.Getpid() != 1 {
		return false
	}
	id, err := proc.Namespace()
	return err != nil || id != proc.HostNamespace // without /proc this is a container, not a host
}

// pollRest is how often EndRest looks whether anybody is left: others than
// children of this program (docker exec's) end without a SIGCHLD.
const pollRest = 2 * time.Millisecond

// lastWait is how long EndRest waits after SIGKILL. What is left then hangs in
// the kernel, and ends with the namespace.
const lastWait = time.Second

// EndRest ends every process that is left in the PID namespace: SIGTERM, and
// SIGKILL after grace or when it is told to hurry. It returns when nobody is left,
// and whether anybody was. It does nothing unless OwnsNamespace.
func (r *Reaper) EndRest(hurried context.Context, grace time.Duration) (found bool) {
	if !OwnsNamespace() || r.alone() {
		return false
	}
	_ = unix.Kill(-1, unix.SIGTERM) // nobody left meanwhile: what is wanted
	_ = unix.Kill(-1, unix.SIGCONT) // a stopped process cannot end
	if r.waitAlone(hurried, grace) {
		return true
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	r.waitAlone(context.Background(), lastWait)
	return true
}

// alone reports whether this is the only process of its namespace, but for those
// that it may not signal, such as root's in a container that runs as somebody
// else: to wait for these would be in vain. Zombies count, so that the reap loop
// gets to see them all.
func (r *Reaper) alone() bool {
	if unix.Kill(-1, 0) == unix.ESRCH {
		return true
	}
	return os.Geteuid() != 0 && !anyToSignal()
}

// anyToSignal asks for each process by itself: kill(-1) succeeds also if it may
// signal none of them.
func anyToSignal() bool {
	pids, err := proc.PIDs()
	if err != nil {
		return true
	}
	for _, pid := range pids {
		if pid > 1 && pid != os.Getpid() && unix.Kill(pid, 0) == nil {
			return true
		}
	}
	return false
}

func (r *Reaper) waitAlone(hurried context.Context, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for !r.alone() {
		if hurried.Err() != nil || time.Now().After(deadline) {
			return false
		}
		time.Sleep(pollRest)
	}
	return true
}
