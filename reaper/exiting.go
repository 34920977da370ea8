package reaper

import (
	"bytes"
	"os"
	"strconv"
)

// exitingFlag is PF_EXITING of the kernel's sched.h, in the field flags of
// proc_pid_stat(5): the process has begun to end. It has been 4 since Linux 2.4.
const exitingFlag = 4

// Exiting reports whether the process has begun to end, or has ended. The kernel
// closes what a process has open some time before it tells of its end, a second
// if the machine has much to do: whoever sees a socket closed cannot know from
// that alone whether its owner goes on.
//
// Where /proc cannot be read it has ended only when it was reaped. A child has its
// directory until then, so "no such file" means that there is no /proc, or that
// hidepid hides processes of other users: it says nothing about the child.
func (p *Process) Exiting() bool {
	if p.exited() {
		return true
	}
	line, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/stat")
	if err != nil {
		return p.exited() // it may have been reaped just now
	}
	return exitingStat(line)
}

// exitingStat looks at the fields state and flags; the second field may hold
// anything, in brackets.
func exitingStat(line []byte) bool {
	const state, flags = 0, 6 // after the brackets
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	if len(fields) <= flags {
		return false
	}
	bits, err := strconv.ParseUint(string(fields[flags]), 10, 64)
	return err == nil && bits&exitingFlag != 0 || bytes.ContainsAny(fields[state], "ZXx")
}
