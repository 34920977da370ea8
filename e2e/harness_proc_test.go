package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A procInfo is what /proc says about a process. All numbers are as the test
// sees them, but Inside, which is the PID in its own namespace.
type procInfo struct {
	PID, PPID, PGID, SID, Foreground int
	Inside                           int
	State                            byte // R S D Z T ...
	Name                             string
}

func (p procInfo) String() string {
	return fmt.Sprintf("\n%d (inside %d) %s: %c parent %d group %d session %d foreground %d",
		p.PID, p.Inside, p.Name, p.State, p.PPID, p.PGID, p.SID, p.Foreground)
}

// readProc reports false if there is no such process.
func readProc(pid int) (p procInfo, ok bool) {
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
	p = procInfo{PID: pid, Name: name, Inside: pid}
	if _, err := fmt.Sscanf(rest, "%c %d %d %d %d %d", &p.State, &p.PPID, &p.PGID, &p.SID, &tty, &p.Foreground); err != nil {
		return p, false
	}
	if pids := strings.Fields(statusLine(pid, "NSpid")); len(pids) > 0 {
		p.Inside, _ = strconv.Atoi(pids[len(pids)-1])
	}
	return p, true
}

// statusLine returns a line of /proc/PID/status, or "".
func statusLine(pid int, key string) string {
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

// signalSet reads SigPnd, ShdPnd, SigBlk, SigIgn or SigCgt of a process.
func signalSet(pid int, key string) (set map[syscall.Signal]bool) {
	set = map[syscall.Signal]bool{}
	bits, err := strconv.ParseUint(statusLine(pid, key), 16, 64)
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

func allProcs() (list []procInfo) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := readProc(pid); ok {
				list = append(list, p)
			}
		}
	}
	return list
}

// procsBelow lists a process and its descendants: for a PID 1 that is its namespace.
func procsBelow(root int) (list []procInfo) {
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

func firstChild(pid int) int {
	for _, p := range allProcs() {
		if p.PPID == pid {
			return p.PID
		}
	}
	return 0
}

// list returns every process of the program's namespace, itself included.
func (p *process) list() []procInfo { return procsBelow(p.pid) }

// zombies returns those that nobody has waited for.
func (p *process) zombies() (list []procInfo) {
	for _, q := range p.list() {
		if q.State == 'Z' && q.PID != p.pid {
			list = append(list, q)
		}
	}
	return list
}

// waitFor waits for a process of the namespace that is as wanted, and returns it.
func (p *process) waitFor(what string, wanted func(procInfo) bool) (found procInfo) {
	p.t.Helper()
	eventually(p.t, what, func() (any, bool) {
		list := p.list()
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

// theChild waits until the program has a child, and returns it.
func (p *process) theChild() procInfo {
	p.t.Helper()
	self := p.self()
	return p.waitFor("a child of the program", func(q procInfo) bool { return q.PPID == self && q.State != 'Z' })
}

// requireSignals fails the test unless the set of a process becomes what is wanted.
func requireSignals(t testing.TB, pid int, key string, want map[syscall.Signal]bool) {
	t.Helper()
	eventually(t, key, func() (any, bool) {
		got := signalSet(pid, key)
		return got, fmt.Sprint(got) == fmt.Sprint(want) // maps print sorted
	})
}
