package ipc

import (
	"bytes"
	"io"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc/frame"
)

// An inbox reads a socket into a buffer that it holds only while something is
// in it.
type inbox struct {
	raw   syscall.RawConn // nil: conn is read by waiting, with a buffer held (TLS)
	conn  io.Reader
	size  int
	slow  bool   // a read may take long: see refuseFiles
	exact bool   // a frame larger than size gets a buffer of its own, which give hands over
	want  int    // bytes of the frame that has begun, if the buffer is too small for it
	most  int    // bytes that may be in buf; 0: as many as there is room for
	buf   []byte // what has been read
	start int    // of what has not been consumed
	n     int
	err   error
	try   func(fd uintptr) bool

	starved atomic.Bool // the last read found nothing, and none is under way
}

// fill waits for more, and reads once. It returns io.EOF at the end, or
// io.ErrUnexpectedEOF if that is in the middle of something.
func (in *inbox) fill() error {
	if in.try == nil {
		in.try = in.attempt
	}
	in.makeRoom()
	if in.raw == nil {
		return in.fillSlowly()
	}
	if err := in.raw.Read(in.try); err != nil {
		return err
	}
	return in.outcome()
}

// fillNow reads what is there without waiting, and reports whether anything
// was. The end of the stream, or an error, is left for fill to find again.
func (in *inbox) fillNow() bool {
	in.hold()
	_ = in.raw.Control(func(fd uintptr) { in.n, in.err = readNow(int(fd), in.buf[:cap(in.buf)]) })
	if in.err != nil || in.n <= 0 {
		in.release()
		return false
	}
	in.buf = in.buf[:in.n]
	return true
}

// fillSlowly is fill for TLS, whose socket keeps starved.
func (in *inbox) fillSlowly() error {
	in.hold()
	have := len(in.buf)
	in.n, in.err = in.conn.Read(in.buf[have:in.end()])
	in.buf = in.buf[:have+in.n]
	if in.n > 0 || in.err == io.EOF {
		in.err = nil // what comes with data comes again
	}
	return in.outcome()
}

func (in *inbox) hold() {
	if cap(in.buf) == 0 {
		in.buf = getBuffer(in.size)
	}
}

// end is up to where the buffer may be filled.
func (in *inbox) end() int {
	if in.most > 0 {
		return in.most
	}
	return cap(in.buf)
}

func (in *inbox) outcome() error {
	switch {
	case in.err != nil:
		return in.err
	case in.n == 0 && len(in.buf) > in.start:
		return io.ErrUnexpectedEOF
	case in.n == 0:
		return io.EOF
	}
	return nil
}

// makeRoom moves a rest to the front. A frame that is larger than the buffer
// has been given one of its size by frame.
func (in *inbox) makeRoom() {
	if want := in.want; want > 0 {
		in.want = 0
		in.reserve(want)
	}
	switch {
	case in.start == len(in.buf):
		in.buf, in.start, in.most = in.buf[:0], 0, 0
	case in.start > 0:
		n := copy(in.buf, in.buf[in.start:])
		in.buf, in.start = in.buf[:n], 0
	}
}

// attempt reads what is there, and gives an empty buffer back if that is
// nothing.
func (in *inbox) attempt(fd uintptr) bool {
	in.starved.Store(false)
	in.hold()
	have := len(in.buf)
	if in.slow {
		in.n, in.err = readPatiently(int(fd), in.buf[have:in.end()])
	} else {
		in.n, in.err = readNow(int(fd), in.buf[have:in.end()])
	}
	if in.err == unix.EAGAIN {
		in.n, in.err = 0, nil
		if have == 0 {
			in.release()
		}
		in.starved.Store(true)
		return false
	}
	if in.n > 0 {
		in.buf = in.buf[:have+in.n]
	}
	return true
}

func (in *inbox) release() {
	if cap(in.buf) > 0 {
		putBuffer(in.buf)
	}
	in.buf, in.start, in.most = nil, 0, 0
}

// missing returns how many bytes the next fill makes room for, if that is more than
// the buffer has.
func (in *inbox) missing() int {
	if in.want > cap(in.buf) {
		return in.want
	}
	return 0
}

// give returns the buffer if this frame is all that is in it, and it was made for
// it: then it need not be copied. It is the caller's from then on.
func (in *inbox) give(cut []byte) []byte {
	if in.most == 0 || len(cut) != in.most {
		return nil
	}
	whole := in.buf
	in.buf, in.start, in.most = nil, 0, 0
	return whole
}

// frame cuts a whole frame off, or returns nil if there is none yet. The frame
// is valid until the next fill.
func (in *inbox) frame(limit int) ([]byte, error) {
	whole, need, err := frame.Cut(in.buf[in.start:], limit)
	if whole == nil {
		in.want = need // not now: frames that were cut off are still in use
		return nil, err
	}
	in.start += len(whole)
	return whole, nil
}

// line cuts a line off, and returns it as a frame.
func (in *inbox) line() ([]byte, error) {
	rest := in.buf[in.start:]
	end := bytes.IndexByte(rest, '\n')
	switch {
	case end >= 0:
		in.start += end + 1
		return frame.Append(nil, rest[:end]), nil
	case len(rest) > frame.MaxReply:
		return nil, frame.ErrTooLong
	case len(rest) == cap(in.buf):
		in.want = 2 * cap(in.buf)
	}
	return nil, nil
}

// reserve makes room for so many bytes from start on.
func (in *inbox) reserve(n int) {
	if n <= cap(in.buf) {
		return
	}
	grown := append(getBuffer(n), in.buf[in.start:]...)
	putBuffer(in.buf)
	in.buf, in.start = grown, 0
	if in.exact {
		in.most = n
	}
}
