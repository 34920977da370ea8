package output

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
)

// child plays a process that was given a worker's pipes: it holds duplicates of the write ends.
type child struct{ out, err *os.File }

func start(t testing.TB, r *Relay, worker int) child {
	t.Helper()
	p, err := r.Open(worker)
	if err != nil {
		t.Fatal(err)
	}
	c := child{duplicate(t, p.Stdout), duplicate(t, p.Stderr)}
	p.SetPID(100 + worker)
	p.CloseChild()
	p.CloseChild()
	t.Cleanup(c.exit)
	return c
}

func duplicate(t testing.TB, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

func (c child) exit() {
	_ = c.out.Close()
	_ = c.err.Close()
}

// relayed is what a relay makes of what one worker prints.
func relayed(t *testing.T, mode Mode, stdout, stderr string) (out, err string) {
	t.Helper()
	recOut, recErr := newRecorder(), newRecorder()
	r := NewRelay(mode, recOut, recErr)
	c := start(t, r, 3)
	_, _ = io.WriteString(c.out, stdout)
	_, _ = io.WriteString(c.err, stderr)
	c.exit()
	if err := r.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	if r.Lost() != 0 {
		t.Errorf("lost %d", r.Lost())
	}
	return recOut.String(), recErr.String()
}

func TestRelayPrefix(t *testing.T) {
	x := strings.Repeat("x", maxPiece)
	tests := []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"a line", "a\n", "[worker 3] a\n"},
		{"empty lines are kept", "\n\n", "[worker 3] \n[worker 3] \n"},
		{"unterminated", "a\nb", "[worker 3] a\n[worker 3] b\n"},
		{"bytes as they come", "\x00\xff\r\n", "[worker 3] \x00\xff\r\n"},
		{"long", x + "y\nz\n", "[worker 3] " + x + "\n[worker 3] y\n[worker 3] z\n"},
	}
	for _, tt := range tests {
		out, err := relayed(t, Prefix, tt.in, "")
		if out != tt.want || err != "" {
			t.Errorf("%s: got %.100q, want %.100q, stderr %q", tt.name, out, tt.want, err)
		}
	}
	if out, err := relayed(t, Prefix, "o\n", "e\n"); out != "[worker 3] o\n" || err != "[worker 3] e\n" {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
}

// record is all that a record may hold.
type record struct {
	Level   string    `json:"level"`
	Time    time.Time `json:"time"`
	Worker  int       `json:"worker"`
	PID     int       `json:"pid"`
	Stream  string    `json:"stream"`
	Partial bool      `json:"partial"`
	Message *string   `json:"message"`
}

func records(t *testing.T, text string) (all []record) {
	t.Helper()
	for line := range strings.Lines(text) {
		var r record
		dec := json.NewDecoder(strings.NewReader(line))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&r); err != nil || r.Message == nil {
			t.Fatalf("record %.200q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

func TestRelayJSON(t *testing.T) {
	x := strings.Repeat("x", maxPiece)
	tests := []struct {
		in   string
		want []string // "+" marks a partial one
	}{
		{"a\n\nb", []string{"a", "", "b"}},
		{"\r\na\r\nb\rc\r", []string{"", "a", "b\rc"}},
		{"{\"a\": \"\\\"}\ttab\x1b[0m\n", []string{"{\"a\": \"\\\"}\ttab\x1b[0m"}},
		{"zero \x00, wrong \xff, right é\n", []string{"zero \x00, wrong \ufffd, right é"}},
		{x + x + "y\r\n", []string{"+" + x, "+" + x, "y"}},
		{x[1:] + "é\n", []string{"+" + x[1:], "é"}},
	}
	for _, tt := range tests {
		out, _ := relayed(t, JSON, tt.in, "")
		got := records(t, out)
		if len(got) != len(tt.want) {
			t.Errorf("%.50q: %d records, want %d", tt.in, len(got), len(tt.want))
			continue
		}
		for i, want := range tt.want {
			message, partial := strings.CutPrefix(want, "+")
			if *got[i].Message != message || got[i].Partial != partial {
				t.Errorf("%.50q: record %d is %.50q, partial %v", tt.in, i, *got[i].Message, got[i].Partial)
			}
		}
	}
}

// The layout of a record is what log collectors are configured for.
func TestRelayJSONFields(t *testing.T) {
	out, errs := relayed(t, JSON, "o\n", "e\n")
	for stream, text := range map[string]string{"stdout": out, "stderr": errs} {
		r := records(t, text)[0]
		stamp := r.Time.Format("2006-01-02T15:04:05.000Z07:00")
		want := fmt.Sprintf(`{"level":"info","time":"%s","worker":3,"pid":103,"stream":"%s","message":"%s"}`+"\n",
			stamp, stream, stream[3:4])
		if want = strings.Replace(want, `"o"`, `"`+*r.Message+`"`, 1); text != strings.Replace(want, `"e"`, `"`+*r.Message+`"`, 1) {
			t.Errorf("got %s, want %s", text, want)
		}
		if time.Since(r.Time) > time.Minute {
			t.Errorf("time %s", r.Time)
		}
	}
}

func TestRelayRealChild(t *testing.T) {
	rec := newRecorder()
	r := NewRelay(JSON, rec, rec)
	p, err := r.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	pid, wait := startRole(t, "printer", p.Stdout, p.Stderr)
	p.SetPID(pid)
	p.CloseChild()
	if state := wait(); !state.Success() {
		t.Fatal(state)
	}
	if err := r.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, rec := range records(t, rec.String()) {
		got[rec.Stream] += *rec.Message + "|"
		if rec.PID != pid {
			t.Errorf("pid %d, want %d", rec.PID, pid)
		}
	}
	if got["stdout"] != "to stdout||unterminated|" || got["stderr"] != "to stderr|" {
		t.Errorf("got %q", got)
	}
}
