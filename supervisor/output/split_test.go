package output

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// split feeds data in reads of the given sizes, used in turn, and returns the pieces; "+" marks one that is
// not the last of its line.
func split(data []byte, sizes ...int) (pieces []string) {
	s := splitter{emit: func(piece []byte, last bool) {
		if mark := "+"; last {
			pieces = append(pieces, string(piece))
		} else {
			pieces = append(pieces, mark+string(piece))
		}
	}}
	for i := 0; len(data) > 0; i++ {
		n := min(max(sizes[i%len(sizes)], 1), len(data))
		s.feed(bytes.Clone(data[:n]))
		data = data[n:]
	}
	s.end()
	return pieces
}

func TestSplitter(t *testing.T) {
	x := strings.Repeat("x", maxPiece)
	e := strings.Repeat("x", maxPiece-1) + "é"
	tests := []struct {
		name, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"one line", "a\n", []string{"a"}},
		{"unterminated", "a\nb", []string{"a", "b"}},
		{"empty lines", "\n\na\n\n", []string{"", "", "a", ""}},
		{"binary", "\x00\xff\r\n", []string{"\x00\xff\r"}},
		{"exactly one piece", x + "\n", []string{x}},
		{"exactly one piece, unterminated", x, []string{x}},
		{"one byte more", x + "y\n", []string{"+" + x, "y"}},
		{"two pieces", x + x + "\nz\n", []string{"+" + x, x, "z"}},
		{"three and a half", x + x + x + "y", []string{"+" + x, "+" + x, "+" + x, "y"}},
		{"a character on the border", e + "\n", []string{"+" + x[1:], "é"}},
		{"no character on the border", x[1:] + "\x80\x80\n", []string{"+" + x[1:] + "\x80", "\x80"}},
	}
	for _, tt := range tests {
		for _, size := range []int{1, 7, maxPiece - 1, maxPiece, maxPiece + 1, 1 << 20} {
			if got := split([]byte(tt.in), size); !slices.Equal(got, tt.want) {
				t.Errorf("%s, reads of %d: got %s, want %s", tt.name, size, brief(got), brief(tt.want))
			}
		}
	}
}

func brief(pieces []string) string {
	var b strings.Builder
	for _, p := range pieces {
		fmt.Fprintf(&b, "%d %.10q ", len(p), p)
	}
	return b.String()
}

func TestSplitterGivesMemoryBack(t *testing.T) {
	s := splitter{emit: func([]byte, bool) {}}
	s.feed(make([]byte, maxPiece))
	s.feed([]byte("\nbegun"))
	if cap(s.rest) > keepRest {
		t.Errorf("holds %d bytes after a long line", cap(s.rest))
	}
}

func FuzzSplitter(f *testing.F) {
	f.Add([]byte("one\ntwo\n\nthree"), uint16(1), uint16(4), uint16(0))
	f.Add([]byte("é\r\n\x00\xff"), uint16(3), uint16(2), uint16(maxPiece-1))
	f.Add([]byte("x\n"), uint16(maxPiece-1), uint16(1), uint16(maxPiece-1))
	f.Fuzz(func(t *testing.T, data []byte, a, b, pad uint16) {
		// Long lines are out of a fuzzer's reach: pad makes one of the first.
		data = append(bytes.Repeat([]byte{'p'}, int(pad)), data...)
		got := split(data, int(a), int(b))
		var joined strings.Builder
		open := false
		for _, p := range got {
			if open = strings.HasPrefix(p, "+") && len(p) > maxPiece-3; open {
				p = p[1:]
			} else {
				p += "\n"
			}
			if len(p) > maxPiece+1 {
				t.Fatalf("a piece of %d bytes", len(p))
			}
			joined.WriteString(p)
		}
		want := string(data)
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if open || joined.String() != want {
			t.Fatalf("stream changed: %.200q became %.200q", want, joined.String())
		}
		if whole := split(data, len(data)); !slices.Equal(got, whole) {
			t.Fatalf("reads of %d and %d change the pieces: %s, at once %s", a, b, brief(got), brief(whole))
		}
	})
}
