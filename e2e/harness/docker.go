package harness

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// Asks is docker exec, with its exit code.
func (c *Container) Asks(command ...string) Result {
	c.T.Helper()
	return RunClient(c.T, nil, append([]string{"docker", "exec", c.Name}, command...)...)
}

// AwaitAnswer waits until docker exec ends with 0.
func (c *Container) AwaitAnswer(command ...string) (got Result) {
	c.T.Helper()
	testkit.Eventually(c.T, fmt.Sprintf("%q succeeds", command), func() (any, bool) {
		got = c.Asks(command...)
		return got, got.Code == 0
	})
	return got
}

// imageName has the test's PID, so that the images of two packages do not meet.
var imageName = fmt.Sprintf("poolinit-e2e:%d", os.Getpid())

// imageTools are in the image, if they are on the host.
var imageTools = []string{"bash", "sh", "sleep", "true", "false", "cat", "ls", "ps", "stty", "kill", "id", "env", "tini"}

// NeedDocker skips the test unless there is a docker daemon.
func NeedDocker(t testing.TB) {
	t.Helper()
	Need(t, "docker", "ldd")
	if out, err := exec.Command("docker", "version").CombinedOutput(); err != nil {
		strict.Skip(t, "no docker daemon: %s", out)
	}
}

// Image returns the name of an image that has poolinit as /poolinit, the
// test binary as /e2e.test, and imageTools where the host has them. Nothing is
// pulled. It is made once, and removed after the last test.
func Image(t testing.TB) string {
	t.Helper()
	NeedDocker(t)
	Binary(t) // its own failure, if it cannot be built
	if err := importImage(); err != nil {
		t.Fatal(err)
	}
	return imageName
}

var importImage = sync.OnceValue(func() error {
	binary, err := BinaryPath()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	rootfs, err := packImage(binary, self)
	if err != nil {
		return err
	}
	cmd := exec.Command("docker", "import", "-", imageName)
	cmd.Stdin = bytes.NewReader(rootfs)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %w\n%s", err, out)
	}
	atEnd.add(func() { _ = exec.Command("docker", "rmi", "-f", imageName).Run() })
	return nil
})

// Docker runs the client and returns what it printed.
func Docker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = exit.Stderr
		}
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// ContainerName returns a new name. A container of that name is removed when the
// test ends.
func ContainerName(t testing.TB) string {
	name := fmt.Sprintf("poolinit-e2e-%d-%08x", os.Getpid(), rand.Uint32())
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "-f", name).Run() })
	return name
}

// A Container runs in the background.
type Container struct {
	T    testing.TB
	Name string
}

// ContainerOf is a container that runs already.
func ContainerOf(t testing.TB, name string) *Container { return &Container{t, name} }

// RunContainer starts a container: docker run -d, the options, the image, the command.
func RunContainer(t testing.TB, options []string, command ...string) *Container {
	t.Helper()
	return RunContainerOf(t, Image(t), options, command...)
}

// RunContainerOf is RunContainer with another image.
func RunContainerOf(t testing.TB, image string, options []string, command ...string) *Container {
	t.Helper()
	c := ContainerOf(t, ContainerName(t))
	args := append([]string{"run", "-d", "--name", c.Name}, options...)
	Docker(t, append(append(args, image), command...)...)
	return c
}

// Inspect is docker inspect -f.
func (c *Container) Inspect(format string) string {
	c.T.Helper()
	return Docker(c.T, "inspect", "-f", format, c.Name)
}

// Logs returns stdout and stderr together.
func (c *Container) Logs() string {
	out, _ := exec.Command("docker", "logs", c.Name).CombinedOutput()
	return string(out)
}

// Exec is docker exec; another exit code than 0 is a failure.
func (c *Container) Exec(command ...string) string {
	c.T.Helper()
	return Docker(c.T, append([]string{"exec", c.Name}, command...)...)
}

// Kill is docker kill -s.
func (c *Container) Kill(signal string) { c.T.Helper(); Docker(c.T, "kill", "-s", signal, c.Name) }

// Stop is docker stop -t.
func (c *Container) Stop(seconds int) {
	c.T.Helper()
	Docker(c.T, "stop", "-t", fmt.Sprint(seconds), c.Name)
}

// Wait returns the exit code.
func (c *Container) Wait() string { c.T.Helper(); return Docker(c.T, "wait", c.Name) }

