package sdk

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// The seed's four programs, unchanged, where ext-swoole is absent.

// phpSeed starts one of them on the island, by php. Lines of workers do not mix,
// as those of var_dump would.
func phpSeed(t *testing.T, i *island, name string) harness.Pool {
	t.Helper()
	prog := withPoolinit(t, i.program("php", swoole(t), seedProgram(t, name)))
	prog.Env = append(prog.Env, "POOLINIT_OUTPUT=prefix")
	return harness.PoolOf(harness.Start(t, prog))
}

// startRedis starts a redis-server where the programs look for it.
func (i *island) startRedis() *islandRedis {
	i.t.Helper()
	harness.Need(i.t, "redis-server", "redis-cli")
	needPHPModules(i.t, "redis", "pcntl", "posix")
	harness.Start(i.t, i.program("redis-server", "--save", "", "--dir", i.t.TempDir()))
	testkit.Eventually(i.t, "redis answers", func() (any, bool) {
		out := i.run("sh", "-c", "redis-cli ping 2>&1; true")
		return out, strings.HasPrefix(out, "PONG")
	})
	return &islandRedis{island: i}
}

type islandRedis struct {
	*island
	pushed int
}

// push adds n elements that were never there before.
func (r *islandRedis) push(n int) {
	r.t.Helper()
	args := []string{"redis-cli", "lpush", "key1"}
	for range n {
		args = append(args, fmt.Sprintf("job-%d.", r.pushed))
		r.pushed++
	}
	r.run(args...)
}

// expectAll waits until every element has been printed, by var_dump of what
// brpop returned, and checks that none was printed twice.
func (r *islandRedis) expectAll(p harness.Pool) {
	r.t.Helper()
	seen := map[string]int{}
	testkit.Eventually(r.t, "all elements are printed", func() (any, bool) {
		clear(seen)
		for _, m := range poppedJob.FindAllStringSubmatch(p.Stdout.String(), -1) {
			seen[m[1]]++
		}
		return fmt.Sprintf("%d of %d\n%s", len(seen), r.pushed, p.Stderr.String()), len(seen) == r.pushed
	})
	for job, n := range seen {
		if n != 1 {
			r.t.Errorf("%s was printed %d times", job, n)
		}
	}
}

var poppedJob = regexp.MustCompile(`"(job-\d+\.)"`)

// expectWorkers waits until each of the workers 0 to n-1 has said the text so
// often.
func expectWorkers(p harness.Pool, n int, text string, times int) {
	p.T.Helper()
	for id := range n {
		p.Stdout.ExpectTimes(p.T, fmt.Sprintf("Worker#%d is %s\n", id, text), times)
	}
}

// The first program never looks whether it is to stop; the second does, by
// pcntl_signal_dispatch. All ten workers of both end as they should.
func TestSDKPHPSeedRedis(t *testing.T) {
	for _, name := range []string{"program1.php", "program2.php"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newIsland(t).startRedis()
			p := phpSeed(t, r.island, name)
			expectWorkers(p, 10, "started", 1)
			r.push(100)
			r.expectAll(p)
			p.Signal(syscall.SIGUSR1)
			for n := 0; p.Count("reload done") == 0 && p.Count("reload failed") == 0 && n < 5000; n++ {
				if name == "program2.php" {
					r.push(20) // it loses nothing, whenever it is told to stop
				} else {
					r.run("redis-cli", "lpush", "key1", "lost or not") // so that nobody waits for long
				}
			}
			p.ExpectLog("reload done", nil)
			expectWorkers(p, 10, "stopped", 1)
			expectWorkers(p, 10, "started", 2)
			r.push(100)
			r.expectAll(p)
			p.Signal(syscall.SIGTERM)
			p.ExpectExit(0)
			expectWorkers(p, 10, "stopped", 2)
			expectClean(p)
			r.expectAll(p)
		})
	}
}

// expectClean checks that every worker that was told to end has exited with 0.
func expectClean(p harness.Pool) {
	p.T.Helper()
	n := 0
	for _, r := range p.Records() {
		if r.Message == "worker exited" {
			n++
			if r.Signal != "" || r.Code != 0 {
				p.T.Errorf("it did not end by itself: %+v", r)
			}
		}
	}
	if n == 0 {
		p.T.Error("no worker exited")
	}
}

// The third program takes messages from a System V queue.
func TestSDKPHPSeedQueue(t *testing.T) {
	needPHPModules(t, "pcntl", "posix", "sysvmsg")
	i := newIsland(t)
	p := phpSeed(t, i, "program3.php")
	expectWorkers(p, 2, "started", 1)
	sent := 0
	feed := func() {
		t.Helper()
		i.run("php", "-r", fmt.Sprintf(`$q = msg_get_queue(0x7000001);
			for ($i = %d; $i < %d; $i++) msg_send($q, 1 + $i, "job $i", false) || exit(1);`, sent, sent+100))
		sent += 100
		for n := range sent {
			p.Stdout.ExpectTimes(t, fmt.Sprintf("Message: job %d\n", n), 1)
		}
	}
	feed()
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("reload done", nil)
	expectWorkers(p, 2, "started", 2)
	feed()
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	expectClean(p)
	if handled, _, lost := p.Totals(); handled != sent || lost != 0 {
		t.Errorf("handled %d, lost %d; want %d and none", handled, lost, sent)
	}
}

// The fourth takes them from a port, from the seed's client.
func TestSDKPHPSeedPort(t *testing.T) {
	needPHPModules(t, "pcntl", "posix")
	i := newIsland(t)
	p := phpSeed(t, i, "program4.php")
	expectWorkers(p, 2, "started", 1)
	sent := 0
	feed := func() {
		t.Helper()
		for range 5 {
			if out := i.run("php", seedProgram(t, "client.php")); out != "" {
				t.Errorf("the client says %q", out)
			}
			sent++
		}
		p.Stdout.ExpectTimes(t, `Message: {"data":"hello","uid":1991}`+"\n", sent)
	}
	feed()
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("reload done", nil)
	expectWorkers(p, 2, "started", 2)
	feed()
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	expectClean(p)
	if handled, _, lost := p.Totals(); handled != sent || lost != 0 {
		t.Errorf("handled %d, lost %d; want %d and none", handled, lost, sent)
	}
}

// The fixtures are what the seed has, so nobody mends them by accident.
func TestSDKPHPSeedIsUnchanged(t *testing.T) {
	text := func(name string) string {
		b, err := os.ReadFile(seedProgram(t, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	start := `$pool->on("WorkerStart", function ($pool, $workerId) {`
	first, second := text("program1.php"), text("program2.php")
	head, rest, _ := strings.Cut(first, start)
	_, tail, _ := strings.Cut(rest, "\n});\n")
	if !strings.HasPrefix(second, head+start) || !strings.HasSuffix(second, "\n});\n"+tail) {
		t.Error("program2.php differs from program1.php not in its WorkerStart alone")
	}
	for name, want := range map[string]string{
		"program1.php": "while (true) {", "program2.php": "pcntl_signal_dispatch();",
		"program3.php": "new Swoole\\Process\\Pool(2, SWOOLE_IPC_MSGQUEUE, 0x7000001);", "program4.php": "$pool->listen('127.0.0.1', 8089);",
	} {
		if !strings.Contains(text(name), want) || strings.Contains(text(name), "POOLINIT") {
			t.Errorf("%s is not the seed's", name)
		}
	}
}
