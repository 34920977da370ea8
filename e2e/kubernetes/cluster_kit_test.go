//go:build k8s

package kubernetes

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// The cluster is a real one: K8S_KIT is a directory with the programs
//
//	up.sh               starts a cluster of one node, and returns when that is ready
//	down.sh             ends it
//	load-image.sh TAR   gives it the images of an archive as docker save makes it
//	lib.sh              sets KUBECONFIG
//	bin/kubectl
//
// A cluster that is up already is used, and left up.
var kit = os.Getenv("K8S_KIT")

// program is poolinit as it is released; the clients run it here.
var program string

func TestMain(m *testing.M) { os.Exit(withCluster(m)) }

func withCluster(m *testing.M) int {
	if kit == "" {
		log.Print("K8S_KIT is not set: the directory with up.sh and bin/kubectl")
		return 1
	}
	dir, err := os.MkdirTemp("", "poolinit-k8s")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(dir)
	down, err := bringUp()
	if err != nil {
		log.Print(err)
		return 1
	}
	defer down()
	program = filepath.Join(dir, "poolinit")
	if err := loadImages(dir); err != nil {
		log.Print(err)
		return 1
	}
	return m.Run()
}

// bringUp finds a cluster or starts one; down ends what was started.
func bringUp() (down func(), err error) {
	config, err := exec.Command("bash", "-c", `. "$1/lib.sh" && echo "$KUBECONFIG"`, "-", kit).Output()
	if err != nil {
		return nil, fmt.Errorf("lib.sh: %w", err)
	}
	os.Setenv("KUBECONFIG", strings.TrimSpace(string(config)))
	if _, err := tryKubectl("", "--request-timeout=3s", "get", "--raw", "/readyz"); err == nil {
		return func() {}, nil
	}
	if out, err := exec.Command(filepath.Join(kit, "up.sh")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("up.sh: %w\n%s", err, out)
	}
	return func() {
		if out, err := exec.Command(filepath.Join(kit, "down.sh")).CombinedOutput(); err != nil {
			log.Printf("down.sh: %v\n%s", err, out)
		}
	}, nil
}

// loadImages builds poolinit and the worker, and the images
//
//	poolinit:example    ENTRYPOINT poolinit, CMD the worker
//	poolinit:broken     its worker ends at once
func loadImages(dir string) error {
	worker := filepath.Join(dir, "worker")
	for _, build := range []*exec.Cmd{
		exec.Command("../../tools/build.sh", program),
		exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", worker, "./testworker"),
	} {
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", build, err, out)
		}
	}
	name := filepath.Join(dir, "images.tar")
	if err := writeImages(name, map[string]string{"poolinit": program, "worker": worker}, map[string][]string{
		"docker.io/library/poolinit:example": {"/worker"},
		"docker.io/library/poolinit:broken":  {"/worker", "broken"},
	}); err != nil {
		return err
	}
	if out, err := exec.Command(filepath.Join(kit, "load-image.sh"), name).CombinedOutput(); err != nil {
		return fmt.Errorf("load-image.sh: %w\n%s", err, out)
	}
	return nil
}

// writeImages writes an archive as docker save does: images of one layer, which
// has the files, and that differ in their CMD.
func writeImages(name string, files map[string]string, commands map[string][]string) error {
	var layer, archive bytes.Buffer
	w := tar.NewWriter(&layer)
	for path, from := range files {
		body, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := add(w, path, body); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	type manifest struct {
		Config           string
		RepoTags, Layers []string
	}
	var list []manifest
	w = tar.NewWriter(&archive)
	if err := add(w, "layer.tar", layer.Bytes()); err != nil {
		return err
	}
	for tag, command := range commands {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH, "os": "linux",
			"config": map[string]any{
				"Entrypoint": []string{"/poolinit"}, "Cmd": command, "User": "65532:65532",
			},
			"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
			"history": []any{map[string]string{"created": "1970-01-01T00:00:00Z"}},
		})
		if err != nil {
			return err
		}
		m := manifest{Config: fmt.Sprintf("%x.json", sha256.Sum256(config)), RepoTags: []string{tag}, Layers: []string{"layer.tar"}}
		list = append(list, m)
		if err := add(w, m.Config, config); err != nil {
			return err
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := add(w, "manifest.json", text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(name, archive.Bytes(), 0o600)
}

func add(w *tar.Writer, path string, body []byte) error {
	h := &tar.Header{Name: path, Mode: 0o755, Size: int64(len(body)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

// tryKubectl runs kubectl.
func tryKubectl(stdin string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(kit, "bin", "kubectl"), args...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s%s", strings.Join(args, " "), err, out.String(), stderr.String())
	}
	return out.String(), nil
}

// follow runs kubectl until the test ends, or it ends by itself, and hands over
// each line of its output.
func follow(t *testing.T, line func(string), args ...string) (wait func()) {
	t.Helper()
	cmd := exec.Command(filepath.Join(kit, "bin", "kubectl"), args...)
	r, w := io.Pipe()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends with what is written, below
		defer close(done)
		eachLine(r, line)
	}()
	ended := make(chan struct{})
	go func() { // ends with kubectl
		defer close(ended)
		_ = cmd.Wait() // killed, as a rule
		w.Close()
		<-done
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	})
	return func() { <-ended }
}
