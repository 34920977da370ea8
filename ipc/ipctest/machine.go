package ipctest

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// OnOwnThread calls f on a thread that ends with it.
func OnOwnThread(f func()) {
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // for ever
		f()
	})
	done.Wait()
}

// SmallDisk returns the path of a file system of 64 kB.
func SmallDisk(t *testing.T, flags uintptr) (dir string) {
	t.Helper()
	place := t.TempDir()
	var err error
	OnOwnThread(func() {
		err = unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount("none", place, "tmpfs", flags, "size=64k,mode=700")
		}
		if err != nil {
			return
		}
		var f *os.File
		if f, err = os.Open(place); err == nil {
			t.Cleanup(func() { f.Close() })
			dir = fmt.Sprintf("/proc/self/fd/%d", f.Fd()) // where threads of other mount namespaces see it
		}
	})
	if err != nil {
		strict.Skip(t, "no permission to mount: %v", err)
	}
	return dir
}
