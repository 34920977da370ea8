package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A record is a line of poolinit's log.
type record struct {
	Level, Message, Why, Signal, Error, Uptime, Version, Stream, Status string
	Worker                                                              *int
	PID, Code, Generation                                               int
	Partial                                                             bool
	Lost                                                                int
}

// A runPool is `poolinit run` that runs, with the test binary as the worker.
type runPool struct{ *process }

// startRun starts `poolinit run` with flags, and a worker of workerChild that
// does as the words after "--" say.
func startRun(t testing.TB, prog program, flagsAndWords ...string) runPool {
	t.Helper()
	prog.args = runArgs(t, flagsAndWords...)
	prog.child = workerChild
	return runPool{start(t, prog)}
}

// runArgs is the command line: flags, --, the test binary, words.
func runArgs(t testing.TB, flagsAndWords ...string) []string {
	words := []string{poolinit(t), "run"}
	for i, word := range flagsAndWords {
		words = append(words, word)
		if word == "--" {
			return append(append(words, self(t)), flagsAndWords[i+1:]...)
		}
	}
	t.Fatal("no -- in the command line")
	return nil
}

// printingTo returns the program with a file as its stdout.
func printingTo(stdout *os.File, prog program) program {
	prog.args = append([]string{"sh", "-c", `exec "$0" "$@" >&3 3>&-`}, prog.args...)
	prog.files = []*os.File{stdout}
	return prog
}

// records returns the log so far.
func (p runPool) records() (list []record) { return parseLog(p.stderr.lines()) }

func parseLog(lines []string) (list []record) {
	for _, line := range lines {
		var r record
		if json.Unmarshal([]byte(line), &r) == nil {
			list = append(list, r)
		}
	}
	return list
}

// expectLog waits until a line of the log contains the text and is as wanted.
func (p runPool) expectLog(text string, wanted func(record) bool) (found record) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("log line %q", text), func() (any, bool) {
		for _, r := range p.records() {
			if strings.Contains(r.Message, text) && (wanted == nil || wanted(r)) {
				found = r
				return nil, true
			}
		}
		return p.stderr.String(), false
	})
	return found
}

// count returns how many lines of the log contain the text.
func (p runPool) count(text string) (n int) {
	for _, r := range p.records() {
		if strings.Contains(r.Message, text) {
			n++
		}
	}
	return n
}

// A liveWorker is a worker's process, as its environment has it.
type liveWorker struct {
	procInfo
	id, generation int
}

// workers returns the pool's workers, by number. Detached ones and successors
// count: the list of a number can have two.
func (p runPool) workers() map[int][]liveWorker {
	list := map[int][]liveWorker{}
	root := p.self()
	for _, q := range procsBelow(root) {
		env := environOf(q.PID)
		id, err := strconv.Atoi(env["POOLINIT_WORKER_ID"])
		if q.PPID != root || q.State == 'Z' || err != nil {
			continue
		}
		generation, _ := strconv.Atoi(env["POOLINIT_GENERATION"])
		list[id] = append(list[id], liveWorker{q, id, generation})
	}
	return list
}

// awaitWorkers waits until there are n workers, one a number, and all have said
// that they are up (as every workerChild does) or not, if quiet.
func (p runPool) awaitWorkers(n int) map[int]liveWorker {
	p.t.Helper()
	found := map[int]liveWorker{}
	eventually(p.t, fmt.Sprintf("%d workers", n), func() (any, bool) {
		clear(found)
		list := p.workers()
		for id, w := range list {
			if len(w) == 1 && strings.Contains(p.stdout.String(), upLine(w[0])) {
				found[id] = w[0]
			}
		}
		return fmt.Sprint(list, p.stderr.String(), p.stdout.String()), len(found) == n && len(list) == n
	})
	return found
}

// worker waits until there is one process of a worker, and returns it.
func (p runPool) worker(id int) (w liveWorker) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("one worker %d", id), func() (any, bool) {
		list := p.workers()
		if len(list[id]) == 1 {
			w = list[id][0]
		}
		return list, len(list[id]) == 1
	})
	return w
}

// upLine is what a workerChild says first.
func upLine(w liveWorker) string {
	return fmt.Sprintf("up worker=%d generation=%d pid=%d\n", w.id, w.generation, w.Inside)
}

func environOf(pid int) map[string]string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // gone: none
	env := map[string]string{}
	for v := range strings.SplitSeq(string(text), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	return env
}

// expectExit waits for the end and checks the code, that there is one last
// line, and that nothing follows it.
func (p runPool) expectExit(code int) {
	p.t.Helper()
	if got := p.wait(); got != code {
		p.t.Errorf("exit code %d, want %d\n%s", got, code, p.stderr.String())
	}
	all := p.records()
	if p.count("stopped: ") != 1 || !strings.HasPrefix(all[len(all)-1].Message, "stopped: ") {
		p.t.Errorf("there is not exactly one last line:\n%s", p.stderr.String())
	}
}

// deeds are what a workerChild can do after it has said that it is up. The
// words are its arguments.
var deeds = map[string]func(words []string) int{
	"obey":   func([]string) int { return forEver() },
	"ignore": func([]string) int { signal.Ignore(syscall.SIGTERM); fmt.Println("deaf"); return forEver() },
	"exit":   func(words []string) int { code, _ := strconv.Atoi(words[0]); return code },
	"die": func(words []string) int {
		n, _ := strconv.Atoi(words[0])
		setDisposition(syscall.Signal(n), false) // else the Go runtime prints a stack and exits with 2
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		return forEver()
	},
}

// workerChild is a worker: it says who it is, and then does its deed.
var workerChild = child("worker", func(words []string) int {
	fmt.Printf("up worker=%s generation=%s pid=%d\n",
		os.Getenv("POOLINIT_WORKER_ID"), os.Getenv("POOLINIT_GENERATION"), os.Getpid())
	do := deeds[words[0]]
	if do == nil {
		return stubFailed(fmt.Errorf("no deed is called %q", words[0]))
	}
	return do(words[1:])
})

// deed adds one.
func deed(name string, do func(words []string) int) string {
	deeds[name] = do
	return name
}

func forEver() int {
	for {
		time.Sleep(time.Hour)
	}
}

// awaitFile returns when there is such a file, in another process too.
func awaitFile(path string) {
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
}
