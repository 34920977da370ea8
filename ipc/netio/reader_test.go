package netio

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/poolinit/poolinit/ipc/frame"
)

// dribble gives its bytes out in pieces.
type dribble struct {
	rest []byte
	step int
}

func (d *dribble) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, d.rest[:min(len(d.rest), d.step, len(p))])
	d.rest = d.rest[n:]
	return n, nil
}

// plainFrames is the simplest reader of frames: what is whole, how many bytes
// are left over, and whether it met one that is too long.
func plainFrames(data []byte, limit int) (frames [][]byte, rest int, tooLong bool) {
	for len(data) >= frame.HeaderSize {
		size, _ := frame.Header(data)
		if size > limit {
			return frames, len(data), true
		}
		if len(data) < frame.HeaderSize+size {
			break
		}
		frames = append(frames, data[:frame.HeaderSize+size])
		data = data[frame.HeaderSize+size:]
	}
	return frames, len(data), false
}

// However the bytes arrive, a Reader yields the same frames, never part of
// one, and ends as a plain reader does.
func FuzzFrames(f *testing.F) {
	f.Add(frame.Append(frame.Append(nil, []byte("hello")), nil), uint16(1))
	f.Add(append(frame.Append(nil, []byte("a")), 0, 0, 0, 9, 'x'), uint16(3))
	f.Add(frame.AppendFailure(nil, frame.Refused, "no"), uint16(2))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'x'}, uint16(5))
	f.Add(frame.Append(nil, make([]byte, 3000)), uint16(700))
	f.Fuzz(func(t *testing.T, data []byte, step uint16) {
		const limit = 4000
		want, rest, tooLong := plainFrames(data, limit)
		var in Reader
		in.Init(ReaderConfig{Conn: &dribble{data, int(step) + 1}, Size: 512})
		for {
			cut, need, err := frame.Cut(in.Unread(), limit)
			if errors.Is(err, frame.ErrTooLong) != (len(want) == 0 && tooLong && in.Buffered() >= frame.HeaderSize) {
				t.Fatalf("%v with %d frames to come", err, len(want))
			}
			if err != nil {
				return
			}
			if cut != nil {
				if len(want) == 0 || !bytes.Equal(cut, want[0]) {
					t.Fatalf("%q, want %q", cut, want)
				}
				want = want[1:]
				in.Advance(len(cut))
				continue
			}
			in.Need(need)
			if cap(in.buf) > 2*(limit+frame.HeaderSize) {
				t.Fatalf("a buffer of %d bytes", cap(in.buf))
			}
			if err := in.Fill(); err != nil {
				if len(want) > 0 || (err == io.EOF) != (rest == 0) {
					t.Fatalf("%v with %d frames missing and %d bytes left", err, len(want), rest)
				}
				return
			}
		}
	})
}

// fed returns a Reader that has read data once.
func fed(t *testing.T, c ReaderConfig, data []byte) *Reader {
	t.Helper()
	c.Conn, c.Size = &dribble{data, len(data)}, 512
	r := new(Reader)
	r.Init(c)
	if err := r.Fill(); err != nil {
		t.Fatal(err)
	}
	return r
}

// A buffer that was made for what is needed is handed over, with nothing behind
// it; any other is not.
func TestTake(t *testing.T) {
	const large = 1000
	data := bytes.Repeat([]byte("0123456789"), 150)
	r := fed(t, ReaderConfig{Exact: true}, data)
	if r.Buffered() != 512 || r.Take(512) != nil || r.Missing() != 0 {
		t.Errorf("%d bytes, %d missing", r.Buffered(), r.Missing())
	}
	r.Advance(12)
	r.Need(large)
	if r.Missing() != large {
		t.Errorf("%d missing, want %d", r.Missing(), large)
	}
	for r.Buffered() < large {
		if err := r.Fill(); err != nil {
			t.Fatal(err)
		}
	}
	if r.Buffered() != large || r.Take(large-1) != nil {
		t.Errorf("%d bytes", r.Buffered())
	}
	if whole := r.Take(large); !bytes.Equal(whole, data[12:12+large]) {
		t.Errorf("%q", whole)
	}
	if r.HasBuffer() || r.Buffered() != 0 {
		t.Error("it still has the buffer")
	}
	if err := r.Fill(); err != nil || !bytes.Equal(r.Unread(), data[12+large:]) {
		t.Errorf("%v, %q", err, r.Unread())
	}
	r.Discard()
	if err := r.Fill(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// A line may be longer than the buffer, which grows for it.
func TestLine(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 3000)
	r := fed(t, ReaderConfig{}, append([]byte("one\n\n"), append(long, "\nrest"...)...))
	var got [][]byte
	for {
		if line, ok := r.Line(); ok {
			got = append(got, bytes.Clone(line))
			continue
		}
		if err := r.Fill(); err != nil {
			if err != io.ErrUnexpectedEOF || string(r.Unread()) != "rest" {
				t.Errorf("%v, %q", err, r.Unread())
			}
			break
		}
	}
	if want := [][]byte{[]byte("one"), {}, long}; !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%.20q", got)
	}
}
