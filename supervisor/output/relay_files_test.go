package output

import (
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// A program that finds its stdout non-blocking loses output.
func TestRelayGivesChildrenBlockingPipes(t *testing.T) {
	r := NewRelay(Prefix, io.Discard, io.Discard)
	p, err := r.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{p.Stdout, p.Stderr} {
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("flags %#x, %v", flags, err)
		}
		flags, err = unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor flags %#x, %v", flags, err)
		}
	}
	p.CloseChild() // the start failed: no child holds them
	if err := r.Close(testkit.Patience); err != nil {
		t.Error(err)
	}
}

func TestRelayCloseBetweenOpenAndCloseChild(t *testing.T) {
	r := NewRelay(Prefix, io.Discard, io.Discard)
	p, err := r.Open(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(0); err != nil {
		t.Error(err)
	}
	p.CloseChild()
	if err := p.pumps[0].file.Close(); !errors.Is(err, os.ErrClosed) {
		t.Error("a read end was left open")
	}
}

// Whichever of the descriptors is the one too many: the ones before it are closed again.
func TestRelayOpenWithoutDescriptors(t *testing.T) {
	r := NewRelay(Prefix, io.Discard, io.Discard)
	start(t, r, 0).exit() // the netpoller has its descriptors now
	if err := r.Close(testkit.Patience); err != nil {
		t.Fatal(err)
	}
	r = NewRelay(Prefix, io.Discard, io.Discard)
	before, failures := openFiles(t), 0
	for limit := uint64(3); ; limit++ {
		p, err := openUnder(t, r, limit)
		if err == nil {
			p.CloseChild()
			break
		}
		failures++
		if !errors.Is(err, syscall.EMFILE) || !strings.Contains(err.Error(), "worker 5") {
			t.Errorf("Open = %v", err)
		}
		if now := openFiles(t); now != before {
			t.Fatalf("limit %d: %d files were open before, %d after", limit, before, now)
		}
	}
	if err := r.Close(testkit.Patience); err != nil || failures < 4 {
		t.Errorf("Close = %v, %d failures", err, failures)
	}
}

// openUnder opens while no descriptor from limit on is to be had.
func openUnder(t *testing.T, r *Relay, limit uint64) (*Pipes, error) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
		strict.Skip(t, "cannot lower the limit: %v", err)
	}
	p, err := r.Open(5)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	return p, err
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNilRelayInherits(t *testing.T) {
	r := NewRelay(Inherit, os.Stdout, os.Stderr)
	p, err := r.Open(0)
	if r != nil || err != nil || p.Stdout != os.Stdout || p.Stderr != os.Stderr {
		t.Fatalf("%v, %+v, %v", r, p, err)
	}
	p.SetPID(1)
	p.CloseChild()
	if _, err := os.Stdout.Stat(); err != nil {
		t.Errorf("stdout: %v", err)
	}
	if r.Lost() != 0 || r.Close(0) != nil {
		t.Error("a nil relay has something to do")
	}
}
