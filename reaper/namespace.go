package reaper

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
)

// OwnsNamespace reports whether this program is PID 1 of a PID namespace that is
// not the host's, so that it may end every process that it can see.
func OwnsNamespace() bool {
	if os.Getpid() != 1 {
		return false
	}
	id, err := proc.Namespace()
	return err != nil || id != proc.HostNamespace // a container may lack /proc, a host does not
}

// pollRest is how often EndRest checks whether other processes are left. Those
// that are not children of this program (docker exec's) end without a SIGCHLD.
const pollRest = 2 * time.Millisecond

// lastWait is how long EndRest waits after SIGKILL. A process that is left then
// hangs in the kernel, and ends with the namespace.
const lastWait = time.Second

// isAlone reports whether this is the only process of its namespace, apart from
// those that it may not signal, such as root's in a container that runs as another
// user: waiting for these would be in vain. Zombies count, so that the reap loop
// gets to see them all.
func isAlone() bool {
	if unix.Kill(-1, 0) == unix.ESRCH {
		return true
	}
	return os.Geteuid() != 0 && !maySignalAny()
}

// maySignalAny asks for each process separately, because kill(-1) succeeds even
// if it may signal none of them.
func maySignalAny() bool {
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

// waitAlone waits until isAlone, at most limit, or until hurried is done. It
// returns whether this is the only process.
func waitAlone(hurried context.Context, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for !isAlone() {
		if hurried.Err() != nil || time.Now().After(deadline) {
			return false
		}
		time.Sleep(pollRest)
	}
	return true
}
