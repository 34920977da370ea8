package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// The image that the Dockerfile makes.

// imageFiles returns the files of an image, by their names.
func imageFiles(t *testing.T, image string) map[string][]byte {
	t.Helper()
	name := harness.ContainerName(t)
	harness.Docker(t, "create", "--name", name, image)
	out, err := exec.Command("docker", "export", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg && h.Size > 0 { // docker adds empty ones, to mount its own over them
			if files["/"+h.Name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestImage(t *testing.T) {
	image := productImage(t)
	files := imageFiles(t, image)
	if names := slices.Sorted(maps.Keys(files)); !slices.Equal(names, []string{"/LICENSES", "/poolinit"}) {
		t.Errorf("files: %q", names)
	}
	total := 0
	for _, content := range files {
		total += len(content)
	}
	if total > 10_600_000 {
		t.Errorf("%d bytes", total)
	}
	binary := files["/poolinit"]
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		t.Fatal(err)
	}
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 || f.Section(".symtab") != nil {
		t.Errorf("not static and stripped: %v %v", libs, err)
	}
	for _, module := range []string{"poolinit: LICENSE", "Go: LICENSE", "github.com/rs/zerolog ", "golang.org/x/sys "} {
		if !bytes.Contains(files["/LICENSES"], []byte("\n"+module)) && !bytes.HasPrefix(files["/LICENSES"], []byte(module)) {
			t.Errorf("no %q in /LICENSES", module)
		}
	}
	// Whoever builds that version elsewhere has the same file.
	if here := releaseBuild(t); sha256.Sum256(binary) != sha256.Sum256(here) {
		t.Errorf("the image's binary is %x, built here it is %x", sha256.Sum256(binary), sha256.Sum256(here))
	}
}

// releaseBuild returns the binary as it is released, built here.
func releaseBuild(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "poolinit")
	build := exec.Command("../../tools/build.sh", path)
	build.Env = append(os.Environ(), "VERSION="+imageVersion, "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestImageConfig(t *testing.T) {
	image := productImage(t)
	type config struct {
		User, StopSignal      string
		Env, Entrypoint, Cmd  []string
		ExposedPorts, Volumes map[string]struct{}
		Labels                map[string]string
		Healthcheck           struct{ Test []string }
	}
	var got, want config
	text := harness.Docker(t, "image", "inspect", "-f", "{{json .Config}}", image)
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	labels := got.Labels
	got.Labels = nil
	got.Env = slices.DeleteFunc(got.Env, func(v string) bool { return strings.HasPrefix(v, "PATH=") })
	want = config{
		User: "65532:65532", StopSignal: "SIGTERM", Entrypoint: []string{"/poolinit"},
		Env:          []string{"POOLINIT_LISTEN=tcp://:8089", "POOLINIT_HTTP=:9090"},
		ExposedPorts: map[string]struct{}{"8089/tcp": {}, "9090/tcp": {}},
	}
	want.Healthcheck.Test = []string{"CMD", "/poolinit", "health"}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("config:\n%+v, want\n%+v", got, want)
	}
	for _, name := range []string{"title", "description", "url", "source", "documentation", "licenses"} {
		if labels["org.opencontainers.image."+name] == "" {
			t.Errorf("no label %s: %q", name, labels)
		}
	}
	if version := labels["org.opencontainers.image.version"]; version != imageVersion {
		t.Errorf("version %q", version)
	}
	if arch := harness.Docker(t, "image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", image); arch != "linux/"+runtime.GOARCH {
		t.Errorf("it is for %s", arch)
	}
}

// What built the image has left no trace in it: no directory, no variable of the
// builder, no name.
func TestImageHistory(t *testing.T) {
	image := productImage(t)
	history := harness.Docker(t, "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
	if n := strings.Count(history, "COPY"); n != 1 {
		t.Errorf("%d layers with files", n)
	}
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	trace := history + harness.Docker(t, "image", "inspect", image) + string(imageFiles(t, image)["/poolinit"])
	for _, text := range []string{here, "GOPROXY=", "GOCACHE=", "/stand-in/"} {
		if strings.Contains(trace, text) {
			t.Errorf("%q is in it:\n%s", text, history)
		}
	}
}
