package output

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// fileWriter writes to a descriptor. It is not safe for concurrent use: its Dest's mutex guards it.
type fileWriter struct {
	conn syscall.RawConn
	step func(fd uintptr) bool // attempt, bound once: a method value a write would be an allocation a write

	p   []byte // the write under way, how far it is, and what ended it
	n   int
	err error
}

func newFileWriter(conn syscall.RawConn) *fileWriter {
	w := &fileWriter{conn: conn}
	w.step = w.attempt
	return w
}

// Write writes all of p, or returns how much it wrote and why it stopped there.
func (w *fileWriter) Write(p []byte) (int, error) {
	w.p, w.n, w.err = p, 0, nil
	err := w.conn.Write(w.step)
	w.p = nil
	if w.err != nil {
		err = w.err
	}
	return w.n, err
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
