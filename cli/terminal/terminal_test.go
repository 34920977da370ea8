package terminal

import (
	"os"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                                "",
		"plain text, öäü, 日本":             "plain text, öäü, 日本",
		"\x1b[2J\x1b]0;title\x07":         "?[2J?]0;title?",
		"\u009b31m":                       "?31m", // the other way to begin an escape sequence
		"a\tb\nc\r\v\fd":                  "a b c   d",
		"\u0085\u00a0\u2028\u2029\u3000x": "     x",
		"gnp.exe\u202egpj":                "gnp.exe?gpj", // would show what follows backwards
		"ad\u200bmin \u2066x\u2069":       "ad?min ?x?",  // cannot be seen
		"\ufeff\x00\b\x7f":                "????",
		"\xff":                            "\ufffd",
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[31m\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Printable(s) {
			if !unicode.IsPrint(r) && r != utf8.RuneError {
				t.Errorf("%q has %q", s, r)
			}
		}
	})
}

func TestIs(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if Is(int(r.Fd())) {
		t.Error("a pipe is a terminal")
	}
}
