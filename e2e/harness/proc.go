package harness

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
)

// A ProcInfo is what /proc says about a process. All numbers are as the test sees
// them, except Inside, which is the PID in its own namespace.
type ProcInfo struct {
	PID, PPID, PGID, SID, Foreground int
	Inside                           int
	State                            byte // R S D Z T ...
	Name                             string
}

func (p ProcInfo) String() string {
	return fmt.Sprintf("\n%d (inside %d) %s: %c parent %d group %d session %d foreground %d",
		p.PID, p.Inside, p.Name, p.State, p.PPID, p.PGID, p.SID, p.Foreground)
}

// ReadProc reports false if there is no such process.
func ReadProc(pid int) (p ProcInfo, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, false
	}
	_, rest, _ := strings.Cut(string(stat), " (")
	end := strings.LastIndex(rest, ") ")
	if end < 0 {
		return p, false
	}
	name := rest[:end]
	rest = rest[end+2:]
	var tty int
	p = ProcInfo{PID: pid, Name: name, Inside: pid}
	if _, err := fmt.Sscanf(rest, "%c %d %d %d %d %d", &p.State, &p.PPID, &p.PGID, &p.SID, &tty, &p.Foreground); err != nil {
		return p, false
	}
	if pids := strings.Fields(StatusLine(pid, "NSpid")); len(pids) > 0 {
		p.Inside, _ = strconv.Atoi(pids[len(pids)-1])
	}
	return p, true
}

// StatusLine returns a line of /proc/PID/status, or "".
func StatusLine(pid int, key string) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// SignalSet reads SigPnd, ShdPnd, SigBlk, SigIgn or SigCgt of a process.
func SignalSet(pid int, key string) (set map[syscall.Signal]bool) {
	set = map[syscall.Signal]bool{}
	bits, err := strconv.ParseUint(StatusLine(pid, key), 16, 64)
	if err != nil {
		return set
	}
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if bits&(1<<(sig-1)) != 0 {
			set[sig] = true
		}
	}
	return set
}

func allProcs() (list []ProcInfo) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := ReadProc(pid); ok {
				list = append(list, p)
			}
		}
	}
	return list
}

// procsBelow lists a process and its descendants: for a PID 1 that is its namespace.
func procsBelow(root int) (list []ProcInfo) {
	below := map[int]bool{root: true}
	all := allProcs()
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if below[p.PPID] && !below[p.PID] {
				below[p.PID], grown = true, true
			}
		}
	}
	for _, p := range all {
		if below[p.PID] {
			list = append(list, p)
		}
	}
	return list
}

// FirstChild returns a child of the process, or 0.
func FirstChild(pid int) int {
	for _, p := range allProcs() {
		if p.PPID == pid {
			return p.PID
		}
	}
	return 0
}

// List returns every process of the program's namespace, itself included.
func (p *Process) List() []ProcInfo { return procsBelow(p.PID) }

// Zombies returns the processes of the namespace that no parent has waited for.
func (p *Process) Zombies() (list []ProcInfo) {
	for _, q := range p.List() {
		if q.State == 'Z' && q.PID != p.PID {
			list = append(list, q)
		}
	}
	return list
}

// WaitForProcess waits for a process of the namespace that is as wanted, and returns it.
func (p *Process) WaitForProcess(what string, wanted func(ProcInfo) bool) (found ProcInfo) {
	p.T.Helper()
	testkit.Eventually(p.T, what, func() (any, bool) {
		list := p.List()
		for _, q := range list {
			if wanted(q) {
				found = q
				return nil, true
			}
		}
		return list, false
	})
	return found
}

// TheChild waits until the program has a child, and returns it.
func (p *Process) TheChild() ProcInfo {
	p.T.Helper()
	self := p.Self()
	return p.WaitForProcess("a child of the program", func(q ProcInfo) bool { return q.PPID == self && q.State != 'Z' })
}

// RequireSignals fails the test unless the set of a process becomes what is wanted.
func RequireSignals(t testing.TB, pid int, key string, want map[syscall.Signal]bool) {
	t.Helper()
	testkit.Eventually(t, key, func() (any, bool) {
		got := SignalSet(pid, key)
		return got, fmt.Sprint(got) == fmt.Sprint(want) // maps print sorted
	})
}
