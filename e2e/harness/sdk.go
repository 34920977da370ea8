package harness

import (
	"os"
	"os/exec"
	"sync"
	"testing"
)

// SDKWorker returns the path of a worker made with the Go SDK, to which everything
// can happen: worker/internal/testworker status how.
func SDKWorker(t testing.TB) string { return ofModule(t, builtWorker) }

// SDKClient returns the path of a client made with the Go package, as
// client/internal/testclient describes it.
func SDKClient(t testing.TB) string { return ofModule(t, builtClient) }

var (
	builtWorker = sync.OnceValues(func() (string, error) { return buildOfModule("worker", "testworker") })
	builtClient = sync.OnceValues(func() (string, error) { return buildOfModule("client", "testclient") })
)

func ofModule(t testing.TB, built func() (string, error)) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// buildOfModule builds a program of another module, which this one does not
// import, once for all packages of tests.
func buildOfModule(module, name string) (path string, err error) {
	return buildShared(name, func(path string) *exec.Cmd {
		build := exec.Command("go", "build", "-C", "../../"+module, "-o", path, "./internal/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		return build
	})
}

// StartSDK is StartSource with the SDK's worker.
func StartSDK(t testing.TB, url string, flags ...string) *Process {
	t.Helper()
	return StartSource(t, Program{}, url, append(flags, "--", SDKWorker(t))...)
}
