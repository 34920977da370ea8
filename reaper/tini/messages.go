package tini

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper"
)

// A messenger writes tini's messages, all of them to stderr: stdout is the child's.
// (tini writes some to stdout.)
type messenger struct {
	name      string
	verbosity int
}

// patience is how long a message may wait for a stderr that is not read, in ms. It is 0:
// such a message is dropped, because the writer may be the reaper, and signals would have
// to wait for it.
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

// writeStderr writes and never gets a signal for it. The SIGPIPE of a broken pipe
// would be forwarded to the child, which has nothing to do with it, and with
// SIGTTOU, from a terminal whose foreground the child has, the write would be
// restarted for ever.
func writeStderr(text []byte, wait int) {
	restore, err := reaper.BlockSignals(unix.SIGPIPE, unix.SIGTTOU)
	if err != nil {
		return
	}
	defer restore()
	poll := []unix.PollFd{{Fd: 2, Events: unix.POLLOUT}}
	if n, _ := unix.Poll(poll, wait); n > 0 {
		if _, err := unix.Write(2, text); err == unix.EPIPE {
			takePendingPipe()
		}
	}
}

// takePendingPipe takes a blocked SIGPIPE from this thread before it is delivered.
func takePendingPipe() {
	const sigsetSize = 8 // the kernel's, in bytes; libc's is larger
	var now unix.Timespec
	set := uint64(1) << (unix.SIGPIPE - 1)
	_, _, _ = unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), 0,
		uintptr(unsafe.Pointer(&now)), sigsetSize, 0, 0)
}

// capitalize makes a Go error look like the text of strerror(3).
func capitalize(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
