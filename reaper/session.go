package reaper

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
)

// alone reports whether no shell is above this program that could continue its
// group: there is none in the session. An entrypoint script that does not exec
// leads the session, and the group is the script's.
func alone(group int) bool {
	sid, err := unix.Getsid(0)
	if os.Getpid() == 1 || err == nil && sid == group {
		return true
	}
	above := os.Getppid()
	for {
		if above <= 0 { // outside of the PID namespace, or not to be known
			return true
		}
		pgid, err := unix.Getpgid(above)
		if err != nil || pgid != group {
			break
		}
		s, _ := proc.StatOf(above) // not known: 0, and so the end
		above = s.Parent
	}
	theirs, err := unix.Getsid(above)
	return err != nil || theirs != sid
}

// dead reports whether nobody lives in a group. Zombies count for nobody: the
// parent that would wait for them may be stopped. Where /proc hides processes the
// group lives.
func dead(group int) bool {
	if group <= 1 || syscall.Kill(-group, 0) == syscall.ESRCH {
		return group > 1
	}
	if s, _ := proc.StatOf(group); s.Alive() { // the leader: as a rule this is all there is to look at
		return false
	}
	pids, _ := proc.PIDs() // not mounted: none is seen
	zombies := 0
	for _, pid := range pids {
		s, _ := proc.StatOf(pid)
		if s.Group != group {
			continue
		}
		if s.Alive() {
			return false
		}
		zombies++
	}
	return zombies > 0
}
