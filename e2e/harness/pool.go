package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
)

// A Record is a line of poolinit's log.
type Record struct {
	Level, Message, Why, Signal, Error, Uptime, Version, Stream, Status string
	Worker                                                              *int
	PID, Code, Generation                                               int
	Partial                                                             bool
	Lost                                                                int
	Processes                                                           []string
}

// A Pool is a process that is `poolinit run`. Most have the test binary as the worker.
type Pool struct{ *Process }

// PoolOf is a process that is poolinit, or becomes it.
func PoolOf(p *Process) Pool { return Pool{p} }

// StartRun starts `poolinit run` with flags. Its worker is WorkerChild, which does
// the deed that the words after "--" name.
func StartRun(t testing.TB, prog Program, flagsAndWords ...string) Pool {
	t.Helper()
	prog.Args = RunArgs(t, flagsAndWords...)
	prog.Child = WorkerChild
	return Pool{Start(t, prog)}
}

// RunArgs is the command line: flags, --, the test binary, words.
func RunArgs(t testing.TB, flagsAndWords ...string) []string {
	words := []string{Binary(t), "run"}
	for i, word := range flagsAndWords {
		words = append(words, word)
		if word == "--" {
			return append(append(words, Self(t)), flagsAndWords[i+1:]...)
		}
	}
	t.Fatal("no -- in the command line")
	return nil
}

// PrintingTo returns the program with a file as its stdout.
func PrintingTo(stdout *os.File, prog Program) Program {
	prog.Args = append([]string{"sh", "-c", `exec "$0" "$@" >&3 3>&-`}, prog.Args...)
	prog.Files = []*os.File{stdout}
	return prog
}

// Records returns the log so far.
func (p Pool) Records() (list []Record) { return ParseLog(p.Stderr.Lines()) }

// ParseLog returns the lines that are JSON.
func ParseLog(lines []string) (list []Record) {
	for _, line := range lines {
		var r Record
		if json.Unmarshal([]byte(line), &r) == nil {
			list = append(list, r)
		}
	}
	return list
}

// ExpectLog waits until a line of the log contains the text and is as wanted.
func (p Pool) ExpectLog(text string, wanted func(Record) bool) (found Record) {
	p.T.Helper()
	testkit.Eventually(p.T, fmt.Sprintf("log line %q", text), func() (any, bool) {
		for _, r := range p.Records() {
			if strings.Contains(r.Message, text) && (wanted == nil || wanted(r)) {
				found = r
				return nil, true
			}
		}
		return p.Stderr.String(), false
	})
	return found
}

// Count returns how many lines of the log contain the text.
func (p Pool) Count(text string) (n int) {
	for _, r := range p.Records() {
		if strings.Contains(r.Message, text) {
			n++
		}
	}
	return n
}

// A Worker is a worker's process, as its environment has it.
type Worker struct {
	ProcInfo
	id, Generation int
}

// Workers returns the pool's workers, by number. Detached ones and successors
// count: the list of a number can have two.
func (p Pool) Workers() map[int][]Worker {
	list := map[int][]Worker{}
	root := p.Self()
	for _, q := range procsBelow(root) {
		env := Environ(q.PID)
		id, err := strconv.Atoi(env["POOLINIT_WORKER_ID"])
		if q.PPID != root || q.State == 'Z' || err != nil {
			continue
		}
		generation, _ := strconv.Atoi(env["POOLINIT_GENERATION"])
		list[id] = append(list[id], Worker{q, id, generation})
	}
	return list
}

// AwaitWorkers waits until there are n workers, one a number, and all have said
// that they are up, as every WorkerChild does.
func (p Pool) AwaitWorkers(n int) map[int]Worker {
	p.T.Helper()
	found := map[int]Worker{}
	testkit.Eventually(p.T, fmt.Sprintf("%d workers", n), func() (any, bool) {
		clear(found)
		list := p.Workers()
		for id, w := range list {
			if len(w) == 1 && strings.Contains(p.Stdout.String(), upLine(w[0])) {
				found[id] = w[0]
			}
		}
		return fmt.Sprint(list, p.Stderr.String(), p.Stdout.String()), len(found) == n && len(list) == n
	})
	return found
}

// Worker waits until there is one process of a worker, and returns it.
func (p Pool) Worker(id int) (w Worker) {
	p.T.Helper()
	testkit.Eventually(p.T, fmt.Sprintf("one worker %d", id), func() (any, bool) {
		list := p.Workers()
		if len(list[id]) == 1 {
			w = list[id][0]
		}
		return list, len(list[id]) == 1
	})
	return w
}

// upLine is what a WorkerChild says first.
func upLine(w Worker) string {
	return fmt.Sprintf("up worker=%d generation=%d pid=%d\n", w.id, w.Generation, w.Inside)
}

// Environ returns the environment of a process; of one that has ended, none.
func Environ(pid int) map[string]string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // gone: none
	env := map[string]string{}
	for v := range strings.SplitSeq(string(text), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	return env
}

// ExpectExit waits for the end and checks the code, that there is one last
// line, and that nothing follows it.
func (p Pool) ExpectExit(code int) {
	p.T.Helper()
	if got := p.Wait(); got != code {
		p.T.Errorf("exit code %d, want %d\n%s", got, code, p.Stderr.String())
	}
	all := p.Records()
	if p.Count("stopped: ") != 1 || !strings.HasPrefix(all[len(all)-1].Message, "stopped: ") {
		p.T.Errorf("there is not exactly one last line:\n%s", p.Stderr.String())
	}
}

// ExpectReady waits until n workers have said READY=1, and the pool has heard it.
func (p Pool) ExpectReady(n int) {
	p.T.Helper()
	testkit.Eventually(p.T, fmt.Sprintf("%d ready", n), func() (any, bool) {
		return p.Stderr.String(), p.Count("worker status") >= n
	})
}

var lastLine = regexp.MustCompile(`stopped: handled (\d+), spooled (\d+), lost (\d+)`)

// Totals are the figures of the last line.
func (p Pool) Totals() (handled, spooled, lost int) {
	p.T.Helper()
	m := lastLine.FindStringSubmatch(p.Stderr.String())
	if m == nil {
		p.T.Fatalf("no last line: %s", p.Stderr.String())
	}
	handled, _ = strconv.Atoi(m[1])
	spooled, _ = strconv.Atoi(m[2])
	lost, _ = strconv.Atoi(m[3])
	return handled, spooled, lost
}

// CheckUsage checks that poolinit has refused a command line: exit code 2, one line
// that says these words, a hint, and nothing on stdout.
func CheckUsage(t *testing.T, p *Process, code int, says []string) {
	t.Helper()
	stderr := p.Stderr.String()
	if code != 2 || p.Stdout.String() != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, p.Stdout.String(), stderr)
	}
	first, rest, _ := strings.Cut(stderr, "\n")
	// Where nothing is wrong with the command line, there is nothing to read about it.
	if hint := !strings.HasPrefix(first, "poolinit: cannot "); strings.Contains(rest, "--help") != hint || (rest == "") == hint || strings.Count(rest, "\n") > 1 {
		t.Errorf("not one line and a hint: %q", stderr)
	}
	for _, what := range says {
		if !strings.Contains(first, what) {
			t.Errorf("%q does not say %q", first, what)
		}
	}
}
