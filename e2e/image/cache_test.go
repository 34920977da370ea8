package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// compiled builds what the Dockerfiles build, and returns a build cache that has
// just what that took. What the host has in its own one is copied, so that this
// takes a second and not a minute.
func compiled(t testing.TB) (dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	out := filepath.Join(t.TempDir(), "out")
	for _, command := range [][]string{
		{"tools/build.sh", out},
		{"go", "build", "-C", "deploy/docker/go", "-trimpath", "-ldflags", "-s -w", "-o", out, "."},
	} {
		build := exec.Command(command[0], command[1:]...)
		build.Dir = "../.."
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOCACHEPROG="+harness.Self(t), "TEST_CHILD="+cacheCopier,
			"E2E_CACHE_FROM="+goEnv(t, "GOCACHE"), "E2E_CACHE_TO="+dir)
		if text, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, text)
		}
	}
	return dir, nil
}

// cacheCopier is a GOCACHEPROG (go help cache): the go command asks it for what
// it would look up in its cache, and gives it what it would put there. Both go
// into the second directory, in the form that the go command's own cache has; a
// form that is not understood counts as absent.
var cacheCopier = harness.Child("cache-copier", func([]string) int {
	c := copier{from: os.Getenv("E2E_CACHE_FROM"), to: os.Getenv("E2E_CACHE_TO")}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	answer := cacheAnswer{KnownCommands: []string{"get", "put", "close"}}
	for {
		if err := out.Encode(answer); err != nil {
			return 1
		}
		var r cacheRequest
		if err := in.Decode(&r); err != nil {
			return 0
		}
		if answer = c.do(in, &r); r.Command == "close" {
			_ = out.Encode(answer)
			return 0
		}
	}
})

// What the go command asks, and how it is answered.
type (
	cacheRequest struct {
		ID                 int64
		Command            string
		ActionID, OutputID []byte
		BodySize           int64
	}
	cacheAnswer struct {
		ID            int64
		Err           string   `json:",omitempty"`
		KnownCommands []string `json:",omitempty"`
		Miss          bool     `json:",omitempty"`
		OutputID      []byte   `json:",omitempty"`
		Size          int64    `json:",omitempty"`
		DiskPath      string   `json:",omitempty"`
	}
)

type copier struct{ from, to string }

func (c copier) do(in *json.Decoder, r *cacheRequest) cacheAnswer {
	answer := cacheAnswer{ID: r.ID}
	var err error
	switch r.Command {
	case "get":
		var ok bool
		if answer.OutputID, answer.Size, ok = c.get(r.ActionID); !ok {
			return cacheAnswer{ID: r.ID, Miss: true}
		}
		answer.DiskPath = cacheFile(c.to, answer.OutputID, "d")
	case "put":
		var body []byte
		if r.BodySize > 0 {
			err = in.Decode(&body)
		}
		err = errors.Join(err, c.put(r.ActionID, r.OutputID, body))
		answer.DiskPath = cacheFile(c.to, r.OutputID, "d")
	}
	if err != nil {
		answer.Err = err.Error()
	}
	return answer
}

// cacheFile is where a cache keeps an action or its output.
func cacheFile(cache string, id []byte, kind string) string {
	name := fmt.Sprintf("%x-%s", id, kind)
	return filepath.Join(cache, name[:2], name)
}

// get copies an action and its output, if they are there.
func (c copier) get(action []byte) (output []byte, size int64, ok bool) {
	for _, cache := range []string{c.to, c.from} {
		entry, err := os.ReadFile(cacheFile(cache, action, "a"))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(entry))
		if len(fields) != 5 || fields[0] != "v1" {
			continue
		}
		if _, err := fmt.Sscanf(fields[2], "%x", &output); err != nil {
			continue
		}
		body, err := os.ReadFile(cacheFile(cache, output, "d"))
		if err != nil || fmt.Sprint(len(body)) != fields[3] {
			continue
		}
		return output, int64(len(body)), c.put(action, output, body) == nil
	}
	return nil, 0, false
}

func (c copier) put(action, output, body []byte) error {
	entry := fmt.Sprintf("v1 %x %x %20d %20d\n", action, output, len(body), 0)
	return errors.Join(c.write(cacheFile(c.to, output, "d"), body), c.write(cacheFile(c.to, action, "a"), []byte(entry)))
}

func (c copier) write(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}
