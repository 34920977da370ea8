package ipc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
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
	for len(data) >= HeaderSize {
		size := int(binary.BigEndian.Uint32(data) &^ failureBit)
		if size > limit {
			return frames, len(data), true
		}
		if len(data) < HeaderSize+size {
			break
		}
		frames = append(frames, data[:HeaderSize+size])
		data = data[HeaderSize+size:]
	}
	return frames, len(data), false
}

// However the bytes arrive, the inbox yields the same frames, never part of
// one, and ends as a plain reader does.
func FuzzFrames(f *testing.F) {
	f.Add(AppendFrame(AppendFrame(nil, []byte("hello")), nil), uint16(1))
	f.Add(append(AppendFrame(nil, []byte("a")), 0, 0, 0, 9, 'x'), uint16(3))
	f.Add(AppendFailure(nil, Refused, "no"), uint16(2))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'x'}, uint16(5))
	f.Add(AppendFrame(nil, make([]byte, 3000)), uint16(700))
	f.Fuzz(func(t *testing.T, data []byte, step uint16) {
		const limit = 4000
		want, rest, tooLong := plainFrames(data, limit)
		in := inbox{conn: &dribble{data, int(step) + 1}, size: 512}
		for {
			frame, err := in.frame(limit)
			if errors.Is(err, errTooLong) != (len(want) == 0 && tooLong && len(in.buf)-in.start >= HeaderSize) {
				t.Fatalf("%v with %d frames to come", err, len(want))
			}
			if err != nil {
				return
			}
			if frame != nil {
				if len(want) == 0 || !bytes.Equal(frame, want[0]) {
					t.Fatalf("%q, want %q", frame, want)
				}
				want = want[1:]
				continue
			}
			if cap(in.buf) > 2*(limit+HeaderSize) {
				t.Fatalf("a buffer of %d bytes", cap(in.buf))
			}
			if err := in.fill(); err != nil {
				if len(want) > 0 || (err == io.EOF) != (rest == 0) {
					t.Fatalf("%v with %d frames missing and %d bytes left", err, len(want), rest)
				}
				return
			}
		}
	})
}

func TestFailureRoundTrip(t *testing.T) {
	for _, text := range []string{"", "no", "with: colon", "line\nbreak", "\xff\xfe", string(bytes.Repeat([]byte("é"), 5000))} {
		frame := AppendFailure(nil, GivenUp, text)
		size, failed := header(frame)
		if !failed || size != len(frame)-HeaderSize || size > maxFailureText+100 {
			t.Errorf("%.20q: header says %d, %v of %d bytes", text, size, failed, len(frame))
		}
		code, got := ParseFailure(body(frame))
		if code != GivenUp || !bytes.HasPrefix([]byte(text), []byte(got)) && text != "\xff\xfe" {
			t.Errorf("%.20q came back as %s: %.20q", text, code, got)
		}
	}
	if code, text := ParseFailure([]byte("no code here")); code != "" || text != "no code here" {
		t.Errorf("%q, %q", code, text)
	}
}
