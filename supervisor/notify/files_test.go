package notify

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/reaper/ancillary/ancillarytest"
)

// forKernels runs a test as on this kernel, and as on one that cannot refuse
// attached files. open opens a socket that listens to a group; with 0 it is not
// served yet.
func forKernels(t *testing.T, test func(t *testing.T, open func(pgid int) *listener)) {
	for _, old := range []bool{false, true} {
		name := "this kernel"
		if old {
			name = "old kernel"
		}
		t.Run(name, func(t *testing.T) {
			test(t, func(pgid int) *listener {
				l := bound(t)
				if old {
					l.accept()
				}
				if pgid != 0 {
					l.Serve(pgid)
				}
				return l
			})
		})
	}
}

// accept makes the socket accept attached files.
func (l *listener) accept() {
	_ = l.raw.Control(func(fd uintptr) { ancillarytest.Accept(int(fd)) })
	l.refuses = false
}

func TestFilesAreRefused(t *testing.T) {
	l := listen(t, unix.Getpgrp())
	if !l.refuses {
		t.Log("this kernel lets them through")
		return
	}
	if err := send(l.Name(), "STATUS=x", []int{0}); err != unix.EPERM {
		t.Errorf("sending a file: %v", err)
	}
	l.send("STATUS=after")
	l.want(Message{Status: "after"})
}

// sd_notify_barrier(3) waits for its descriptor to be closed.
func TestBarrier(t *testing.T) {
	l := bound(t)
	l.accept()
	l.Serve(unix.Getpgrp())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l.send("READY=1")
	l.send("BARRIER=1", int(w.Fd()))
	w.Close()
	l.want(Message{Ready: true})
	closed := make(chan error, 1)
	go func() { // ends with the pipe
		_, err := r.Read(make([]byte, 1))
		closed <- err
	}()
	select {
	case err := <-closed:
		if err != io.EOF {
			t.Errorf("%v, want EOF", err)
		}
	case <-time.After(testkit.Patience):
		t.Error("the barrier's descriptor stays open")
	}
	if c := l.complained(); len(c) > 0 {
		t.Errorf("complaints: %v", c)
	}
}

// Files that come with a message are closed, however many there are, and from any
// sender.
func TestFilesAreClosed(t *testing.T) {
	l := bound(t)
	l.accept()
	l.Serve(unix.Getpgrp())
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	many := make([]int, 253) // SCM_MAX_FD
	for i := range many {
		many[i] = fd
	}
	before := openFiles(t)
	for range 20 {
		l.send("STATUS=one", fd)
		l.want(Message{Status: "one"})
		l.send("STATUS=many", many...)
		l.want(Message{Status: "many"})
		l.send("garbage", many...)
	}
	l.send("STATUS=after")
	l.want(Message{Status: "after"})
	testkit.Eventually(t, "all are closed", func() (any, bool) { n := openFiles(t); return n, n <= before })
}

// Files that take a minute to close hold up neither the messages that follow nor
// Close: those of a group's own process, of a stranger, and those never received.
func TestFilesHoldNothingUp(t *testing.T) {
	forKernels(t, func(t *testing.T, open func(pgid int) *listener) {
		for name, pgid := range map[string]int{"own": unix.Getpgrp(), "stranger": 1 << 30} {
			t.Run(name, func(t *testing.T) {
				l := open(pgid)
				for range 3 {
					err := ancillarytest.Send(t, 3, func(files []int) error { return send(l.Name(), "STATUS=x", files) })
					if l.refuses && err != unix.EPERM || !l.refuses && err != nil {
						t.Fatal(err)
					}
				}
				l.send("STATUS=after")
				if name == "own" {
					for l.next().Status != "after" {
					}
				} else {
					testkit.Eventually(t, "it is read", func() (any, bool) { c := l.complained(); return c, len(c) == 1 })
				}
				began := time.Now()
				l.Close()
				if took := time.Since(began); took > testkit.Patience/2 {
					t.Errorf("Close took %v", took)
				}
			})
		}
		l := open(0)
		for range 3 {
			// Refused or not.
			_ = ancillarytest.Send(t, 1, func(files []int) error { return send(l.Name(), "STATUS=x", files) })
		}
		l.Close()
		for _, c := range l.complained() {
			if errors.Is(c, errStuck) {
				t.Error(c)
			}
		}
	})
}
