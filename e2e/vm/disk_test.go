package vm

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
)

// A disk is a file system that the check may fill and freeze.
type disk string

// newDisk mounts a file of this many MiB.
func newDisk(t *testing.T, size int64) disk {
	t.Helper()
	image, place := filepath.Join(t.TempDir(), "image"), t.TempDir()
	f, err := os.OpenFile(image, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = f.Truncate(size << 20)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	harness.RunClient(t, nil, "mke2fs", "-F", image).Says(t, 0)
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatal(err)
	}
	device := fmt.Sprintf("/dev/loop%d", n)
	loop, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(device, place, "ext2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(place, unix.MNT_DETACH) // a namespace that just ends may have it mounted
		if loop, err := os.OpenFile(device, os.O_RDWR, 0); err == nil {
			_ = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0)
			loop.Close()
		}
	})
	return disk(place)
}

func (d disk) path(name string) string { return filepath.Join(string(d), name) }

// fill leaves no free block. It returns what makes room again.
func (d disk) fill(t *testing.T) (drain func()) {
	t.Helper()
	name := d.path("ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 1<<20); len(block) >= 512; block = block[:len(block)/2] {
		for err == nil {
			_, err = f.Write(block)
		}
		if !strings.Contains(err.Error(), "no space") {
			t.Fatal(err)
		}
		err = nil
	}
	f.Close()
	return func() {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// startSpool runs two workers that answer each line with itself, and exit at one
// that begins with "bad".
func startSpool(t *testing.T, spool string) (p harness.Pool, addr string) {
	t.Helper()
	addr = harness.FreePort(t)
	return harness.PoolOf(harness.StartSource(t, harness.Program{}, "tcp://"+addr+"?reply=always", "-n", "2", "--attempts", "2", "--deliver", "lines",
		"--restart-delay", "1ms", "--stop-timeout", "4s", "--log-format", "json", "--spool", spool, "--",
		"sh", "-c", `while read -r l <&3; do case $l in bad*) exit 7;; esac; echo "$l" >&3; done`)), addr
}

// awaitBoth waits until both workers are there.
func awaitBoth(p harness.Pool) {
	p.T.Helper()
	p.AwaitDocument("both workers", func(d *harness.Document) bool {
		n := 0
		for _, w := range d.Workers {
			if w.State == "ready" || w.State == "starting" {
				n++
			}
		}
		return n == 2
	})
}

func lines(s string) io.Reader { return strings.NewReader(s) }

// A message that is given up while the disk of the spool is full is lost, with
// a line in the log, and the pool goes on. With room there is no loss.
func testFullDisk(t *testing.T) {
	d := newDisk(t, 2)
	p, addr := startSpool(t, d.path("spool"))
	drain := d.fill(t)
	harness.Send(t, lines("one\n"), "--reply", "tcp://"+addr).Want(t, "one\n", 0)
	harness.Send(t, lines("bad 1\n"), "--reply", "tcp://"+addr).Says(t, 1, "given-up: ")
	p.ExpectLog("cannot write to the spool", func(r harness.Record) bool { return strings.Contains(r.Why, "no space") })
	harness.Send(t, lines("two\n"), "--reply", "tcp://"+addr).Want(t, "two\n", 0)
	drain()
	harness.Send(t, lines("bad 2\n"), "--reply", "tcp://"+addr).Says(t, 1, "given-up: ")
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 0 { // what was lost, was lost before the stop
		t.Errorf("exit code %d\n%s", code, p.Stderr.String())
	}
	if handled, _, lost := p.Totals(); handled != 2 || lost != 1 {
		t.Errorf("handled %d, lost %d\n%s", handled, lost, p.Stderr.String())
	}
	if kept, _ := filepath.Glob(d.path("spool/*.given-up")); len(kept) != 1 {
		t.Errorf("kept: %q", kept)
	}
}
