package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk is a small file system that can be full, and can hang.
type disk struct {
	place  string
	frozen *os.File
}

// newDisk mounts a file. Where that is not possible the place is an ordinary directory, and there is no disk.
func newDisk(t *testing.T, image, place string) *disk {
	t.Helper()
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("truncate -s 16M %[1]s && mkfs.ext4 -q %[1]s && mount -o loop %[1]s %[2]s", image, place)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Logf("this machine mounts no disk for the test: %s", out)
		return nil
	}
	d := &disk{place: place}
	t.Cleanup(func() {
		d.heal()
		if err := unix.Unmount(place, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *disk) ballast() string { return filepath.Join(d.place, "ballast") }

// fill leaves no room, unless the disk is frozen.
func (d *disk) fill() {
	if d.frozen != nil {
		return
	}
	f, err := os.Create(d.ballast())
	if err != nil {
		return
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) >= 512; block = block[:len(block)/2] {
		for err == nil {
			_, err = f.Write(block)
		}
		err = nil
	}
}

// freeze makes each write wait.
func (d *disk) freeze() {
	if d.frozen != nil {
		return
	}
	if f, err := os.Open(d.place); err == nil {
		if unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0) == nil {
			d.frozen = f
			return
		}
		f.Close()
	}
}

// The kernel's requests of fsfreeze(8).
const fiFreeze, fiThaw = 0xC0045877, 0xC0045878

func (d *disk) heal() {
	if d.frozen != nil {
		_ = unix.IoctlSetInt(int(d.frozen.Fd()), fiThaw, 0)
		d.frozen.Close()
		d.frozen = nil
	}
	_ = os.Remove(d.ballast())
}
