package image

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// What `make release` makes.

const releaseVersion = "v9.8.7"

// makeRelease makes a release, and returns its directory. The first one compiles
// the tools for it, which takes a minute: only make test-release and CI have it.
func makeRelease(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dist")
	release := exec.Command("../../tools/release/release.sh", dir)
	release.Env = append(os.Environ(), "VERSION="+releaseVersion, "SOURCE_DATE_EPOCH=1700000000")
	if out, err := release.CombinedOutput(); err != nil {
		t.Fatalf("release.sh: %v\n%s", err, out)
	}
	return dir
}

// contents reads a directory.
func contents(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files[name], err = os.ReadFile(filepath.Join(dir, name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestRelease(t *testing.T) {
	if !strict.On && os.Getenv("RELEASE") == "" {
		t.Skip("make test-release runs it") // no lack: CI runs it
	}
	harness.Need(t, "dpkg", "dpkg-deb", "rpm", "tar", "gzip", "sha256sum")
	dir := makeRelease(t)
	files := contents(t, dir)

	t.Run("files", func(t *testing.T) {
		var want []string
		for _, arch := range [][2]string{{"amd64", "x86_64"}, {"arm64", "aarch64"}} {
			want = append(want, "poolinit-linux-"+arch[0], "poolinit-linux-"+arch[0]+".cdx.json", "poolinit-9.8.7-linux-"+arch[0]+".tar.gz",
				"poolinit_9.8.7_"+arch[0]+".deb", "poolinit-9.8.7-1."+arch[1]+".rpm", "poolinit_9.8.7_"+arch[1]+".apk")
		}
		for _, name := range append(want, "SHA256SUMS") {
			if len(files[name]) == 0 {
				t.Errorf("there is no %s", name)
			}
		}
		if len(files) != len(want)+1 {
			t.Errorf("%d files: %q", len(files), slices.Sorted(maps.Keys(files)))
		}
		sums := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
		sums.Dir = dir
		if out, err := sums.Output(); err != nil || strings.Count(string(out), ": OK") != len(want) {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("again", func(t *testing.T) {
		for name, content := range contents(t, makeRelease(t)) {
			if sha256.Sum256(content) != sha256.Sum256(files[name]) {
				t.Errorf("%s is another one the second time", name)
			}
		}
	})
	t.Run("sbom", func(t *testing.T) { checkSBOM(t, files["poolinit-linux-arm64.cdx.json"]) })
	t.Run("deb", func(t *testing.T) { installDeb(t, filepath.Join(dir, "poolinit_9.8.7_"+runtime.GOARCH+".deb")) })
	t.Run("rpm", func(t *testing.T) {
		path := filepath.Join(dir, "poolinit-9.8.7-1.x86_64.rpm")
		list := strings.Join(answer(t, "rpm", "-qp", "--nosignature", "--list", path), "\n")
		for _, name := range []string{"/usr/bin/poolinit", "/usr/share/man/man1/poolinit.1.gz", "/usr/share/zsh/site-functions/_poolinit"} {
			if !strings.Contains(list, name) {
				t.Errorf("no %s in\n%s", name, list)
			}
		}
		if about := answer(t, "rpm", "-qp", "--nosignature", "--queryformat", "%{NAME} %{VERSION} %{LICENSE} %{BUILDHOST}", path); !slices.Equal(about, []string{"poolinit", "9.8.7", "MIT", "poolinit"}) {
			t.Errorf("it says %q", about)
		}
	})
	t.Run("apk", func(t *testing.T) {
		packed := untar(t, filepath.Join(dir, "poolinit_9.8.7_x86_64.apk"))
		if sha256.Sum256(packed["usr/bin/poolinit"]) != sha256.Sum256(files["poolinit-linux-amd64"]) {
			t.Errorf("it has another binary")
		}
		if info := string(packed[".PKGINFO"]); !regexp.MustCompile(`^([a-z]+ = .+\n)+$`).MatchString(info) || !strings.Contains(info, "pkgver = 9.8.7\n") {
			t.Errorf("info:\n%s", info)
		}
	})
	t.Run("archive", func(t *testing.T) {
		packed := untar(t, filepath.Join(dir, "poolinit-9.8.7-linux-arm64.tar.gz"))
		for _, name := range []string{"poolinit", "poolinit.1", "completions/poolinit.bash", "completions/_poolinit", "completions/poolinit.fish", "LICENSES"} {
			if len(packed["poolinit-9.8.7-linux-arm64/"+name]) == 0 {
				t.Errorf("there is no %s", name)
			}
		}
	})
}

// untar reads a tar.gz. The parts of an apk are one behind the other.
func untar(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// checkSBOM looks whether it names every module of the binary, and Go.
func checkSBOM(t *testing.T, text []byte) {
	t.Helper()
	var bom struct {
		BOMFormat string
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version, PURL string }
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	if c := bom.Metadata.Component; bom.BOMFormat != "CycloneDX" || c.Name != "github.com/poolinit/poolinit" || c.Version != releaseVersion {
		t.Errorf("it is about %+v", bom.Metadata)
	}
	var named []string
	for _, c := range bom.Components {
		named = append(named, c.Name+" "+c.Version)
	}
	out, err := exec.Command("go", "version", "-m", harness.Binary(t)).Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := regexp.MustCompile(`\tdep\t(\S+)\t(\S+)`).FindAllStringSubmatch(string(out), -1)
	for _, dep := range append(deps, []string{"", "std", runtime.Version()}) {
		if !slices.Contains(named, dep[1]+" "+dep[2]) {
			t.Errorf("%q is not in it: %q", dep[1:], named)
		}
	}
	if len(deps) < 3 {
		t.Errorf("the binary has only %q", deps)
	}
}

// installDeb installs the package into an empty directory, runs what is in it,
// and removes it.
func installDeb(t *testing.T, path string) {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg := func(args ...string) string {
		t.Helper()
		args = append([]string{"--root=" + root, "--log=/dev/null", "--force-not-root", "--force-bad-path", "--force-script-chrootless"}, args...)
		out, err := exec.Command("dpkg", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("dpkg %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	dpkg("--install", path)
	if status := dpkg("--status", "poolinit"); !strings.Contains(status, "Status: install ok installed") || !strings.Contains(status, "Version: 9.8.7\n") {
		t.Errorf("status:\n%s", status)
	}
	installed := contents(t, root)
	for _, name := range []string{
		"usr/bin/poolinit", "usr/share/man/man1/poolinit.1.gz", "usr/share/doc/poolinit/copyright", "usr/share/bash-completion/completions/poolinit",
		"usr/share/zsh/vendor-completions/_poolinit", "usr/share/fish/vendor_completions.d/poolinit.fish",
	} {
		if len(installed[name]) == 0 {
			t.Errorf("there is no %s", name)
		}
	}
	if got := strings.Join(answer(t, filepath.Join(root, "usr/bin/poolinit"), "version"), " "); got != "poolinit "+releaseVersion {
		t.Errorf("version: %q", got)
	}
	dpkg("--remove", "poolinit")
	for name := range contents(t, root) {
		if strings.HasPrefix(name, "usr/") {
			t.Errorf("%s is left", name)
		}
	}
}
