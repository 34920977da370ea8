package harness

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// children are the programs that the test binary plays when testkit's variable
// names one.
var children = testkit.Children{}

// Child adds a program that the test binary plays, and returns its name for
// Program.Child. It gets the arguments and returns the exit code. A variable of
// the test's package calls it:
//
//	var sayChild = harness.Child("say", func(args []string) int { ... })
func Child(name string, main func(args []string) int) string {
	if children[name] != nil {
		panic("two children called " + name)
	}
	children[name] = main
	return name
}

// Main is what each package's TestMain calls, with os.Exit around it.
func Main(m *testing.M) int {
	os.Unsetenv("POOLINIT_E2E") // strict has read it; poolinit would warn that it is no setting
	defer atEnd.run()
	return children.Main(m)
}

// AtEnd adds what Main does after the last test.
func AtEnd(do func()) { atEnd.add(do) }

var atEnd cleanups

type cleanups struct {
	mu sync.Mutex
	do []func()
}

func (c *cleanups) add(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.do = append(c.do, f)
}

func (c *cleanups) run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.do {
		f()
	}
}

// BinaryPath builds poolinit as it is released. E2E_BINARY names one that is there
// already.
var BinaryPath = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("E2E_BINARY"); path != "" {
		return filepath.Abs(path)
	}
	return buildShared("poolinit", func(path string) *exec.Cmd {
		build := exec.Command("../../tools/build.sh", path)
		build.Env = append(os.Environ(), "VERSION=v0.0.0-e2e")
		return build
	})
})

// buildShared builds a program once for all packages of tests, with a command that
// writes it to a path. The program lies where every user can run it, and stays
// there for the next run: the go command sees whether anything has changed.
func buildShared(name string, command func(path string) *exec.Cmd) (path string, err error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	dir, err := ownDir(fmt.Sprintf("poolinit-e2e-%d-%.4x", os.Getuid(), sha256.Sum256([]byte(root))))
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if out, err := command(path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// ownDir makes a directory among the temporary ones, or finds the one that an
// earlier run made. One that belongs to another user is an error.
func ownDir(name string) (string, error) {
	dir := filepath.Join(os.TempDir(), name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if st := fi.Sys().(*syscall.Stat_t); !fi.IsDir() || int(st.Uid) != os.Getuid() {
		return "", fmt.Errorf("%s is not a directory of this user", dir)
	}
	return dir, os.Chmod(dir, 0o755) // other users run what is in it
}

// Binary returns the path of the binary.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := BinaryPath()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Named returns the path of a symbolic link to the binary with that name.
func Named(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(Binary(t), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Self returns the path of the test binary, for a child.
func Self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Need skips the test unless the tools are installed.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			strict.Skip(t, "%s is not installed", tool)
		}
	}
}
