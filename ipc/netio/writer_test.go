package netio

import (
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// socketPair returns two connected sockets.
func socketPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// The deadline that an owner sets after Break is not replaced by that of a slow
// peer.
func TestBrokenStaysBroken(t *testing.T) {
	file, _ := socketPair(t) // the other end is never read
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu sync.Mutex
		w  Writer
	)
	w.Init(WriterConfig{Mutex: &mu, Conn: file, Raw: raw, Stall: time.Hour})
	mu.Lock()
	w.Break()
	mu.Unlock()
	_ = file.SetWriteDeadline(time.Unix(1, 0))
	done := make(chan error, 1) // 1: the result, should the test have ended
	go func() { _, err := w.writeSlowly(make([]byte, 16<<20)); done <- err }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("all is written")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for its peer")
	}
}
