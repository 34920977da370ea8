package pool

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// The seed's first two programs, with only the lines about the Pool taken out:
// what was the WorkerStart function is the worker.

// A redisList is a redis-server of the test's own, and the list of the programs.
type redisList struct {
	t      *testing.T
	port   string
	pushed int
}

func startRedis(t *testing.T) *redisList {
	t.Helper()
	harness.Need(t, "redis-server", "redis-cli", "php")
	modules, err := exec.Command("php", "-m").Output()
	if err != nil || !bytes.Contains(modules, []byte("redis")) || !bytes.Contains(modules, []byte("pcntl")) {
		strict.Skip(t, "php has no redis or no pcntl")
	}
	_, port, err := net.SplitHostPort(harness.FreePort(t))
	if err != nil {
		t.Fatal(err)
	}
	r := &redisList{t: t, port: port}
	harness.Start(t, harness.Program{Args: []string{"redis-server", "--port", r.port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()}})
	testkit.Eventually(t, "redis answers", func() (any, bool) {
		out, _ := exec.Command("redis-cli", "-p", r.port, "ping").CombinedOutput()
		return string(out), strings.HasPrefix(string(out), "PONG")
	})
	return r
}

// push adds n elements that were never there before.
func (r *redisList) push(n int) {
	r.t.Helper()
	args := []string{"-p", r.port, "lpush", "key1"}
	for range n {
		args = append(args, fmt.Sprintf("job-%d.", r.pushed))
		r.pushed++
	}
	if out, err := exec.Command("redis-cli", args...).CombinedOutput(); err != nil {
		r.t.Fatalf("redis-cli: %v\n%s", err, out)
	}
}

// program is one of the seed's, with the port of this redis.
func (r *redisList) program(name string) string {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", "seed", name))
	if err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.t.TempDir(), name)
	if err := os.WriteFile(path, bytes.Replace(text, []byte("6379"), []byte(r.port), 1), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

var aJob = regexp.MustCompile(`job-\d+\.`)

// expectAll waits until every element that was ever pushed was printed, and
// checks that none was printed twice.
func (r *redisList) expectAll(p harness.Pool) {
	r.t.Helper()
	seen := map[string]int{}
	testkit.Eventually(r.t, "all elements are printed", func() (any, bool) {
		clear(seen)
		for _, job := range aJob.FindAllString(p.Stdout.String(), -1) {
			seen[job]++
		}
		return fmt.Sprintf("%d of %d\n%s", len(seen), r.pushed, p.Stderr.String()), len(seen) == r.pushed
	})
	for job, n := range seen {
		if n != 1 {
			r.t.Errorf("%s was printed %d times", job, n)
		}
	}
}

// expectStarts waits until so many workers have said that they started.
func expectStarts(p harness.Pool, n int) {
	p.T.Helper()
	testkit.Eventually(p.T, fmt.Sprintf("%d starts", n), func() (any, bool) {
		starts := strings.Count(p.Stdout.String(), "is started")
		return fmt.Sprintf("%d\n%s", starts, p.Stderr.String()), starts == n
	})
}

func TestRunSeedProgram1(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "-n", "4", "--healthy-after", "0s", "--output", "prefix", "php", r.program("worker1.php")}}))
	expectStarts(p, 4)
	r.push(200)
	r.expectAll(p)
	// This program has no way to finish what it has popped, so the next things
	// happen while it has nothing.
	if err := syscall.Kill(p.Worker(2).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	expectStarts(p, 5)
	r.push(200)
	r.expectAll(p)
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("reload done", nil)
	r.push(200)
	r.expectAll(p)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// The second program finishes what it has in hand, so it can be rolled and
// stopped at any time: nothing is lost, nothing comes twice.
func TestRunSeedProgram2(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "-n", "3", "--healthy-after", "0s", "--output", "prefix", "php", r.program("worker2.php")}}))
	expectStarts(p, 3)
	r.push(50)
	p.Signal(syscall.SIGUSR1)
	for p.Count("reload done") == 0 && p.Count("reload failed") == 0 && r.pushed < 100_000 {
		r.push(50)
	}
	p.ExpectLog("reload done", nil)
	r.expectAll(p)
	expectStarts(p, 6) // the one to be killed has started too
	if err := syscall.Kill(p.Worker(1).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Signal == "SIGKILL" && *r.Worker == 1 })
	expectStarts(p, 7) // 3, the reload's 3, and this one
	r.push(50)
	r.expectAll(p)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	for _, r := range p.Records() {
		if (r.Why == "stop" || r.Why == "reload") && r.Message == "worker exited" && (r.Signal != "" || r.Code != 0) {
			t.Errorf("it did not end by itself: %+v", r)
		}
	}
	r.expectAll(p)
}
