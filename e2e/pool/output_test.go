package pool

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// printsDeed prints all that is hard to carry, and exits.
var printsDeed = harness.Deed("prints", func([]string) int {
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintln(out, "plain")
	fmt.Fprintln(out)
	fmt.Fprintln(out, strings.Repeat("long", 50_000))
	fmt.Fprintf(out, "binary \x00\x01\xff\xfe\n")
	fmt.Fprintf(out, "no end")
	_ = out.Flush()
	fmt.Fprintln(os.Stderr, "to stderr")
	return 0
})

func TestRunOutputPrefix(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--output", "prefix", "--restart", "never", "--", printsDeed)
	p.ExpectExit(0)
	lines := p.Stdout.Lines()
	for id := range 2 {
		mark := fmt.Sprintf("[worker %d] ", id)
		var mine []string
		for _, line := range lines {
			if rest, ok := strings.CutPrefix(line, mark); ok {
				mine = append(mine, rest)
			}
		}
		whole := strings.Join(mine, "\n")
		for _, want := range []string{"plain\n\n", "longlong", "binary \x00\x01\xff\xfe\nno end"} {
			if !strings.Contains(whole, want) {
				t.Errorf("worker %d has not printed %q", id, want)
			}
		}
		if n := strings.Count(whole, "long"); n != 50_000 {
			t.Errorf("worker %d: %d of 50000 words of the long line", id, n)
		}
		p.Stderr.Expect(t, mark+"to stderr\n")
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "[worker 0] ") && !strings.HasPrefix(line, "[worker 1] ") {
			t.Errorf("a line of nobody: %.80q", line)
		}
	}
}

func TestRunOutputJSON(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--output", "json", "--restart", "never", "--", printsDeed)
	p.ExpectExit(0)
	lines := p.Stdout.Lines()
	records := harness.ParseLog(lines)
	if len(records) != len(lines) {
		t.Errorf("%d of %d lines are JSON", len(records), len(lines))
	}
	got, long := map[string]int{}, 0
	for _, r := range records {
		if r.Worker == nil || r.PID == 0 || r.Stream != "stdout" || r.Level != "info" {
			t.Errorf("record %+v", r)
		}
		got[r.Message]++
		long += strings.Count(r.Message, "long")
	}
	if got["plain"] != 2 || got["no end"] != 2 || long != 100_000 {
		t.Errorf("plain %d, no end %d, long %d", got["plain"], got["no end"], long)
	}
	if n := strings.Count(p.Stderr.String(), `"message":"to stderr"`); n != 2 {
		t.Errorf("%d lines of stderr: %s", n, p.Stderr.String())
	}
}

// A grandchild with a session of its own that keeps the worker's pipe open: the
// worker is replaced, and the end is not late.
func TestRunOutputGrandchild(t *testing.T) {
	for _, mode := range []string{"prefix", "json", "inherit"} {
		t.Run(mode, func(t *testing.T) {
			p := harness.StartRun(t, harness.Program{}, "--output", mode, "--restart-delay", "10ms", "--healthy-after", "0s", "--stop-timeout", "10s", "--", abandonsDeed)
			p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Code == 3 })
			testkit.Eventually(t, "the next worker", func() (any, bool) { return p.Stderr.String(), p.Count("worker started") >= 2 })
			p.Signal(syscall.SIGTERM)
			p.ExpectExit(0)
		})
	}
}

// abandonsDeed leaves a child in another session behind that has its stdout, and fails.
var abandonsDeed = harness.Deed("abandons", func([]string) int {
	cmd := exec.Command("/proc/self/exe", "obey")
	cmd.Env = append(os.Environ(), "TEST_CHILD="+harness.WorkerChild)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return harness.Failed(err)
	}
	return 3
})

// floodDeed prints for ever.
var floodDeed = harness.Deed("flood", func([]string) int {
	line := strings.Repeat("x", 1000) + "\n"
	for {
		if _, err := os.Stdout.WriteString(line); err != nil {
			return 1
		}
	}
})

// Nobody reads stdout: the workers wait, the pool does not. It still restarts,
// reloads and stops.
func TestRunSlowReader(t *testing.T) {
	for _, mode := range []string{"prefix", "json", "inherit"} {
		t.Run(mode, func(t *testing.T) {
			r, w, err := os.Pipe() // fills up: nobody reads
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			args := harness.RunArgs(t, "-n", "2", "--output", mode, "--healthy-after", "0s", "--", floodDeed)
			p := harness.PoolOf(harness.Start(t, harness.PrintingTo(w, harness.Program{Args: args, Child: harness.WorkerChild})))
			before := p.Worker(0)
			p.Worker(1)
			if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, "another worker 0", func() (any, bool) {
				l := p.Workers()[0]
				return p.Stderr.String(), len(l) == 1 && l[0].PID != before.PID
			})
			p.Signal(syscall.SIGUSR1)
			p.ExpectLog("reload done", nil)
			p.Signal(syscall.SIGTERM)
			p.ExpectExit(0)
		})
	}
}

// What is wrong with the descriptors at the start is no reason not to run.
func TestRunDescriptorsAtStart(t *testing.T) {
	harness.Need(t, "sh")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	r, broken, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	r.Close()
	for _, c := range []struct {
		name string
		prog harness.Program
		to   *os.File // stdout
	}{
		{"stdin closed", harness.Program{Closed: []int{0}}, nil},
		{"stdout closed", harness.Program{Closed: []int{1}}, nil},
		{"stderr closed", harness.Program{Closed: []int{2}}, nil},
		{"all closed", harness.Program{Closed: []int{0, 1, 2}}, nil},
		{"stderr is full", harness.Program{Stderr: full}, nil},
		{"stderr is a broken pipe", harness.Program{Stderr: broken}, nil},
		{"stdout is a broken pipe", harness.Program{}, broken},
		{"both are full", harness.Program{Stderr: full}, full},
	} {
		for _, mode := range []string{"inherit", "prefix", "json"} {
			t.Run(c.name+"/"+mode, func(t *testing.T) {
				c.prog.Args = []string{harness.Binary(t), "--output", mode, "-n", "3", "--restart", "never", "--log-level", "debug", "--",
					"sh", "-c", "trap \"\" PIPE; echo out; echo err >&2; exit 4"}
				prog := c.prog
				if c.to != nil {
					prog = harness.PrintingTo(c.to, prog)
				}
				if p, code := harness.Run(t, prog); code != 4 {
					t.Errorf("exit code %d\n%s\n%s", code, p.Stdout.String(), p.Stderr.String())
				}
			})
		}
	}
}
