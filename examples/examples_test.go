// Package examples holds workers in several languages, and tests that they do
// what poolinit's README says of them.
package examples

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

func build(t *testing.T, module, pkg, as string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), as)
	cmd := exec.Command("go", "build", "-C", module, "-o", name, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build -C %s %s: %v\n%s", module, pkg, err, out)
	}
	return name
}

// need skips the test unless a program is installed.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		strict.Skip(t, "%s is not installed", program)
	}
}

// Each worker starts, is replaced by a reload, and stops cleanly when asked.
func TestExamples(t *testing.T) {
	poolinit := build(t, "..", ".", "poolinit")
	for _, tt := range []struct{ needs, worker, ready string }{
		{"go", build(t, "../worker", "./examples/worker-go", "worker-go"), "notify"},
		{"sh", "./worker.sh", "started"},
		{"python3", "./worker.py", "notify"},
		{"php", "./worker.php", "notify"},
	} {
		t.Run(filepath.Base(tt.worker), func(t *testing.T) {
			need(t, tt.needs)
			var out testkit.Output
			cmd := exec.Command(poolinit, "-n", "2", "--ready", tt.ready, "--output", "prefix", "--log-format", "text", "--", tt.worker)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = cmd.Stdout
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			copied := make(chan struct{})
			go func() { // ends when the program does
				defer close(copied)
				_, _ = io.Copy(&out, stdout)
			}()
			defer func() {
				_ = cmd.Process.Kill() // unless the test was good
				<-copied
				_ = cmd.Wait()
			}()
			out.ExpectTimes(t, "started: worker ", 2)
			send(t, cmd, syscall.SIGUSR1)
			out.ExpectTimes(t, "reload done", 1)
			out.ExpectTimes(t, " of 2, generation 2, pid ", 2)
			send(t, cmd, syscall.SIGTERM)
			<-copied
			_ = cmd.Wait() // its code is looked at
			if code := cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if n := strings.Count(out.String(), "stopping after "); n != 4 {
				t.Errorf("%d workers stopped by themselves, want 4", n)
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}

func send(t *testing.T, cmd *exec.Cmd, sig syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}
