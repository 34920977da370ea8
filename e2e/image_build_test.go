package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// imageVersion is what the image under test calls itself.
const imageVersion = "v0.0.0-test"

// productImage builds the Dockerfile as it is, once, and returns the image's ID.
func productImage(t testing.TB) string {
	t.Helper()
	needDocker(t)
	id, err := buildOnce("Dockerfile", func() []tag { return standIns(t, goImage(t)) })
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// images are those that were built already, by their Dockerfiles.
var images struct {
	mu sync.Mutex
	id map[string]string
}

// buildOnce builds a Dockerfile, which needs these names while it is built.
func buildOnce(dockerfile string, tags func() []tag) (id string, err error) {
	images.mu.Lock()
	defer images.mu.Unlock()
	if id := images.id[dockerfile]; id != "" {
		return id, nil
	}
	id, err = dockerBuild(tags(), dockerfile, "--build-arg", "VERSION="+imageVersion)
	if err == nil {
		if images.id == nil {
			images.id = map[string]string{}
			atEnd.add(pruneImages)
		}
		images.id[dockerfile] = id
		atEnd.add(func() { _ = exec.Command("docker", "rmi", "-f", "--no-prune", id).Run() })
	}
	return id, err
}

// pruneImages removes what earlier runs' builds left behind. What is younger
// makes the next build faster.
func pruneImages() {
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
// its root, and returns the image's ID.
func dockerBuild(tags []tag, dockerfile string, args ...string) (id string, err error) {
	err = withTags(tags, func() error {
		out, err := os.CreateTemp("", "poolinit-e2e-image")
		if err != nil {
			return err
		}
		defer os.Remove(out.Name())
		out.Close()
		build := exec.Command("docker", append([]string{"build", "-f", dockerfile, "--iidfile", out.Name()}, append(args, ".")...)...)
		build.Dir = ".."
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("docker build -f %s: %w\n%s", dockerfile, err, text)
		}
		text, err := os.ReadFile(out.Name())
		id = string(bytes.TrimSpace(text))
		return err
	})
	return id, err
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
		restore := []string{"rmi", "--no-prune", tag.name}
		if err == nil {
			restore = []string{"tag", string(bytes.TrimSpace(was)), tag.name}
		}
		defer func() { _ = exec.Command("docker", restore...).Run() }()
	}
	return do()
}
