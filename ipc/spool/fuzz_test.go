package spool

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// A file with any name and any contents in the directory: it is delivered if it is
// a whole message, and stays as it is otherwise, unless it is one that was being
// written.
func FuzzDirectory(f *testing.F) {
	h := header{Source: "tcp://127.0.0.1:8089", ID: 7, Attempts: 2, Arrived: time.Unix(1e9, 5)}
	whole := appendFile(nil, h, []byte("hello\n"))
	const name = "20010909T014640.000000005Z-0000000007"
	for _, end := range []string{undelivered, givenUp, undelivered + unfinished, givenUp + unfinished, "-1" + undelivered, unfinished} {
		f.Add(name+end, whole)
		f.Add(name+end, whole[:len(whole)-1])
	}
	f.Add(lockName, whole)
	f.Add("poolinit-0", []byte(nil))
	f.Add("probe"+unfinished, whole)
	f.Add("\xff"+undelivered, []byte("{}"))
	f.Fuzz(func(t *testing.T, name string, file []byte) {
		if name == "" || name == "." || name == ".." || len(name) > 200 || strings.ContainsAny(name, "/\x00") {
			return // not the name of a file
		}
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			return // nor that
		}
		s, err := Open(Config{Dir: dir}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		final, isUnfinished := strings.CutSuffix(name, unfinished)
		isUnfinished = isUnfinished && isMessage(final)
		_, body, bad := readMessage(bytes.NewReader(file), maxBody)
		var want []string
		switch {
		case isUnfinished && bad == nil && strings.HasSuffix(final, undelivered):
			want = []string{final}
		case isMessage(name) && strings.HasSuffix(name, undelivered):
			want = []string{name}
		}
		if !slices.Equal(s.found, want) {
			t.Fatalf("found %q, want %q", s.found, want)
		}
		for _, name := range s.found {
			if _, got, err := s.read(name, maxBody); (err == nil) != (bad == nil) || !bytes.Equal(got, body) {
				t.Fatalf("read %q %v, want %q %v", got, err, body, bad)
			}
		}
		if left, err := os.ReadFile(path); !isUnfinished && name != "probe"+unfinished && (err != nil || !bytes.Equal(left, file)) {
			t.Fatalf("the file has become %q, %v", left, err)
		}
		if n := s.Stats().Files; n < 0 || n > 1 {
			t.Fatalf("%d files", n)
		}
	})
}
