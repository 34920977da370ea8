package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// Each example answers, refuses, is replaced by a reload, and ends in peace.
func TestWorkerExamples(t *testing.T) {
	echo := filepath.Join(t.TempDir(), "echo")
	if out, err := exec.Command("go", "build", "-C", "../worker", "-o", echo, "./examples/echo").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, tt := range []struct{ needs, worker, deliver string }{
		{"go", echo, "frames"},
		{"sh", "../examples/echo.sh", "lines"},
		{"python3", "../examples/echo.py", "frames"},
		{"php", "../examples/echo.php", "frames"},
	} {
		t.Run(filepath.Base(tt.worker), func(t *testing.T) {
			need(t, tt.needs)
			worker, err := filepath.Abs(tt.worker)
			if err != nil {
				t.Fatal(err)
			}
			url := unixURL(t, "?reply=always")
			p := startSource(t, program{}, url, "-n", "2", "--deliver", tt.deliver, "--output", "prefix", "--", worker)
			odd := seq(500) + "  -n  \\t *\n" + strings.Repeat("ä", 5000) + "\n"
			send(t, strings.NewReader(odd), url).want(t, odd, 0)
			if tt.deliver == "frames" {
				got := send(t, strings.NewReader("\nfine\n"), url)
				got.want(t, "fine\n", 1)
				if !strings.Contains(got.stderr, "message 1: refused: there is nothing in it") {
					t.Error(got.stderr)
				}
			} else {
				send(t, strings.NewReader("\nfine\n"), url).want(t, "\nfine\n", 0)
			}
			p.signal(syscall.SIGUSR1)
			p.stderr.expect(t, "reload done")
			send(t, strings.NewReader(seq(500)), url).want(t, seq(500), 0)
			p.signal(syscall.SIGTERM)
			if code := p.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if n := strings.Count(p.stdout.String(), "stopping after "); n != 4 {
				t.Errorf("%d workers ended by themselves, want 4:\n%s\n%s", n, p.stdout.String(), p.stderr.String())
			}
		})
	}
}

// A detached worker works on; another is in its place at once.
func TestWorkerDetaches(t *testing.T) {
	url := unixURL(t, "?reply=always")
	p := startSDK(t, url)
	first := p.theChild()
	send(t, strings.NewReader("detach\n"), url).want(t, "detached\n", 0)
	send(t, strings.NewReader("next\n"), url).want(t, "next\n", 0)
	if t.Failed() {
		t.Log(p.stdout.String(), p.stderr.String())
	}
	p.stderr.expect(t, "detached")
	self := p.self()
	p.waitFor("another worker beside the first", func(q procInfo) bool { return q.PPID == self && q.PID != first.PID && q.State != 'Z' })
	p.waitFor("the first", func(q procInfo) bool { return q.PID == first.PID && q.State != 'Z' })
}

// SIGTERM from somebody else costs no message an attempt.
func TestWorkerSIGTERM(t *testing.T) {
	url := unixURL(t, "?reply=always")
	p := startSDK(t, url, "--attempts", "1", "--healthy-after", "0s")
	for range 5 {
		got := send(t, strings.NewReader("pid\n"), url)
		if m := regexp.MustCompile(`^0 \d+\n$`).FindString(got.stdout); m == "" {
			t.Fatalf("%+v", got)
		}
		child := p.theChild()
		if err := syscall.Kill(child.PID, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		send(t, strings.NewReader(seq(3000)), url).want(t, seq(3000), 0)
		eventually(t, "the end of the worker", func() (any, bool) {
			q, ok := readProc(child.PID)
			return q, !ok || q.State == 'Z'
		})
	}
	p.stdout.expectTimes(t, "stopped in peace\n", 5)
}
