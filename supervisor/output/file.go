package output

import (
	"io"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileWriter writes to a descriptor. It is not safe for concurrent use: its Dest's mutex guards it.
type fileWriter struct {
	conn syscall.RawConn
	tty  bool
	step func(fd uintptr) bool // attempt, bound once: a method value a write would be an allocation a write

	p   []byte // the write under way, how far it is, and what ended it
	n   int
	err error
}

func newFileWriter(conn syscall.RawConn) *fileWriter {
	w := &fileWriter{conn: conn}
	w.step = w.attempt
	_ = conn.Control(func(fd uintptr) { // closed: no terminal, and the writes will tell
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		w.tty = err == nil
	})
	return w
}

// Write writes all of p, or returns how much it wrote and why it stopped there.
func (w *fileWriter) Write(p []byte) (int, error) {
	if w.tty {
		defer withoutTTOU()()
	}
	return w.write(p)
}

func (w *fileWriter) write(p []byte) (int, error) {
	w.p, w.n, w.err = p, 0, nil
	err := w.conn.Write(w.step)
	w.p = nil
	if w.err != nil {
		err = w.err
	}
	return w.n, err
}

// withoutTTOU blocks SIGTTOU on this thread until what it returns is called. A terminal whose foreground is
// lent to a worker, and on which somebody did stty tostop, signals who writes to it, and Go's runtime restarts
// the write, for ever; or, as PID 1, the write fails. Who blocks SIGTTOU may write.
func withoutTTOU() (restore func()) {
	runtime.LockOSThread()
	var ttou, old unix.Sigset_t
	ttou.Val[0] = 1 << (uint(unix.SIGTTOU) - 1)
	err := unix.PthreadSigmask(unix.SIG_BLOCK, &ttou, &old)
	return func() {
		if err == nil {
			_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
		}
		runtime.UnlockOSThread()
	}
}

// attempt always ends the write, so that the netpoller is never asked to wait: it knows nothing of a
// descriptor that became non-blocking after it was opened.
func (w *fileWriter) attempt(fd uintptr) bool {
	for w.n < len(w.p) && w.err == nil {
		n, err := unix.Write(int(fd), w.p[w.n:])
		switch {
		case err == unix.EAGAIN:
			waitWritable(int(fd))
		case err == unix.EINTR:
		case err != nil:
			w.err = err
		case n == 0:
			w.err = io.ErrShortWrite
		default:
			w.n += n
		}
	}
	return true
}

// waitWritable returns when a write may get further, or would fail: poll reports errors as well.
func waitWritable(fd int) {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	_, _ = unix.Poll(fds[:], -1)
}
