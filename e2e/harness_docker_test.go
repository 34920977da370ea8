package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/strict"
)

// The image is called by the test's PID, so that two runs do not meet.
var imageName = fmt.Sprintf("poolinit-e2e:%d", os.Getpid())

// imageTools are in the image, if they are on the host. Whoever needs another
// one adds it here.
var imageTools = []string{"bash", "sh", "sleep", "true", "false", "cat", "ls", "ps", "stty", "kill", "id", "env", "tini"}

// needDocker skips the test unless there is a docker daemon.
func needDocker(t testing.TB) {
	t.Helper()
	need(t, "docker", "ldd")
	if out, err := exec.Command("docker", "version").CombinedOutput(); err != nil {
		strict.Skip(t, "no docker daemon: %s", out)
	}
}

// dockerImage returns the name of an image that has poolinit as /poolinit, the
// test binary as /e2e.test, and imageTools where the host has them. Nothing is
// pulled. It is made once, and removed after the last test.
func dockerImage(t testing.TB) string {
	t.Helper()
	needDocker(t)
	poolinit(t) // its own failure, if it cannot be built
	if err := importImage(); err != nil {
		t.Fatal(err)
	}
	return imageName
}

var importImage = sync.OnceValue(func() error {
	binary, err := built()
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

// docker runs the client and returns what it printed.
func docker(t testing.TB, args ...string) string {
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

// containerName returns a new name, and sees to it that no container of that
// name is left when the test ends.
func containerName(t testing.TB) string {
	name := fmt.Sprintf("poolinit-e2e-%d-%08x", os.Getpid(), rand.Uint32())
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "-f", name).Run() })
	return name
}

// A container runs in the background.
type container struct {
	t    testing.TB
	name string
}

// containerOf is a container that runs already.
func containerOf(t testing.TB, name string) *container { return &container{t, name} }

// dockerRun starts a container: docker run -d, the options, the image, the command.
func dockerRun(t testing.TB, options []string, command ...string) *container {
	t.Helper()
	return dockerRunImage(t, dockerImage(t), options, command...)
}

// dockerRunImage is dockerRun with another image.
func dockerRunImage(t testing.TB, image string, options []string, command ...string) *container {
	t.Helper()
	c := containerOf(t, containerName(t))
	args := append([]string{"run", "-d", "--name", c.name}, options...)
	docker(t, append(append(args, image), command...)...)
	return c
}

func (c *container) inspect(format string) string {
	c.t.Helper()
	return docker(c.t, "inspect", "-f", format, c.name)
}

// logs returns stdout and stderr together.
func (c *container) logs() string {
	out, _ := exec.Command("docker", "logs", c.name).CombinedOutput()
	return string(out)
}

func (c *container) exec(command ...string) string {
	c.t.Helper()
	return docker(c.t, append([]string{"exec", c.name}, command...)...)
}

func (c *container) kill(signal string) { c.t.Helper(); docker(c.t, "kill", "-s", signal, c.name) }

func (c *container) stop(seconds int) {
	c.t.Helper()
	docker(c.t, "stop", "-t", fmt.Sprint(seconds), c.name)
}

// wait returns the exit code.
func (c *container) wait() string { c.t.Helper(); return docker(c.t, "wait", c.name) }

// packImage makes the root file system.
func packImage(poolinit, self string) ([]byte, error) {
	var out bytes.Buffer
	w := newImageWriter(&out)
	w.program("/poolinit", poolinit)
	w.program("/e2e.test", self)
	for _, tool := range imageTools {
		if path, err := exec.LookPath(tool); err == nil {
			w.program(path, path)
			w.program(filepath.Join("/bin", tool), path)
		}
	}
	w.text("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nworker:x:1000:1000::/:/bin/sh\n")
	w.text("/etc/group", "root:x:0:\nworker:x:1000:\n")
	w.dir("/tmp", 0o1777)
	return out.Bytes(), w.close()
}

// An imageWriter writes files into the archive, with what they need to run.
type imageWriter struct {
	tar  *tar.Writer
	done map[string]bool
	time time.Time // of the files
	err  error     // the first one
}

func newImageWriter(to io.Writer) *imageWriter {
	return &imageWriter{tar: tar.NewWriter(to), done: map[string]bool{}}
}

// close ends the archive, and returns the first error there was.
func (w *imageWriter) close() error { return errors.Join(w.err, w.tar.Close()) }

// fail keeps an error for close.
func (w *imageWriter) fail(err error) { w.err = errors.Join(w.err, err) }

// setTime sets the time of the files that follow.
func (w *imageWriter) setTime(at time.Time) { w.time = at }

// program adds an executable and the libraries that ldd finds for it.
func (w *imageWriter) program(path, source string) {
	w.file(path, source)
	out, err := exec.Command("ldd", source).Output()
	if err != nil {
		return // static
	}
	for word := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(word, "/") {
			w.file(word, word)
		}
	}
}

func (w *imageWriter) file(path, source string) {
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

func (w *imageWriter) text(path, content string) {
	w.add(&tar.Header{Name: path[1:], Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}, strings.NewReader(content))
}

func (w *imageWriter) dir(path string, mode int64) {
	w.add(&tar.Header{Name: path[1:] + "/", Mode: mode, Typeflag: tar.TypeDir}, strings.NewReader(""))
}

func (w *imageWriter) add(h *tar.Header, content io.Reader) {
	if w.err != nil {
		return
	}
	w.done["/"+h.Name] = true
	h.ModTime = w.time
	if w.err = w.tar.WriteHeader(h); w.err == nil {
		_, w.err = io.Copy(w.tar, content)
	}
}
