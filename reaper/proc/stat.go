package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// A Stat is the part of /proc/PID/stat that poolinit needs. The zero value is a
// process of which nothing is known.
type Stat struct {
	State  byte // R, S, D, T, Z and so on, as proc_pid_stat(5) lists them; 0 if not known
	Parent int
	Group  int // of processes
	Flags  uint64
}

// exitingFlag is PF_EXITING of the kernel's sched.h: the process has begun to
// end. It has had this value since Linux 2.4.
const exitingFlag = 4

var errStat = errors.New("not a line of /proc/PID/stat")

// StatOf reads the stat of a process.
func StatOf(pid int) (Stat, error) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, err
	}
	s, err := parseStat(line)
	if err != nil {
		return Stat{}, fmt.Errorf("process %d: %w: %q", pid, err, line)
	}
	return s, nil
}

// parseStat reads a line of /proc/PID/stat. Its second field is the program's
// name in brackets, which may itself hold brackets, blanks and ends of line, so
// the fields are counted from the last bracket.
func parseStat(line []byte) (Stat, error) {
	const state, parent, group, flags = 0, 1, 2, 6 // after the bracket
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	if len(fields) <= flags || len(fields[state]) != 1 {
		return Stat{}, errStat
	}
	s := Stat{State: fields[state][0]}
	var parentErr, groupErr, flagsErr error
	s.Parent, parentErr = strconv.Atoi(string(fields[parent]))
	s.Group, groupErr = strconv.Atoi(string(fields[group]))
	s.Flags, flagsErr = strconv.ParseUint(string(fields[flags]), 10, 64)
	if errors.Join(parentErr, groupErr, flagsErr) != nil {
		return Stat{}, errStat
	}
	return s, nil
}

// Name returns the name of a process, of which the kernel keeps 15 bytes. It is ""
// if it is not known. Unlike the command line it can be read while the process
// hangs in the kernel.
func Name(pid int) string {
	name, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	return strings.TrimSuffix(string(name), "\n")
}

// State returns the state of a process as ps shows it: D hangs in the kernel, t is
// held by a tracer. It is "" if it is not known.
func State(pid int) string {
	s, err := StatOf(pid)
	if err != nil {
		return ""
	}
	return string(s.State)
}

// Zombie reports whether the process has ended: it waits for its parent, or is
// on its way out of the process table.
func (s Stat) Zombie() bool { return s.State == 'Z' || s.State == 'X' || s.State == 'x' }

// Alive reports whether the process is known and has not ended.
func (s Stat) Alive() bool { return s.State != 0 && !s.Zombie() }

// Exiting reports whether the process has begun to end, or has ended. The kernel
// closes its files after it has begun, and makes it a zombie later.
func (s Stat) Exiting() bool { return s.Flags&exitingFlag != 0 || s.Zombie() }

// PIDs returns the processes that /proc shows, in no particular order. Where it
// hides processes of other users they are missing.
func PIDs() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
