package output

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
)

func TestMain(m *testing.M) {
	os.Exit(testkit.Children{"printer": playPrinter, "broken-log": playBrokenLog}.Main(m))
}

// playPrinter writes to both streams, as a worker does.
func playPrinter([]string) int {
	fmt.Fprint(os.Stdout, "to stdout\n\nunterminated")
	fmt.Fprint(os.Stderr, "to stderr\n")
	return 0
}

// playBrokenLog logs to a stderr whose reader has gone, without asking for SIGPIPE. It survives, and says so.
func playBrokenLog([]string) int {
	s := NewSink(os.Stderr, 1<<10, nil)
	for range 3 {
		fmt.Fprintln(s, "into the void")
	}
	err := s.Close(testkit.Patience)
	fmt.Printf("alive, %d lost, close: %v\n", s.Lost(), err)
	return 0
}

// startRole starts the test binary as a child in that role and returns what waits for it.
func startRole(t *testing.T, role string, stdout, stderr *os.File) (pid int, wait func() *os.ProcessState) {
	t.Helper()
	p, err := os.StartProcess(os.Args[0], os.Args[:1], &os.ProcAttr{
		Env:   append(testkit.ChildEnv(role), "GOCOVERDIR="+t.TempDir()), // or a covered child complains
		Files: []*os.File{nil, stdout, stderr},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.Pid, func() *os.ProcessState {
		state, err := p.Wait()
		if err != nil {
			t.Fatal(err)
		}
		return state
	}
}

// recorder keeps what is written to it, and can be told to block or to fail.
type recorder struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	fail    func(p []byte) (int, error) // nil result: written
	gate    chan struct{}               // non-nil: each write waits for a token, or for its closing
	entered chan struct{}               // non-nil: a write has begun
	changed chan struct{}               // 1 slot: a change already announced covers this one
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{}, 1)} }

// newGated is a recorder that takes nothing until its gate opens.
func newGated() *recorder {
	r := newRecorder()
	r.gate, r.entered = make(chan struct{}), make(chan struct{}, 1)
	return r
}

func (r *recorder) Write(p []byte) (n int, err error) {
	if r.gate != nil {
		select {
		case r.entered <- struct{}{}:
		default:
		}
		<-r.gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n = len(p)
	if r.fail != nil {
		n, err = r.fail(p)
	}
	r.buf.Write(p[:n])
	select {
	case r.changed <- struct{}{}:
	default:
	}
	return n, err
}

// failWith makes all writes after n more bytes fail; nil ends that.
func (r *recorder) failWith(err error, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = nil
	if err != nil {
		r.fail = func(p []byte) (int, error) {
			take := min(n, len(p))
			n -= take
			if take == len(p) {
				return take, nil
			}
			return take, err
		}
	}
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

// wait returns the contents as soon as they fulfil the condition.
func (r *recorder) wait(t *testing.T, what string, cond func(string) bool) string {
	t.Helper()
	timeout := time.After(testkit.Patience)
	for {
		if s := r.String(); cond(s) {
			return s
		}
		select {
		case <-r.changed:
		case <-timeout:
			t.Fatalf("waited for %s, got %d bytes: %.300q", what, len(r.String()), r.String())
		}
	}
}

// within fails the test if f does not return in time: f promises not to block.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }() // ends when f returns, or with the test binary
	if !waitFor(done, testkit.Patience) {
		t.Fatalf("%s blocks", what)
	}
}

// pipe is a pipe of plain files, as descriptors 1 and 2 of a container are.
func pipe(t *testing.T, flags int) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|flags); err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	t.Cleanup(func() { _ = r.Close(); _ = w.Close() })
	return r, w
}

func TestDestOfOneFileUnderTwoNames(t *testing.T) {
	_, w := pipe(t, 0)
	fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	dup := os.NewFile(uintptr(fd), "dup")
	defer dup.Close()
	_, other := pipe(t, 0)
	rec := newRecorder()
	tests := []struct {
		name string
		a, b io.Writer
		want bool
	}{
		{"a duplicated descriptor", w, dup, true},
		{"two pipes", w, other, false},
		{"one writer", rec, rec, true},
		{"two writers", rec, newRecorder(), false},
		{"file and writer", w, rec, false},
		{"not comparable", uncomparable{}, uncomparable{}, false},
	}
	for _, tt := range tests {
		if got := NewDest(tt.a).same(NewDest(tt.b)); got != tt.want {
			t.Errorf("%s: same = %v", tt.name, got)
		}
	}
	if d := NewDest(rec); NewDest(d) != d {
		t.Error("a Dest of a Dest is another Dest")
	}
}

type uncomparable []int

func (uncomparable) Write(p []byte) (int, error) { return len(p), nil }

func TestDestStartsANewLineAfterATornOne(t *testing.T) {
	rec := newRecorder()
	d := NewDest(rec)
	rec.failWith(syscall.ENOSPC, 4)
	if n, err := d.Write([]byte("torn line\n")); n != 4 || err != syscall.ENOSPC {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if _, err := d.Write([]byte("lost\n")); err != syscall.ENOSPC {
		t.Fatalf("Write = %v", err)
	}
	rec.failWith(nil, 0)
	_, _ = d.Write([]byte("whole\n"))
	if want := "torn\nwhole\n"; rec.String() != want {
		t.Errorf("got %q, want %q", rec.String(), want)
	}
}

// Another process may have made the shared descriptor non-blocking, as some runtimes do at their start.
func TestDestWaitsForANonBlockingPipe(t *testing.T) {
	r, w := pipe(t, 0)
	d := NewDest(w)
	if err := unix.SetNonblock(int(w.Fd()), true); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("0123456789abcde\n", 16<<10)
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := d.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		_ = w.Close()
	})
	got, err := io.ReadAll(r)
	if string(got) != text || err != nil {
		t.Errorf("read %d bytes of %d, %v", len(got), len(text), err)
	}
	wg.Wait()
}

func TestParseMode(t *testing.T) {
	for _, m := range []Mode{Inherit, Prefix, JSON} {
		if got, err := ParseMode(m.String()); got != m || err != nil {
			t.Errorf("ParseMode(%q) = %v, %v", m.String(), got, err)
		}
	}
	for _, s := range []string{"", "Prefix", "text", "Mode(3)"} {
		if _, err := ParseMode(s); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("ParseMode(%q): %v", s, err)
		}
	}
	if got := Mode(7).String(); got != "Mode(7)" {
		t.Errorf("got %q", got)
	}
}
