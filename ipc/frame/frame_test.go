package frame

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func TestFrames(t *testing.T) {
	for body, want := range map[string]string{
		"":      "\x00\x00\x00\x00",
		"hello": "\x00\x00\x00\x05hello",
	} {
		got := Append(nil, []byte(body))
		if string(got) != want {
			t.Errorf("frame of %q: %q, want %q", body, got, want)
		}
		size, failed := Header(got)
		if size != len(body) || failed || IsFailure(got) || string(Body(got)) != body {
			t.Errorf("%q reads as %d, %v, %q", got, size, failed, Body(got))
		}
		MarkFailure(got)
		if size, failed := Header(got); size != len(body) || !failed || !IsFailure(got) {
			t.Errorf("%q marked as a failure reads as %d, %v", got, size, failed)
		}
		ClearFailure(got)
		PutHeader(got, len(body))
		if string(got) != want {
			t.Errorf("after marking and clearing %q, want %q", got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		in, frame string
		need      int
		tooLong   bool
	}{
		{"", "", 0, false},
		{"\x00\x00\x00", "", 0, false},
		{"\x00\x00\x00\x02", "", 6, false},
		{"\x00\x00\x00\x02a", "", 6, false},
		{"\x00\x00\x00\x02ab", "\x00\x00\x00\x02ab", 6, false},
		{"\x80\x00\x00\x02abc", "\x80\x00\x00\x02ab", 6, false},
		{"\x00\x00\x00\x00rest", "\x00\x00\x00\x00", 4, false},
		{"\x00\x00\x00\x09", "", 0, true},
		{"\xff\xff\xff\xff", "", 0, true},
	} {
		got, need, err := Cut([]byte(tt.in), 8)
		if string(got) != tt.frame || need != tt.need || errors.Is(err, ErrTooLong) != tt.tooLong {
			t.Errorf("%q: %q, %d, %v", tt.in, got, need, err)
		}
	}
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		code      Code
		text      string
		wire, got string // got: the text as it is read again
	}{
		{Refused, "no", "\x80\x00\x00\x0brefused: no", "no"},
		{Stopping, "", "\x80\x00\x00\x0astopping: ", ""},
		{"x", "a: b", "\x80\x00\x00\x07x: a: b", "a: b"},
		{Failed, "bad \xff byte", "\x80\x00\x00\x13error: bad \uFFFD byte", "bad \uFFFD byte"},
	} {
		wire := AppendFailure(nil, tt.code, tt.text)
		if string(wire) != tt.wire {
			t.Errorf("%s, %q: %q, want %q", tt.code, tt.text, wire, tt.wire)
		}
		if code, text := ParseFailure(Body(wire)); code != tt.code || text != tt.got {
			t.Errorf("%q reads as %q, %q", wire, code, text)
		}
	}
	long := AppendFailure(nil, GivenUp, strings.Repeat("\u00e4", maxText))
	if _, text := ParseFailure(Body(long)); len(text) != maxText || !utf8.ValidString(text) {
		t.Errorf("a long text has %d bytes, want %d", len(text), maxText)
	}
	odd := AppendFailure(nil, GivenUp, "x"+strings.Repeat("\u00e4", maxText))
	if _, text := ParseFailure(Body(odd)); len(text) != maxText-1 || !utf8.ValidString(text) {
		t.Errorf("a text cut inside of a letter has %d bytes, want %d", len(text), maxText-1)
	}
	for _, text := range []string{"no code here", "two words: text", ""} {
		if code, got := ParseFailure([]byte(text)); code != "" || got != text {
			t.Errorf("%q reads as %q, %q", text, code, got)
		}
	}
}

func TestRead(t *testing.T) {
	big := strings.Repeat("b", 3*firstPiece+1)
	stream := Append(Append(AppendFailure(nil, Refused, "no"), nil), []byte(big))
	r := iotest.OneByteReader(bytes.NewReader(stream))
	for _, want := range []struct {
		body   string
		failed bool
	}{{"refused: no", true}, {"", false}, {big, false}} {
		body, failed, err := Read(r, MaxReply)
		if string(body) != want.body || failed != want.failed || err != nil {
			t.Errorf("%.20q, %v, %v; want %.20q, %v", body, failed, err, want.body, want.failed)
		}
	}
	if _, _, err := Read(r, MaxReply); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for _, cut := range []string{"\x00", "\x00\x00\x00\x05", "\x00\x00\x00\x05hell", "\x03\x00\x00\x00x"} {
		if _, _, err := Read(strings.NewReader(cut), MaxReply); err != io.ErrUnexpectedEOF {
			t.Errorf("%q: %v", cut, err)
		}
	}
	if _, _, err := Read(strings.NewReader("\x80\x00\x00\x06123456"), 5); !errors.Is(err, ErrTooLong) {
		t.Errorf("a long one: %v", err)
	}
	broken := errors.New("broken")
	if _, _, err := Read(io.MultiReader(strings.NewReader("\x00\x00\x00\x05h"), iotest.ErrReader(broken)), 5); err != broken {
		t.Errorf("a broken one: %v", err)
	}
}

// A length that is announced and never sent costs no memory.
func TestReadTrustsNoLength(t *testing.T) {
	announced := "\x04\x00\x00\x00" + "x"
	allocated := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _, _ = Read(strings.NewReader(announced), MaxReply)
		}
	}).AllocedBytesPerOp()
	if allocated > 2*firstPiece {
		t.Errorf("%d bytes for a frame of which one byte came", allocated)
	}
}

// What is written is read again, whatever it is, and however it is cut.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02ok\x80\x00\x00\x09refused: "), 100)
	f.Add([]byte("\x7f\xff\xff\xff"), 1<<30)
	f.Add([]byte("\x40\x00\x00\x00"), 0)
	f.Fuzz(func(t *testing.T, data []byte, limit int) {
		limit = max(0, limit)
		r := bytes.NewReader(data)
		for rest := data; ; {
			cut, need, err := Cut(rest, limit)
			body, failed, rerr := Read(r, limit)
			switch {
			case err != nil:
				if !errors.Is(rerr, ErrTooLong) {
					t.Fatalf("Cut says %v, Read %v", err, rerr)
				}
				return
			case cut == nil:
				if (rerr == io.EOF) != (len(rest) == 0) || rerr == nil || need > 0 && need <= len(rest) {
					t.Fatalf("Cut needs %d of %d bytes, Read says %v", need, len(rest), rerr)
				}
				return
			}
			if rerr != nil || !bytes.Equal(body, Body(cut)) || failed != IsFailure(cut) || need != len(cut) {
				t.Fatalf("Cut has %q, %d, Read %q, %v, %v", cut, need, body, failed, rerr)
			}
			if failed {
				code, text := ParseFailure(body)
				if !utf8.ValidString(string(code)+text) || code != "" && len(code)+len(text) > 3*len(body) {
					t.Fatalf("%q reads as %q, %q", body, code, text)
				}
			}
			rest = rest[len(cut):]
		}
	})
}
