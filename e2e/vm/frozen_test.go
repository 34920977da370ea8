package vm

import (
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// The kernel's requests of fsfreeze(8).
const fiFreeze, fiThaw = 0xC0045877, 0xC0045878

// freeze makes each write to the disk wait until it is thawed, at the end of the
// check at the latest.
func (d disk) freeze(t *testing.T) (thaw func()) {
	t.Helper()
	dir, err := os.Open(string(d))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0); err != nil {
		t.Fatal(err)
	}
	thaw = func() { _ = unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0) } // a second time: EINVAL
	t.Cleanup(func() { thaw(); dir.Close() })
	return thaw
}

// A disk that hangs holds up neither the other messages, nor the operator, nor the stop.
func testFrozenDisk(t *testing.T) {
	d := newDisk(t, 2)
	p, addr := startSpool(t, d.path("spool"))
	thaw := d.freeze(t)
	if err := os.WriteFile("/tmp/bad", []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := harness.Start(t, harness.Program{Args: []string{"/poolinit", "send", "--reply", "tcp://" + addr, "/tmp/bad"}})
	testkit.Eventually(t, "the message is given up", func() (any, bool) {
		return p.Stderr.String(), p.Count("worker exited") >= 2
	})
	for range 3 {
		harness.Send(t, lines("good\n"), "--reply", "tcp://"+addr).Want(t, "good\n", 0)
	}
	p.Inside("health").Says(t, 0)
	awaitBoth(p)
	p.Signal(syscall.SIGTERM)
	// It ends while the disk hangs. The kernel keeps what is left of it: the thread that
	// writes to the disk.
	p.ExpectLog("stopped: handled 3, spooled 0, lost 1, killed 0, in ", nil)
	testkit.Eventually(t, "it ends", func() (any, bool) {
		q, found := harness.ReadProc(p.PID)
		return q, !found || q.State == 'Z'
	})
	bad.Wait()
	thaw()
	p.ExpectExit(75) // it was lost
}
