package notify

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
)

// Send returns when what it sent is read, not before: otherwise a sender that ends
// at once could not be found any more.
func TestSendWaits(t *testing.T) {
	forKernels(t, func(t *testing.T, open func(pgid int) *listener) {
		l := open(0) // not served
		sent := make(chan error, 1)
		go func() { sent <- Send(l.Name(), "READY=1\nSTATUS=warm", testkit.Patience) }() // ends when it is read
		select {
		case err := <-sent:
			t.Fatalf("it returned %v while nothing had been read", err)
		case <-time.After(50 * time.Millisecond): // too short can only let a fault pass
		}
		l.Serve(unix.Getpgrp())
		l.want(Message{Ready: true, Status: "warm"})
		if !l.refuses {
			l.want(Message{}) // the barrier
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if c := l.complained(); len(c) > 0 {
			t.Errorf("complaints: %v", c)
		}
	})
}

// A service manager of another kind, which listens at a path, and knows no
// barrier: the kernel closes descriptors that the receiver does not take.
func TestSendToPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() { sent <- Send(path, "READY=1", testkit.Patience) }() // ends when it is read
	for _, want := range []string{"READY=1", "BARRIER=1"} {
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Fatalf("%q, %v; want %q", buf[:n], err, want)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestSendUnread(t *testing.T) {
	l, err := Listen(func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.file.Close()
	full := 0
	for ; full < 10_000; full++ { // until the socket is full, too
		err := Send(l.Name(), "STATUS=x", time.Millisecond)
		if !errors.Is(err, errUnread) {
			t.Fatalf("after %d: %v", full, err)
		}
		if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		} else {
			err := unix.Sendto(fd, nil, 0, &unix.SockaddrUnix{Name: l.Name()})
			unix.Close(fd)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
		}
	}
	if err := Send(l.Name(), "STATUS=x", time.Millisecond); !errors.Is(err, errUnread) {
		t.Errorf("to a full socket: %v", err)
	}
}

func TestSendToNobody(t *testing.T) {
	for _, name := range []string{"@poolinit/nobody", filepath.Join(t.TempDir(), "none"), "/" + string(make([]byte, 200))} {
		if err := Send(name, "READY=1", testkit.Patience); err == nil || errors.Is(err, errUnread) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
