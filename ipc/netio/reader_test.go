package netio

import (
	"bytes"
	"errors"
	"io"
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
