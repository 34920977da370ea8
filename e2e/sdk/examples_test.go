package sdk

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// Each example answers, refuses, is replaced by a reload, and ends in peace.
func TestWorkerExamples(t *testing.T) {
	t.Parallel()
	echo := filepath.Join(t.TempDir(), "echo")
	if out, err := exec.Command("go", "build", "-C", "../../worker", "-o", echo, "./examples/echo").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, tt := range []struct{ needs, worker, deliver string }{
		{"go", echo, "frames"},
		{"sh", "../../examples/echo.sh", "lines"},
		{"python3", "../../examples/echo.py", "frames"},
		{"php", "../../examples/echo.php", "frames"},
	} {
		t.Run(filepath.Base(tt.worker), func(t *testing.T) {
			harness.Need(t, tt.needs)
			worker, err := filepath.Abs(tt.worker)
			if err != nil {
				t.Fatal(err)
			}
			url := harness.UnixURL(t, "?reply=always")
			p := harness.StartSource(t, harness.Program{}, url, "-n", "2", "--deliver", tt.deliver, "--output", "prefix", "--", worker)
			odd := harness.Seq(500) + "  -n  \\t *\n" + strings.Repeat("ä", 5000) + "\n"
			harness.Send(t, strings.NewReader(odd), url).Want(t, odd, 0)
			if tt.deliver == "frames" {
				got := harness.Send(t, strings.NewReader("\nfine\n"), url)
				got.Want(t, "fine\n", 1)
				if !strings.Contains(got.Stderr, "message 1: refused: there is nothing in it") {
					t.Error(got.Stderr)
				}
			} else {
				harness.Send(t, strings.NewReader("\nfine\n"), url).Want(t, "\nfine\n", 0)
			}
			p.Signal(syscall.SIGUSR1)
			p.Stderr.Expect(t, "reload done")
			harness.Send(t, strings.NewReader(harness.Seq(500)), url).Want(t, harness.Seq(500), 0)
			p.Signal(syscall.SIGTERM)
			if code := p.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if n := strings.Count(p.Stdout.String(), "stopping after "); n != 4 {
				t.Errorf("%d workers ended by themselves, want 4:\n%s\n%s", n, p.Stdout.String(), p.Stderr.String())
			}
		})
	}
}

// A detached worker works on; another is in its place at once.
func TestWorkerDetaches(t *testing.T) {
	url := harness.UnixURL(t, "?reply=always")
	p := harness.StartSDK(t, url)
	first := p.TheChild()
	harness.Send(t, strings.NewReader("detach\n"), url).Want(t, "detached\n", 0)
	harness.Send(t, strings.NewReader("next\n"), url).Want(t, "next\n", 0)
	if t.Failed() {
		t.Log(p.Stdout.String(), p.Stderr.String())
	}
	p.Stderr.Expect(t, "detached")
	self := p.Self()
	p.WaitForProcess("another worker beside the first", func(q harness.ProcInfo) bool { return q.PPID == self && q.PID != first.PID && q.State != 'Z' })
	p.WaitForProcess("the first", func(q harness.ProcInfo) bool { return q.PID == first.PID && q.State != 'Z' })
}

// SIGTERM from somebody else costs no message an attempt.
func TestWorkerSIGTERM(t *testing.T) {
	t.Parallel()
	url := harness.UnixURL(t, "?reply=always")
	p := harness.StartSDK(t, url, "--attempts", "1", "--healthy-after", "0s")
	for range 5 {
		got := harness.Send(t, strings.NewReader("pid\n"), url)
		if m := regexp.MustCompile(`^0 \d+\n$`).FindString(got.Stdout); m == "" {
			t.Fatalf("%+v", got)
		}
		child := p.TheChild()
		if err := syscall.Kill(child.PID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		harness.Send(t, strings.NewReader(harness.Seq(3000)), url).Want(t, harness.Seq(3000), 0)
		testkit.Eventually(t, "the end of the worker", func() (any, bool) {
			q, ok := harness.ReadProc(child.PID)
			return q, !ok || q.State == 'Z'
		})
	}
	p.Stdout.ExpectTimes(t, "stopped in peace\n", 5)
}
