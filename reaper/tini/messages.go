package tini

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A messenger writes tini's messages, all of them to stderr: stdout is the
// child's. (tini has its information there.)
type messenger struct {
	name      string
	verbosity int
}

// patience is how long in ms a message may wait for a stderr that nobody
// reads: one that can be done without is dropped, for the writer may be the
// reaper, and signals wait for that.
const patience = 0

func (m *messenger) fatal(format string, args ...any) { m.say(0, -1, "FATAL", format, args) }
func (m *messenger) warn(format string, args ...any)  { m.say(1, patience, "WARN ", format, args) }
func (m *messenger) info(format string, args ...any)  { m.say(2, patience, "INFO ", format, args) }
func (m *messenger) debug(format string, args ...any) { m.say(3, patience, "DEBUG", format, args) }
func (m *messenger) trace(format string, args ...any) { m.say(4, patience, "TRACE", format, args) }

func (m *messenger) say(level, wait int, tag, format string, args []any) {
	if level > 0 && level > m.verbosity {
		return
	}
	head := fmt.Sprintf("[%s %s (%d)] ", tag, m.name, os.Getpid())
	writeStderr([]byte(head+fmt.Sprintf(format, args...)+"\n"), wait)
}

// writeStderr writes without being signalled for it. A broken pipe's SIGPIPE
// would be passed on to the child, which has done nothing; and SIGTTOU, from a
// terminal whose foreground the child has, would restart the write for ever.
func writeStderr(text []byte, wait int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	quiet := sigset(unix.SIGPIPE, unix.SIGTTOU)
	var old unix.Sigset_t
	if unix.PthreadSigmask(unix.SIG_BLOCK, &quiet, &old) != nil {
		return
	}
	poll := []unix.PollFd{{Fd: 2, Events: unix.POLLOUT}}
	if n, _ := unix.Poll(poll, wait); n > 0 {
		if _, err := unix.Write(2, text); err == unix.EPIPE {
			takePending(sigset(unix.SIGPIPE))
		}
	}
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
}

// takePending takes a blocked signal from this thread before it is delivered.
func takePending(set unix.Sigset_t) {
	var now unix.Timespec
	_, _, _ = unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), 0,
		uintptr(unsafe.Pointer(&now)), kernelSigsetSize, 0, 0)
}

// kernelSigsetSize is how many bytes the kernel's sigset_t has; libc's has more.
const kernelSigsetSize = 8

func sigset(sigs ...unix.Signal) (set unix.Sigset_t) {
	for _, sig := range sigs {
		set.Val[0] |= 1 << (uint(sig) - 1)
	}
	return set
}

// capitalize gives a Go error the shape of strerror(3).
func capitalize(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
