package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit/strict"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// stranger is the uid of a user who is not poolinit's.
const stranger = 65534

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		strict.Skip(t, "only root can give files away")
	}
}

// A directory to which other users may write is not used, but one in it that only
// poolinit's user may. What earlier starts left is moved there.
func TestSharedDirectory(t *testing.T) {
	needRoot(t)
	for name, change := range map[string]func(dir string) error{
		"everybody's": func(dir string) error { return os.Chmod(dir, 0o777) },
		"sticky":      func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) },
		"the group's": func(dir string) error { return os.Chmod(dir, 0o770) },
		"another's":   func(dir string) error { return os.Chown(dir, stranger, stranger) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, 1, 0, "old")
			must(t, change(dir))
			w := newWorld(t, dir, nil)
			own := filepath.Join(dir, "poolinit-0")
			if st, err := os.Stat(own); err != nil || st.Mode().Perm() != 0o700 || len(files(t, own, undelivered)) != 1 || len(files(t, dir, "d")) != 0 {
				t.Errorf("%v, %v, in it %q, beside it %q", st, err, files(t, own, ""), files(t, dir, ""))
			}
			w.serve()
			var c ipctest.Collector
			w.Worker(ipctest.Answering(c.Add))
			c.Expect(t, "old")
			w.stop()
			must(t, os.Chmod(own, 0o777)) // as Kubernetes does with fsGroup
			w = newWorld(t, dir, nil)
			if st, err := os.Stat(own); err != nil || st.Mode().Perm() != 0o700 {
				t.Errorf("at the next start: %v, %v", st, err)
			}
			if _, err := Open(Config{Dir: dir}, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "another poolinit uses it") {
				t.Errorf("a second one: %v", err)
			}
			if name := w.replay.Stats().Name; name != "spool://"+dir {
				t.Errorf("its source is %s", name)
			}
		})
	}
}

// In a directory that all may write to, a stranger has made what poolinit would
// use: no link is followed, no file of others is written, no forged message is
// delivered, and a lock that the stranger has does not matter.
func TestStrangersFiles(t *testing.T) {
	needRoot(t)
	dir, roots := t.TempDir(), t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	put(t, dir, 1, 0, "forged")
	forged := files(t, dir, undelivered)[0]
	must(t, os.Chown(filepath.Join(dir, forged), stranger, stranger))
	precious := filepath.Join(roots, "precious")
	must(t, os.WriteFile(precious, []byte("text"), 0o600))
	strange := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Symlink(filepath.Join(roots, "created"), strange(".lock")))
	must(t, os.Symlink(precious, strange("probe.tmp")))
	must(t, os.Symlink("/etc/shadow", strange("20260101T000000.000000000Z-0000000003.undelivered")))
	must(t, os.Link(filepath.Join(roots, "precious"), strange("20260101T000000.000000000Z-0000000004.undelivered")))
	must(t, unix.Mkfifo(strange("20260101T000000.000000000Z-0000000002.undelivered"), 0o666))
	before := files(t, dir, "")

	w := newWorld(t, dir, nil)
	w.serve()
	<-w.served
	if len(w.spool.found) != 0 {
		t.Errorf("found %q", w.spool.found)
	}
	if text, err := os.ReadFile(precious); string(text) != "text" || err != nil {
		t.Errorf("a link was followed: %q %v", text, err)
	}
	if _, err := os.Lstat(filepath.Join(roots, "created")); err == nil {
		t.Error("the lock was made where a link points to")
	}
	if after := files(t, dir, ""); !slices.Equal(after, slices.Sorted(slices.Values(append(before, "poolinit-0")))) {
		t.Errorf("left %q of %q", after, before)
	}
	if n := strings.Count(w.Log.Text(), "file of another user in the spool, leaving it in place"); n != 4 {
		t.Errorf("%d lines:\n%s", n, w.Log.Text())
	}
}

// A stranger has been in poolinit's own directory, when others could write to it.
func TestStrangersFilesInOwnDirectory(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	forged := put(t, dir, 1, 0, "forged")
	must(t, os.Chown(filepath.Join(dir, forged), stranger, stranger))
	half := put(t, dir, 2, 0, "half")
	must(t, os.Chown(filepath.Join(dir, half), stranger, stranger))
	must(t, os.Rename(filepath.Join(dir, half), filepath.Join(dir, half+unfinished)))
	linked := put(t, dir, 3, 0, "linked")
	must(t, os.Link(filepath.Join(dir, linked), filepath.Join(t.TempDir(), "elsewhere")))
	put(t, dir, 4, 0, "good")
	w := newWorld(t, dir, nil)
	w.serve()
	var c ipctest.Collector
	w.Worker(ipctest.Answering(c.Add))
	c.Expect(t, "good")
	w.stop()
	if got := files(t, dir, undelivered); !slices.Equal(got, []string{forged, linked}) {
		t.Errorf("left %q", got)
	}
}

// What cannot be used safely is not used, with a reason that names it.
func TestStrangersDirectory(t *testing.T) {
	needRoot(t)
	for name, tt := range map[string]struct {
		make func(t *testing.T, dir string)
		want string
	}{
		"its directory is a stranger's": {func(t *testing.T, dir string) {
			must(t, os.Chmod(dir, 0o777))
			must(t, os.Mkdir(filepath.Join(dir, "poolinit-0"), 0o700))
			must(t, os.Chown(filepath.Join(dir, "poolinit-0"), stranger, stranger))
		}, fmt.Sprintf("poolinit-0 belongs to uid %d, and poolinit runs as uid 0: remove it, or choose another directory", stranger)},
		"its directory is a link": {func(t *testing.T, dir string) {
			must(t, os.Chmod(dir, 0o777))
			must(t, os.Symlink(t.TempDir(), filepath.Join(dir, "poolinit-0")))
		}, "poolinit-0 is not a directory of poolinit's own"},
		"its lock is a link": {func(t *testing.T, dir string) {
			must(t, os.Symlink(filepath.Join(t.TempDir(), "x"), filepath.Join(dir, lockName)))
		}, "too many levels of symbolic links"},
		"its lock is a stranger's": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, lockName), nil, 0o666))
			must(t, os.Chown(filepath.Join(dir, lockName), stranger, stranger))
		}, "remove it"},
		"its lock is a pipe": {func(t *testing.T, dir string) {
			must(t, syscall.Mkfifo(filepath.Join(dir, lockName), 0o600))
		}, "remove it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tt.make(t, dir)
			s, err := Open(Config{Dir: dir}, zerolog.Nop())
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "cannot use the spool "+dir+": ") {
				t.Errorf("%v", err)
			}
		})
	}
}
