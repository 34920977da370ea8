package image

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
)

// imageVersion is what the image under test calls itself.
const imageVersion = "v0.0.0-test"

// productImage builds the Dockerfile as it is, once, and returns the image's name.
func productImage(t testing.TB) string {
	t.Helper()
	harness.NeedDocker(t)
	return buildOnce(t, "Dockerfile", func() []tag { return standIns(t, goBase(t)) })
}

// workerImage builds an image of deploy/docker, once, from the image under test.
func workerImage(t testing.TB, dockerfile string, base func(testing.TB) *standIn) string {
	t.Helper()
	product := productImage(t)
	return buildOnce(t, dockerfile, func() []tag {
		return append(standIns(t, base(t)), tag{name: "poolinit:latest", image: product, replace: true})
	})
}

// images are those that were built already, by their Dockerfiles.
var images struct {
	mu   sync.Mutex
	name map[string]string
}

// buildOnce builds a Dockerfile, which needs these names while it is built.
func buildOnce(t testing.TB, dockerfile string, tags func() []tag) string {
	t.Helper()
	images.mu.Lock()
	defer images.mu.Unlock()
	if name := images.name[dockerfile]; name != "" {
		return name
	}
	name := fmt.Sprintf("poolinit-e2e/built:%d-%d", os.Getpid(), len(images.name))
	if err := dockerBuild(tags(), dockerfile, name); err != nil {
		t.Fatal(err)
	}
	if images.name == nil {
		images.name = map[string]string{}
		harness.AtEnd(pruneImages)
	}
	images.name[dockerfile] = name
	return name
}

// pruneImages takes the names of what was built away. What the builds of earlier
// days left behind is removed; the last ones make the next build faster.
func pruneImages() {
	built, _ := exec.Command("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "poolinit-e2e/built").Output()
	for name := range strings.FieldsSeq(string(built)) {
		_, tag, _ := strings.Cut(name, ":")
		pid, _, _ := strings.Cut(tag, "-")
		if _, err := os.Stat("/proc/" + pid); err != nil || pid == strconv.Itoa(os.Getpid()) { // a run's that was killed, or our own
			_ = exec.Command("docker", "rmi", "--no-prune", name).Run()
		}
	}
	_ = exec.Command("docker", "image", "prune", "-f", "--filter", "label="+imageLabel, "--filter", "until=24h").Run()
}

// standIns returns the names that stand-ins have where the real images are
// absent.
func standIns(t testing.TB, images ...*standIn) (tags []tag) {
	t.Helper()
	for _, s := range images {
		image := s.image(t)
		for _, name := range s.real {
			tags = append(tags, tag{name: name, image: image})
		}
	}
	return tags
}

// dockerBuild builds one of the repository's Dockerfiles, as a user would from
// its root.
func dockerBuild(tags []tag, dockerfile, name string) error {
	return withTags(tags, func() error {
		build := exec.Command("docker", "build", "--force-rm", "-f", dockerfile, "-t", name,
			"--label", imageLabel+"=yes", "--build-arg", "VERSION="+imageVersion, ".")
		build.Dir = "../.."
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("docker build -f %s: %w\n%s", dockerfile, err, text)
		}
		return nil
	})
}

// A tag is a name that an image has while something is built.
type tag struct {
	name, image string
	replace     bool // what has that name already; else it stays
}

// withTags calls do while images have other names as well, and puts the names
// back. Only one process at a time does this: another one would find the names,
// and lose them halfway.
func withTags(tags []tag, do func() error) error {
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "poolinit-e2e-images.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	for _, tag := range tags {
		was, err := exec.Command("docker", "image", "inspect", "-f", "{{.Id}}", tag.name).Output()
		if err == nil && !tag.replace {
			continue
		}
		if out, err := exec.Command("docker", "tag", tag.image, tag.name).CombinedOutput(); err != nil {
			return fmt.Errorf("docker tag: %w\n%s", err, out)
		}
		restore := []string{"rmi", "-f", "--no-prune", tag.name}
		if err == nil {
			restore = []string{"tag", string(bytes.TrimSpace(was)), tag.name}
		}
		defer func() { _ = exec.Command("docker", restore...).Run() }()
	}
	return do()
}
