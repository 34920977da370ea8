package frame

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestTagged(t *testing.T) {
	for _, tt := range []struct {
		Tagged
		wire string
	}{
		{Tagged{Tag: 1, Body: []byte("hi")}, "\x00\x00\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x01hi"},
		{Tagged{Tag: MaxTag, Body: []byte{}}, "\x00\x00\x00\x08\x00\x1f\xff\xff\xff\xff\xff\xff"},
		{Tagged{Tag: 2, Failed: true, Body: []byte("x: y")}, "\x80\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x02x: y"},
		{Tagged{Tag: 3, Meta: []byte("{}"), Body: []byte("b")}, "\x40\x00\x00\x0f\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x02{}b"},
		{Tagged{Tag: 4, Failed: true, Meta: []byte("{}"), Body: []byte{}}, "\xc0\x00\x00\x0e\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x02{}"},
	} {
		wire := AppendTagged([]byte("x"), tt.Tagged)[1:]
		if string(wire) != tt.wire {
			t.Errorf("%v: %q, want %q", tt.Tagged, wire, tt.wire)
		}
		for cut := range len(wire) {
			if _, size, ok, err := CutTagged(wire[:cut], 10); ok || err != nil || size > len(wire) || cut >= HeaderSize && size != len(wire) {
				t.Errorf("%d of %d bytes: size %d, %v, %v", cut, len(wire), size, ok, err)
			}
		}
		got, size, ok, err := CutTagged(append(wire, "rest"...), 10)
		if !reflect.DeepEqual(got, tt.Tagged) || size != len(wire) || !ok || err != nil {
			t.Errorf("%q reads as %v, %d, %v, %v", wire, got, size, ok, err)
		}
		if got, err := ReadTagged(iotest.OneByteReader(bytes.NewReader(wire)), 10); !reflect.DeepEqual(got, tt.Tagged) || err != nil {
			t.Errorf("%q is read as %v, %v", wire, got, err)
		}
	}
}

func TestTaggedFaults(t *testing.T) {
	for wire, want := range map[string]error{
		"\x00\x00\x00\x07":                                      ErrNoTag,
		"\x40\x00\x00\x0b":                                      ErrNoTag,
		"\x00\x00\x00\x13":                                      ErrTooLong, // 11 bytes of body
		"\x3f\xff\xff\xff":                                      ErrTooLong,
		"\x7f\xff\xff\xff":                                      ErrTooLong,
		"\x00\x00\x00\x08\x00\x20" + zeros:                      ErrBadTag,
		"\x40\x00\x00\x0d" + one + "\x00\x00\x00\x02x":          ErrMeta,
		"\x40\x01\x00\x0d" + one + "\x00\x01\x00\x01":           ErrMeta,
		"\x40\x00\x00\x17" + one + "\x00\x00\x00\x00" + letters: ErrTooLong,
	} {
		if _, _, ok, err := CutTagged([]byte(wire), 10); ok || !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", wire, err, want)
		}
		if _, err := ReadTagged(strings.NewReader(wire), 10); !errors.Is(err, want) {
			t.Errorf("reading %q: %v, want %v", wire, err, want)
		}
	}
	if _, err := ReadTagged(strings.NewReader(""), 10); err != io.EOF {
		t.Errorf("nothing: %v", err)
	}
	if _, err := ReadTagged(strings.NewReader("\x00\x00\x00\x09"+one), 10); err != io.ErrUnexpectedEOF {
		t.Errorf("a part: %v", err)
	}
}

const (
	zeros   = "\x00\x00\x00\x00\x00\x00"
	one     = "\x00\x00\x00\x00\x00\x00\x00\x01"
	letters = "abcdefghijk"
)

