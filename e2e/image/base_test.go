package image

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
)

// The images that Dockerfiles begin with cannot be pulled where there is no
// registry. So that the Dockerfiles are built as they are, stand-ins are made of
// what the host has. They go by the names of the real ones only while something
// is built, and only where the real ones are absent.

// imageLabel marks the stand-ins, and by inheritance what is built from them.
const imageLabel = "poolinit-e2e"

// A standIn is an image that stands for real ones.
type standIn struct {
	name string   // of its repository
	real []string // what it stands for
	made string   // what it is made of: with another one it is made anew
	pack func(w *harness.ImageWriter) error
	conf []string // docker import --change
}

// image returns the stand-in's name. It is made once, and kept for the next run.
func (s *standIn) image(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("poolinit-e2e/%s:%.12x", s.name, sha256.Sum256([]byte(s.made)))
	if exec.Command("docker", "image", "inspect", name).Run() == nil {
		return name
	}
	args := []string{"import", "--change", "LABEL " + imageLabel + "=yes"}
	for _, c := range s.conf {
		args = append(args, "--change", c)
	}
	load := exec.Command("docker", append(args, "-", name)...)
	in, err := load.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	load.Stdout, load.Stderr = &out, &out
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	w := harness.NewImageWriter(in)
	w.Dir("/tmp", 0o1777)
	err = errors.Join(s.pack(w), w.Close(), in.Close(), load.Wait())
	if err != nil {
		_ = exec.Command("docker", "rmi", name).Run() // half of one
		t.Fatalf("cannot make %s: %v\n%s", name, err, out.String())
	}
	for other := range strings.FieldsSeq(harness.Docker(t, "images", "--format", "{{.Repository}}:{{.Tag}}", "poolinit-e2e/"+s.name)) {
		if other != name {
			_ = exec.Command("docker", "rmi", other).Run()
		}
	}
	return name
}

// goBase stands for golang:1.26. It has what the real one has and the
// Dockerfiles use, the modules, so that nothing is downloaded, and the packages
// that the host has compiled already.
func goBase(t testing.TB) *standIn {
	t.Helper()
	goroot, version := goEnv(t, "GOROOT"), goEnv(t, "GOVERSION")
	made := []string{version, goEnv(t, "GOARCH"), "3"}
	for _, name := range []string{"../../go.sum", "../../tools/build.sh"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, string(text))
	}
	standard := standardPackages(t)
	made = append(made, standard...)
	return &standIn{
		name: "golang",
		real: []string{"golang:1.26"},
		made: strings.Join(made, "\n"),
		conf: []string{
			"ENV PATH=/usr/local/go/bin:/usr/bin:/bin", "ENV GOPATH=/go", "ENV GOTOOLCHAIN=local",
			"ENV GOPROXY=file:///stand-in/proxy", "ENV GOCACHE=/stand-in/cache", "WORKDIR /go",
		},
		pack: func(w *harness.ImageWriter) error {
			w.Programs("sh", "dirname", "realpath", "cat")
			w.Tree("/usr/local/go", goroot, notForBuilding)
			packages(w, goroot, standard)
			cache, err := compiled(t)
			if err != nil {
				return err
			}
			w.SetTime(time.Now().AddDate(50, 0, 0)) // what is old the go command removes
			w.Tree("/stand-in/cache", cache, func(string, fs.DirEntry) bool { return false })
			return modules(w, t)
		},
	}
}

func goEnv(t testing.TB, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// notForBuilding is most of Go's directory, and the packages, which are added one
// by one: docker's builder looks at every file after every step.
func notForBuilding(name string, d fs.DirEntry) bool {
	switch d.Name() {
	case "api", "doc", "misc", "src", "test", ".git":
		return true
	case "gofmt", "cgo", "cover", "fix", "preprofile", "vet":
		return !d.IsDir() // programs
	}
	return false
}

// standardPackages returns the directories of the packages of the standard library
// that are needed.
func standardPackages(t testing.TB) []string {
	t.Helper()
	dirs := map[string]bool{}
	for _, module := range []string{"../..", "../../deploy/docker/go"} {
		list := exec.Command("go", "list", "-deps", "-tags", "nethttpomithttp2", "-f", "{{if .Standard}}{{.Dir}}{{end}}", ".")
		list.Dir = module
		list.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		out, err := list.Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for dir := range strings.FieldsSeq(string(out)) {
			dirs[dir] = true
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}

// packages adds packages of the standard library.
func packages(w *harness.ImageWriter, goroot string, dirs []string) {
	for _, dir := range dirs {
		w.Tree(filepath.Join("/usr/local/go", strings.TrimPrefix(dir, goroot)), dir, func(name string, d fs.DirEntry) bool {
			return d.IsDir() && name != dir || strings.HasSuffix(name, "_test.go")
		})
	}
	for _, name := range []string{"go.mod", "go.sum", "vendor/modules.txt"} {
		w.File("/usr/local/go/src/"+name, filepath.Join(goroot, "src", name))
	}
}

// modules adds a module proxy's directory of what go.sum names.
func modules(w *harness.ImageWriter, t testing.TB) error {
	t.Helper()
	download := exec.Command("go", "mod", "download")
	download.Dir = "../.."
	if out, err := download.CombinedOutput(); err != nil {
		return fmt.Errorf("go mod download: %w\n%s", err, out)
	}
	sums, err := os.ReadFile("../../go.sum")
	if err != nil {
		return err
	}
	cache := filepath.Join(goEnv(t, "GOMODCACHE"), "cache", "download")
	for line := range strings.Lines(string(sums)) {
		fields := strings.Fields(line)
		version, modOnly := strings.CutSuffix(fields[1], "/go.mod")
		base := filepath.Join(escaped(fields[0]), "@v", escaped(version))
		for _, ext := range []string{".info", ".mod", ".zip"} {
			source := filepath.Join(cache, base+ext)
			if _, err := os.Stat(source); err == nil && !(modOnly && ext == ".zip") {
				w.File(filepath.Join("/stand-in/proxy", base+ext), source)
			}
		}
	}
	return nil
}

// escaped is a module's path or version as file names have it: an exclamation
// mark before each capital.
func escaped(s string) string {
	var b strings.Builder
	for _, r := range s {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}
