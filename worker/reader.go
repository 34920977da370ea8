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

// Close closes the descriptor.
func (s socket) Close() error { return syscall.Close(int(s)) }

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

// An item is a message as it arrives.
type item struct {
	tag  uint64
	meta []byte
	body []byte
}

// A reader cuts messages out of what has arrived.
type reader struct {
	src     io.Reader
	format  format
	err     error // what has arrived makes no sense
	buf     []byte
	start   int // buf[start:end] has been read, and not been cut off
	end     int
	scanned int // buf[start:scanned] has no end of line
}

// next returns the next message, if all of it is there. It is valid until fill.
func (r *reader) next() (i item, ok bool) {
	if r.format == formatTagged {
		return r.nextTagged()
	}
	size := r.whole()
	if size < 0 {
		return item{}, false
	}
	whole := r.buf[r.start : r.start+size : r.start+size]
	if r.start += size; r.format == formatLines {
		return item{body: whole[:size-1]}, true
	}
	return item{body: frame.Body(whole)}, true
}

// nextTagged is next of tagged frames. Control frames are passed over: that there
// are no more messages is known by the end of the input, which follows a drain.
func (r *reader) nextTagged() (i item, ok bool) {
	for {
		t, size, ok, err := frame.CutTagged(r.buf[r.start:r.end], frame.MaxTaggedBody)
		if !ok {
			r.err = err
			return item{}, false
		}
		r.start += size
		if t.Tag != 0 {
			return item{t.Tag, t.Meta, t.Body}, true
		}
	}
}

// more reports whether there is another message.
func (r *reader) more() bool { return r.whole() >= 0 }

// whole returns the size of the next message with its header or its end of line,
// or -1 if a part of it is missing.
func (r *reader) whole() int {
	rest := r.buf[r.start:r.end]
	if r.format == formatLines {
		from := max(r.scanned-r.start, 0)
		if i := bytes.IndexByte(rest[from:], '\n'); i >= 0 {
			r.scanned = r.start + from + i
			return from + i + 1
		}
		r.scanned = r.end
		return -1
	}
	if size := r.frameSize(rest); size > 0 && size <= len(rest) {
		return size
	}
	return -1
}

// frameSize returns the size of the frame at the start of b, or 0 while its header
// is not there, or makes no sense.
func (r *reader) frameSize(b []byte) int {
	if len(b) < frame.HeaderSize {
		return 0
	}
	if r.format == formatTagged {
		_, size, _, _ := frame.CutTagged(b, frame.MaxTaggedBody)
		return size
	}
	size, _ := frame.Header(b)
	return frame.HeaderSize + size
}

// fill reads once. It returns io.EOF at the end, or io.ErrUnexpectedEOF if that is
// in the middle of a message.
func (r *reader) fill() error {
	if r.err != nil {
		return r.err
	}
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
	switch size := r.frameSize(rest); {
	case len(rest) == 0 && want > keepBuffer:
		want = firstBuffer
	case r.format != formatLines && size > want && want < keepBuffer:
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
