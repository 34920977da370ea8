package reaper

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

func TestExecErrors(t *testing.T) {
	r := newTest(t, nil)
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := file("a/plain", "exit 1", 0o644)
	lost := file("a/lost", "#!/no/such/interpreter\n", 0o755)
	file("a/both", "", 0o644)
	file("b/both", "exit 5", 0o755)
	file("b/lost", "exit 6", 0o755)
	script := file("b/script", "test \"$1\" = x && exit 7", 0o755)
	file("c/d/both", "exit 8", 0o755)
	if err := os.Symlink(filepath.Join(dir, "c/d"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	const started = -1

	for _, c := range []struct {
		name, command, path string
		exit                int // ExitCode of the error, or started
		errno               syscall.Errno
		is                  error
		says                string
		status              int // of what was started
	}{
		{"absent", "/no/such", a, 127, syscall.ENOENT, fs.ErrNotExist, "no such file there", 0},
		{"absent in PATH", "no-such", a + ":" + b, 127, syscall.ENOENT, fs.ErrNotExist, "no such file in $PATH", 0},
		{"empty", "", a, 127, syscall.ENOENT, fs.ErrNotExist, "", 0},
		{"directory", dir, a, 126, syscall.EACCES, fs.ErrPermission, "is a directory", 0},
		{"directory in PATH", "a", dir, 126, syscall.EACCES, fs.ErrPermission, "is a directory", 0},
		{"not executable", plain, a, 126, syscall.EACCES, fs.ErrPermission, "permission denied", 0},
		{"not executable in PATH", "plain", b + ":" + a, 126, syscall.EACCES, fs.ErrPermission, "permission denied", 0},
		{"not executable, then found", "both", a + ":" + b, started, 0, nil, "", 5},
		{"no interpreter", lost, a, 127, syscall.ENOENT, nil, "interpreter", 0},
		{"no interpreter, then found", "lost", a + ":" + b, started, 0, nil, "", 6},
		{"below a file", plain + "/x", a, 126, syscall.ENOTDIR, nil, "not a directory", 0},
		{"a file in PATH", "both", plain + ":" + b, started, 0, nil, "", 5},
		{"script without #!", script, a, started, 0, nil, "", 7},
		{"script without #! in PATH", "script", b, started, 0, nil, "", 7},
		{"PATH with ..", "both", filepath.Join(dir, "link") + "/../d", started, 0, nil, "", 8},
		{"too long", "/" + strings.Repeat("x", 5000), a, 126, syscall.ENAMETOOLONG, nil, "too long", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := r.Start(&Spec{Args: []string{c.command, "x"}, Env: []string{"PATH=" + c.path}, Files: []uintptr{0, 1, 2}})
			if c.exit == started {
				if err != nil {
					t.Fatal(err)
				}
				testkit.Wait(t, "exit", p.Exited())
				if got := p.Exit().Status(); got != c.status {
					t.Errorf("status %d, want %d", got, c.status)
				}
				return
			}
			if err == nil {
				t.Fatal("started")
			}
			if ExitCode(err) != c.exit || Errno(err) != c.errno || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v: exit code %d, errno %d (%v)", err, ExitCode(err), Errno(err), Errno(err))
			}
		})
	}
	expectEmpty(t, r)
}

// An empty element of PATH is the current directory, and no PATH is execvp's.
func TestPathSearch(t *testing.T) {
	r := newTest(t, nil)
	t.Chdir(t.TempDir())
	if err := os.WriteFile("here", []byte("exit 9"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		command string
		env     []string
		status  int
	}{
		{"here", []string{"PATH="}, 9},
		{"here", []string{"PATH=/no:"}, 9},
		{"here", []string{"PATH=:/no"}, 9},
		{"here", []string{"PATH=."}, 9},
		{"./here", nil, 9},
		{"true", nil, 0},
		{"false", []string{"OTHERPATH=x"}, 1},
	} {
		p, err := r.Start(&Spec{Args: []string{c.command}, Env: c.env})
		if err != nil {
			t.Errorf("%v: %v", c, err)
			continue
		}
		testkit.Wait(t, "exit", p.Exited())
		if got := p.Exit().Status(); got != c.status {
			t.Errorf("%v: status %d", c, got)
		}
	}
	if _, err := r.Start(&Spec{Args: []string{"here"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without PATH the current directory was searched: %v", err)
	}
}

// A program that was started with signals ignored and blocked, and few
// descriptors, starts even its first child as if nothing had been.
func TestChildInheritsNothingIgnored(t *testing.T) {
	r := newTest(t, nil)
	out, p := output(t, r, play("handed"))
	if p.Exit().Status() != 0 {
		t.Fatalf("exit code %d: %s", p.Exit().Status(), out)
	}
	for _, want := range []string{"SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in:\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max open files") && (f[3] != "123" || f[4] != "456") {
			t.Errorf("want 123 and 456: %s", line)
		}
	}
}

func TestSealFiles(t *testing.T) {
	r := newTest(t, nil)
	if out, _ := output(t, r, play("sealed")); out != "[0 1 2 3]\n" {
		t.Errorf("open in the child: %s", out)
	}
}

func TestCredential(t *testing.T) {
	if os.Getuid() != 0 {
		strict.Skip(t, "only root can change to another user")
	}
	r := newTest(t, nil)
	out, _ := output(t, r, &Spec{Args: []string{"cat", "/proc/self/status"}, Files: []uintptr{0, 1, 2},
		Credential: &syscall.Credential{Uid: 1234, Gid: 2345, Groups: []uint32{3456}}})
	for _, want := range []string{"Uid:\t1234\t1234\t1234\t1234", "Gid:\t2345\t2345\t2345\t2345", "Groups:\t3456 \n"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in:\n%s", want, out)
		}
	}
}

// If the program dies its child is killed, and comes to us, a subreaper.
func TestDeathSignal(t *testing.T) {
	type orphan struct {
		pid  int
		exit Exit
	}
	orphans := make(chan orphan, 10) // more than there will be
	r := newTest(t, func(pid int, exit Exit) { orphans <- orphan{pid, exit} })
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	spec := play("parent")
	spec.Files[1] = writing.Fd()
	parent := start(t, r, spec)
	writing.Close()
	line, err := bufio.NewReader(reading).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "exit", parent.Exited())
	got := <-orphans
	if fmt.Sprintln(got.pid) != line || got.exit.Signal != syscall.SIGKILL {
		t.Errorf("orphan %d ended with %+v; want %s killed", got.pid, got.exit, line)
	}
}