func TestControl(t *testing.T) {
	for wire, want := range map[string]Control{
		`{"hello":1}`:         {Hello: 1},
		`{"touch":17}`:        {Touch: 17},
		`{"drain":true}`:      {Drain: true},
		`{"new":[1],"to":{}}`: {},
	} {
		got, err := ParseControl([]byte(wire))
		if got != want || err != nil {
			t.Errorf("%s: %v, %v", wire, got, err)
		}
		if want == (Control{}) {
			continue
		}
		frame, _, ok, err := CutTagged(AppendControl(nil, want), 100)
		if string(frame.Body) != wire || frame.Tag != 0 || !ok || err != nil {
			t.Errorf("%v is written as %q, %v, %v", want, frame.Body, ok, err)
		}
	}
	for _, bad := range []string{"", "1", "[]", `{"touch":-1}`, `{"touch":"1"}`} {
		if c, err := ParseControl([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, c)
		}
	}
}

func TestMeta(t *testing.T) {
	at := time.Date(2026, 11, 30, 20, 29, 26, 5e6, time.UTC)
	got := AppendMeta(nil, 17, 2, "tcp://0.0.0.0:8089", at, at.Add(time.Second))
	want := `{"id":"17","attempt":2,"source":"tcp://0.0.0.0:8089","time":"2026-11-30T20:29:26.005Z","deadline":"2026-11-30T20:29:27.005Z"}`
	if string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	m, err := ParseMeta(got)
	if err != nil || !reflect.DeepEqual(m, Meta{ID: "17", Attempt: 2, Source: "tcp://0.0.0.0:8089", Time: at, Deadline: at.Add(time.Second)}) {
		t.Errorf("%+v, %v", m, err)
	}
	for _, source := range []string{"", "a\"b", "\u00e4", "a\\b", "a\nb"} {
		if got := AppendMeta(nil, 1, 1, source, time.Time{}, time.Time{}); string(got) != `{"id":"1","attempt":1}` || !json.Valid(got) {
			t.Errorf("source %q: %s", source, got)
		}
	}
	if m, err := ParseMeta(nil); err != nil || m.ID != "" {
		t.Errorf("none: %v, %v", m, err)
	}
	if _, err := ParseMeta([]byte("x")); err == nil {
		t.Error("garbage is taken for meta")
	}
	buf := make([]byte, 0, 512)
	if n := testing.AllocsPerRun(100, func() { buf = AppendMeta(buf[:0], 17, 2, "tcp://0.0.0.0:8089", at, at) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// However it is cut, what CutTagged and ReadTagged say is the same, and what is
// written is read again.
func FuzzTagged(f *testing.F) {
	f.Add(AppendTagged(nil, Tagged{Tag: 3, Meta: []byte("{}"), Body: []byte("b")}), 10)
	f.Add(AppendTaggedFailure(nil, 1, Refused, "no"), 100)
	f.Add([]byte("\x7f\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\xff\xff"), 1<<29)
	f.Fuzz(func(t *testing.T, data []byte, limit int) {
		limit = min(max(limit, 0), MaxTaggedBody)
		r := bytes.NewReader(data)
		for rest := data; ; {
			cut, size, ok, err := CutTagged(rest, limit)
			read, rerr := ReadTagged(r, limit)
			switch {
			case err != nil:
				if rerr == nil || rerr == io.EOF || rerr.Error() != err.Error() {
					t.Fatalf("CutTagged says %v, ReadTagged %v", err, rerr)
				}
				return
			case !ok:
				if (rerr == io.EOF) != (len(rest) == 0) || rerr == nil || size > 0 && size <= len(rest) {
					t.Fatalf("CutTagged needs %d of %d bytes, ReadTagged says %v", size, len(rest), rerr)
				}
				return
			}
			if rerr != nil || !reflect.DeepEqual(read, cut) || cut.Tag > MaxTag || len(cut.Meta) > MaxMeta || len(cut.Body) > limit {
				t.Fatalf("%v and %v, %v", cut, read, rerr)
			}
			again, _, ok, err := CutTagged(AppendTagged(nil, cut), limit)
			if !reflect.DeepEqual(again, cut) || !ok || err != nil {
				t.Fatalf("%v was written and read as %v, %v", cut, again, err)
			}
			rest = rest[size:]
		}
	})
}
