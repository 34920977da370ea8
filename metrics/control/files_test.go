package control

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/reaper/ancillary"
	"github.com/poolinit/poolinit/reaper/ancillary/ancillarytest"
)

// attach sends the beginning of a request, with open files.
func attach(conn *net.UnixConn, files ...int) error {
	_, _, err := conn.WriteMsgUnix([]byte("{"), unix.UnixRights(files...), nil)
	return err
}

func TestFilesAreRefused(t *testing.T) {
	w := newWorld(t)
	conn := w.dial()
	err := attach(conn, 0)
	if g := w.gate(); g.files == nil && err == nil || g.files != nil && err != nil {
		t.Errorf("attaching a file: %v", err)
	}
}

// gate is the server's.
func (w *world) gate() *gate { return w.server.listener.Listener.(*gate) }

// On a kernel that lets files through, those that take an hour to close hold up
// neither other clients nor the end, whether the client has access or not.
func TestFilesHoldNothingUp(t *testing.T) {
	for _, stranger := range []bool{false, true} {
		pool := newFakePool()
		s, err := Listen(pool.view(), pool, pool.refuse)
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, pool: pool, server: s}
		g := w.gate()
		if raw, err := g.SyscallConn(); err == nil { // as before Linux 6.16
			_ = raw.Control(func(fd uintptr) { ancillarytest.Accept(int(fd)) })
		}
		g.files = ancillary.NewCloser()
		if stranger {
			g.access = func(*unix.Ucred) error { return errNotARequest }
		}
		var conns []*net.UnixConn
		for range maxConnections + 10 { // before anything is read
			conn := w.dial()
			if err := ancillarytest.Send(t, 1, func(files []int) error { return attach(conn, files...) }); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		s.Serve()
		if got := w.answer("{\"command\":\"health\"}\n"); got == "" {
			t.Error("no answer")
		}
		began := time.Now()
		s.Close()
		if took := time.Since(began); took > testkit.Patience/2 {
			t.Errorf("Close took %v", took)
		}
		for _, conn := range conns {
			conn.Close()
		}
	}
}
