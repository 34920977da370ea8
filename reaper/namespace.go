package reaper

import (
	"context"
	"os"
	"slices"
	"syscall"
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

// A Left is a process that is left over in the PID namespace.
type Left struct {
	PID  int
	Name string
}

// tellOf tells of the processes that are left over, but for zombies and those
// apart. Where /proc cannot be read it is silent.
func tellOf(apart map[int]bool, sig syscall.Signal, tell func([]Left, syscall.Signal)) {
	pids, _ := proc.PIDs()
	slices.Sort(pids)
	var left []Left
	for _, pid := range pids {
		if pid == os.Getpid() || apart[pid] {
			continue
		}
		if stat, err := proc.StatOf(pid); err == nil && stat.Alive() {
			left = append(left, Left{pid, proc.Name(pid)})
		}
	}
	if len(left) > 0 {
		tell(left, sig)
	}
}

// isAlone reports whether this is the only process of its namespace, apart from
// those given, and those that it may not signal, such as root's in a container that
// runs as another user: waiting for these would be in vain. Zombies count, so that
// the reap loop gets to see them all.
func isAlone(apart map[int]bool) bool {
	if unix.Kill(-1, 0) == unix.ESRCH {
		return true
	}
	return (os.Geteuid() != 0 || len(apart) > 0) && !maySignalAny(apart)
}

// maySignalAny asks for each process separately, because kill(-1) succeeds even
// if it may signal none of them.
func maySignalAny(apart map[int]bool) bool {
	pids, err := proc.PIDs()
	if err != nil {
		return true
	}
	for _, pid := range pids {
		if pid > 1 && pid != os.Getpid() && !apart[pid] && unix.Kill(pid, 0) == nil {
			return true
		}
	}
	return false
}

// waitAlone waits until isAlone, at most limit, or until hurried is done. It
// returns whether this is the only process.
func waitAlone(hurried context.Context, apart map[int]bool, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for !isAlone(apart) {
		if hurried.Err() != nil || time.Now().After(deadline) {
			return false
		}
		time.Sleep(pollRest)
	}
	return true
}