// packImage makes the root file system.
func packImage(poolinit, self string) ([]byte, error) {
	var out bytes.Buffer
	w := NewImageWriter(&out)
	w.Program("/poolinit", poolinit)
	w.Program("/e2e.test", self)
	for _, tool := range imageTools {
		if path, err := exec.LookPath(tool); err == nil {
			w.Program(path, path)
			w.Program(filepath.Join("/bin", tool), path)
		}
	}
	w.Text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nworker:x:1000:1000::/:/bin/sh\n")
	w.Text("/etc/group", "root:x:0:\nworker:x:1000:\n")
	w.Dir("/tmp", 0o1777)
	return out.Bytes(), w.Close()
}

// An ImageWriter writes files into the archive, with what they need to run.
type ImageWriter struct {
	tar  *tar.Writer
	done map[string]bool
	time time.Time // of the files
	err  error     // the first one
}

// NewImageWriter writes an archive to w.
func NewImageWriter(to io.Writer) *ImageWriter {
	return &ImageWriter{tar: tar.NewWriter(to), done: map[string]bool{}}
}

// Close ends the archive, and returns the first error there was.
func (w *ImageWriter) Close() error { return errors.Join(w.err, w.tar.Close()) }

// Fail keeps an error for close.
func (w *ImageWriter) Fail(err error) { w.err = errors.Join(w.err, err) }

// SetTime sets the time of the files that follow.
func (w *ImageWriter) SetTime(at time.Time) { w.time = at }

// Program adds an executable and the libraries that ldd finds for it.
func (w *ImageWriter) Program(path, source string) {
	w.File(path, source)
	out, err := exec.Command("ldd", source).Output()
	if err != nil {
		return // static
	}
	for word := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(word, "/") {
			w.File(word, word)
		}
	}
}

// File adds a file of the host as an executable.
func (w *ImageWriter) File(path, source string) {
	if w.err != nil || w.done[path] {
		return
	}
	f, err := os.Open(source)
	if err != nil {
		w.err = err
		return
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		w.err = err
		return
	}
	w.add(&tar.Header{Name: path[1:], Mode: 0o755, Size: fi.Size(), Typeflag: tar.TypeReg}, f)
}

// Text adds a file with this content.
func (w *ImageWriter) Text(path, content string) {
	w.add(&tar.Header{Name: path[1:], Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}, strings.NewReader(content))
}

// Dir adds an empty directory.
func (w *ImageWriter) Dir(path string, mode int64) {
	w.add(&tar.Header{Name: path[1:] + "/", Mode: mode, Typeflag: tar.TypeDir}, strings.NewReader(""))
}

func (w *ImageWriter) add(h *tar.Header, content io.Reader) {
	if w.err != nil {
		return
	}
	w.done["/"+h.Name] = true
	h.ModTime = w.time
	if w.err = w.tar.WriteHeader(h); w.err == nil {
		_, w.err = io.Copy(w.tar, content)
	}
}

// Programs adds executables by their names, and their libraries.
func (w *ImageWriter) Programs(names ...string) {
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			w.err = errors.Join(w.err, err)
			return
		}
		w.Program(filepath.Join("/bin", name), path)
	}
}

// Tree adds the files below a directory of the host, except those that skip names.
func (w *ImageWriter) Tree(path, source string, skip func(name string, d fs.DirEntry) bool) {
	err := filepath.WalkDir(source, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case skip(name, d) && d.IsDir():
			return filepath.SkipDir
		case skip(name, d) || !d.Type().IsRegular():
			return nil
		}
		w.File(filepath.Join(path, strings.TrimPrefix(name, source)), name)
		return w.err
	})
	w.err = errors.Join(w.err, err)
}

// Script adds a shell script.
func (w *ImageWriter) Script(path, text string) {
	text = "#!/bin/sh\n" + text
	w.add(&tar.Header{Name: path[1:], Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}, strings.NewReader(text))
}

// DockerPatience is for docker stop and the like: long after it, docker kills.
const DockerPatience = 120

// DockerPool starts poolinit as the PID 1 of a container. Its workers are
// WorkerChild with these words.
func DockerPool(t *testing.T, options, flags []string, words ...string) *Container {
	t.Helper()
	command := append(append([]string{"/poolinit"}, flags...), "--", "/e2e.test")
	return RunContainer(t, append(options, "-e", "TEST_CHILD="+WorkerChild), append(command, words...)...)
}

// ExpectLog waits until the log has the text this many times, or more often.
func (c *Container) ExpectLog(text string, times int) {
	c.T.Helper()
	testkit.Eventually(c.T, fmt.Sprintf("%q in the container's log, %d times", text, times), func() (any, bool) {
		logs := c.Logs()
		return logs, strings.Count(logs, text) >= times
	})
}
