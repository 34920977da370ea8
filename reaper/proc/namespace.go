package proc

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// HostNamespace is the Namespace of every kernel's first processes: the inode
// PROC_PID_INIT_INO of include/linux/proc_ns.h.
const HostNamespace = "4026531836"

// Namespace returns the number of this process's PID namespace, in decimal.
func Namespace() (string, error) {
	link, err := os.Readlink("/proc/self/ns/pid") // "pid:[4026531836]"
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(strings.TrimPrefix(link, "pid:["), "]"), nil
}

// OnlyHere reports whether a process that has a PID in this PID namespace has no
// other one: it is not in a namespace below. The link /proc/PID/ns/pid says the
// same, but an ordinary user may not read it for a process of root's.
func OnlyHere(pid int) (bool, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false, err
	}
	return hasOnePID(status), nil
}

// hasOnePID looks at the line NSpid of a text as proc_pid_status(5) describes it.
// It has a PID for each namespace that the process is in. Without the line
// (before Linux 4.1) nothing is known, and the answer is no.
func hasOnePID(status []byte) bool {
	for line := range bytes.Lines(status) {
		if pids, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			return len(bytes.Fields(pids)) == 1
		}
	}
	return false
}
