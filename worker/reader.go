package worker

import (
	"bytes"
	"io"
	"syscall"

	"github.com/poolinit/poolinit/worker/internal/frame"
)

// A socket reads and writes a descriptor by system calls that block. The Go
// runtime's poller would cost two more of them a batch.
type socket int

func (s socket) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(s), b)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (s socket) Write(b []byte) (written int, err error) {
	for written < len(b) {
		n, err := syscall.Write(int(s), b[written:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

const (
	firstBuffer = 64 << 10
	// keepBuffer is the largest buffer that is kept, and that is made before
	// there is anything to put into it.
	keepBuffer = 4 << 20
)

// A reader cuts messages out of what has arrived.
type reader struct {
	src     io.Reader
	lines   bool
	buf     []byte
	start   int // buf[start:end] has been read, and not been cut off
	end     int
	scanned int // buf[start:scanned] has no end of line
}

// next returns the next message, if all of it is there. It is valid until fill.
func (r *reader) next() (body []byte, ok bool) {
	size := r.whole()
	if size < 0 {
		return nil, false
	}
	body = r.buf[r.start : r.start+size : r.start+size]
	if r.start += size; r.lines {
		return body[:size-1], true
	}
	return frame.Body(body), true
}

// more reports whether there is another message.
func (r *reader) more() bool { return r.whole() >= 0 }

// whole returns the size of the next message with its header or its end of line,
// or -1 if a part of it is missing.
func (r *reader) whole() int {
	rest := r.buf[r.start:r.end]
	if r.lines {
		from := max(r.scanned-r.start, 0)
		if i := bytes.IndexByte(rest[from:], '\n'); i >= 0 {
			r.scanned = r.start + from + i
			return from + i + 1
		}
		r.scanned = r.end
		return -1
	}
	if size := frameSize(rest); size > 0 && size <= len(rest) {
		return size
	}
	return -1
}

// frameSize returns the size of the frame at the start of b, or 0 while its header
// is not there.
func frameSize(b []byte) int {
	if len(b) < frame.HeaderSize {
		return 0
	}
	size, _ := frame.Header(b)
	return frame.HeaderSize + size
}

// fill reads once. It returns io.EOF at the end, or io.ErrUnexpectedEOF if that is
// in the middle of a message.
func (r *reader) fill() error {
	r.makeRoom()
	n, err := r.src.Read(r.buf[r.end:])
	r.end += n
	switch {
	case n > 0:
		return nil // the next read returns the error that came with it
	case err == io.EOF && r.end > r.start:
		return io.ErrUnexpectedEOF
	}
	return err
}

// makeRoom moves the rest to the front of a buffer with room for more.
func (r *reader) makeRoom() {
	rest := r.buf[r.start:r.end]
	want := len(r.buf)
	switch size := frameSize(rest); {
	case len(rest) == 0 && want > keepBuffer:
		want = firstBuffer
	case !r.lines && size > want && want < keepBuffer:
		want = min(size, keepBuffer)
	case len(rest) == want: // it is full: an announced size alone makes it no larger
		want *= 2
	}
	want = max(want, firstBuffer)
	to := r.buf
	if want != len(to) {
		to = make([]byte, want)
	}
	r.scanned = max(r.scanned-r.start, 0)
	r.start, r.end, r.buf = 0, copy(to, rest), to
}
