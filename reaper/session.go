package reaper

import (
	"bytes"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
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
		above = statOf(above).parent
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
	if statOf(group).lives() { // the leader: as a rule this is all there is to look at
		return false
	}
	entries, _ := os.ReadDir("/proc") // not mounted: nobody is seen
	zombies := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		s := statOf(pid)
		if s.group != group {
			continue
		}
		if s.lives() {
			return false
		}
		zombies++
	}
	return zombies > 0
}

// A procStat is a part of /proc/PID/stat; 0 is what cannot be known.
type procStat struct {
	state         byte
	parent, group int
}

func (s procStat) lives() bool { return s.state != 0 && bytes.IndexByte([]byte("ZXx"), s.state) < 0 }

func statOf(pid int) (s procStat) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s
	}
	// The name before them may hold anything, in brackets.
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	if len(fields) < 3 {
		return s
	}
	s.state = fields[0][0]
	s.parent, _ = strconv.Atoi(string(fields[1]))
	s.group, _ = strconv.Atoi(string(fields[2]))
	return s
}
