package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

const (
	stopTimeout = 4 * time.Second
	// stopSlack is how long after --stop-timeout a pool may take to end.
	stopSlack = 10 * time.Second
	// roundTime is how long the trouble of a round lasts.
	roundTime = 12 * time.Second
)

// A round is all that its seed decides, and what happens in it.
type round struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand // of the main goroutine
	oracle *oracle
	cage   *cage
	disk   *disk // nil: this machine mounts none

	dir      string
	queue    harness.SysVQueue
	tagged   bool // how workers get messages
	workers  int
	attempts int
	poison   bool // messages may crash and hang workers, and no deed harms one
	flags    []string

	over    atomic.Bool // clients send nothing new
	clients sync.WaitGroup
	removed time.Time // when the System V queue was, with what was in it

	mu    sync.Mutex
	lives []*life
	alive bool // the last one is
}

func newRound(t *testing.T, seed uint64) *round {
	r := &round{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), oracle: newOracle(), cage: newCage(t), queue: harness.NewSysVQueue(t)}
	var err error
	if r.dir, err = os.MkdirTemp("", "chaos"); err != nil { // t.TempDir is too long for a socket's path
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(r.dir) })
	r.disk = newDisk(t, r.path("image"), r.path("disk"))
	harness.IssueCertificate(t, r.path("tls"), "first")
	r.draw()
	return r
}

func (r *round) path(name string) string { return filepath.Join(r.dir, name) }

// draw decides what the pool is like.
func (r *round) draw() {
	one := func(of ...string) string { return of[r.rng.IntN(len(of))] }
	r.tagged, r.workers, r.poison = r.rng.IntN(3) > 0, 2+r.rng.IntN(4), r.rng.IntN(3) == 0
	r.attempts = 30
	if r.poison {
		r.attempts = 3
	}
	r.flags = []string{"--workers", fmt.Sprint(r.workers), "--attempts", fmt.Sprint(r.attempts), "--stop-timeout", stopTimeout.String(),
		"--http", "127.0.0.1:7000", "--spool", filepath.Join(r.path("disk"), "spool"), "--log-format", "json", "--give-up", "0",
		"--restart-delay", "1ms", "--restart-delay-max", "50ms", "--retry-delay", "1ms", "--retry-delay-max", "5ms",
		"--min-ready", "200ms", "--ready", one("auto", "started"), "--reload-order", one("stop-first", "start-first"),
		"--queue-messages", one("4", "64", "1024"), "--queue-bytes", one("1MiB", "64MiB"), "--window", one("auto", "1", "8"),
		"--message-timeout", "2s", "--timeout-signal", one("KILL", "TERM"), "--output", one("inherit", "prefix")}
	if r.tagged {
		r.flags = append(r.flags, "--deliver", "tagged", "--concurrency", one("1", "4", "16"))
	}
	if r.rng.IntN(3) == 0 {
		r.flags = append(r.flags, "--max-messages", "500")
	}
	if r.rng.IntN(4) == 0 {
		r.flags = append(r.flags, "--drain-delay", "300ms")
	}
	for _, url := range []string{"tcp://127.0.0.1:7001?reply=always", "tcp://127.0.0.1:7002?tagged=true",
		"tcp://127.0.0.1:7003?reply=always&cert=" + r.path("tls.crt") + "&key=" + r.path("tls.key"),
		"unix://" + r.path("sock") + "?reply=always", r.queue.URL()} {
		r.flags = append(r.flags, "--listen", url)
	}
}

func runRound(t *testing.T, seed uint64) {
	r := newRound(t, seed)
	t.Cleanup(func() {
		r.over.Store(true)
		r.keepLogs()
	})
	t.Logf("poolinit run %s", strings.Join(r.flags, " "))
	first := r.startLife().idleFigures(r.workers)
	for id := range 6 {
		r.clients.Go(func() { r.client(clientKinds[id%len(clientKinds)], id) })
	}
	r.clients.Go(r.producer)
	r.torment()
	r.settle()
	r.end(first)
	r.oracle.judge(r, readBook(t, r.path("book")))
	r.oracle.report(t)
}

// A step is a deed of the schedule.
type step struct {
	at, long time.Duration // when it begins, and how long it lasts if it lasts
	deed     *deed
	seed     uint64 // of what the deed draws
}

// schedule draws the whole of it before anything happens.
func (r *round) schedule() (steps []step) {
	var pool []*deed
	for i := range deeds {
		if d := &deeds[i]; d.possible == nil || d.possible(r) {
			for range d.weight {
				pool = append(pool, d)
			}
		}
	}
	for at := time.Duration(0); at < roundTime; at += time.Duration(r.rng.IntN(500)) * time.Millisecond {
		d, long, seed := pool[r.rng.IntN(len(pool))], time.Duration(50+r.rng.IntN(2500))*time.Millisecond, r.rng.Uint64()
		if !d.harmful || !r.poison {
			steps = append(steps, step{at, long, d, seed})
		}
	}
	return steps
}

// torment does what the schedule says. Trouble that lasts overlaps with what follows.
func (r *round) torment() {
	start := time.Now()
	var names []string
	defer func() { r.t.Logf("schedule: %s", strings.Join(names, ", ")) }()
	type remedy struct {
		at   time.Time
		undo func()
	}
	var pending []remedy
	undoUntil := func(now time.Time) {
		slices.SortStableFunc(pending, func(a, b remedy) int { return a.at.Compare(b.at) })
		for len(pending) > 0 && !pending[0].at.After(now) {
			time.Sleep(time.Until(pending[0].at))
			pending[0].undo()
			pending = pending[1:]
		}
	}
	for _, s := range r.schedule() {
		undoUntil(start.Add(s.at))
		time.Sleep(time.Until(start.Add(s.at))) // the schedule's own time: nothing is waited for
		names = append(names, fmt.Sprintf("%v %s", time.Since(start).Round(time.Millisecond), s.deed.name))
		began := time.Now()
		if undo := s.deed.do(r, rand.New(rand.NewPCG(s.seed, 1))); undo != nil {
			pending = append(pending, remedy{time.Now().Add(s.long), undo})
		}
		start = start.Add(time.Since(began)) // the pauses are as long as drawn
		if l := r.life(); testkit.IsDone(l.p.Exited) {
			log := l.p.Stderr.String()
			r.t.Fatalf("the pool has ended by itself, with %d:\n%s", l.p.Wait(), log[max(0, len(log)-6000):])
		}
	}
	undoUntil(time.Now().Add(time.Hour))
}

// settle takes all trouble away, and waits until every message is answered.
func (r *round) settle() {
	r.heal()
	l := r.life()
	testkit.Eventually(r.t, "the operator is obeyed", func() (any, bool) {
		var last harness.Result
		for _, command := range [][]string{{"resume"}, {"scale", fmt.Sprint(r.workers)}} {
			if last = r.operate(command...); last.Code != 0 {
				return last, false
			}
		}
		return last, true
	})
	r.over.Store(true)
	done := make(chan struct{})
	go func() { r.clients.Wait(); close(done) }() // ends with the clients, which have deadlines
	select {
	case <-done:
	case <-time.After(2 * testkit.Patience):
		r.t.Errorf("not every message is answered within %v of calm: %s", 2*testkit.Patience, r.operate("status").Stdout)
		r.t.FailNow()
	}
	testkit.Eventually(r.t, "the pool is idle", func() (any, bool) {
		d := l.document()
		depth := r.queue.Depth()
		if d == nil || d.Queue == nil || d.Queue.Messages > 0 || depth > 0 || !d.Ready || len(d.Workers) != r.workers {
			return fmt.Sprintf("%d in the queue, %+v", depth, d), false
		}
		return nil, true
	})
}

func (r *round) heal() {
	r.cage.release()
	if r.disk != nil {
		r.disk.heal()
	}
}

// end stops the pool, after a look at what it has left behind, and starts and stops
// another one, which delivers what is in the spool.
func (r *round) end(first figures) {
	used := r.life()
	testkit.Eventually(r.t, "the pool uses no more than at first", func() (any, bool) {
		now := used.idleFigures(r.workers)
		return now.above(first), now.above(first) == ""
	})
	r.t.Logf("at first %+v, after the trouble %+v", first, used.figures())
	r.stopLife()
	fresh := r.startLife()
	testkit.Eventually(r.t, "the spool is delivered", func() (any, bool) {
		left := r.spooled()
		d := fresh.document()
		if len(left) > 0 || d == nil || !d.Ready || d.Queue.Messages > 0 {
			return fmt.Sprint(left, d), false
		}
		return nil, true
	})
	if code := r.stopLife(); code != 0 {
		r.t.Errorf("exit code %d after a stop without trouble", code)
	}
	for _, l := range r.lives {
		l.judge(r.t)
	}
}

// spooled lists what is in the spool, but for messages that were given up.
func (r *round) spooled() (names []string) {
	entries, _ := os.ReadDir(filepath.Join(r.path("disk"), "spool"))
	for _, e := range entries {
		if name := e.Name(); !strings.HasSuffix(name, ".given-up") && name != ".lock" {
			names = append(names, name)
		}
	}
	return names
}

// operate runs poolinit's own command against the pool.
func (r *round) operate(args ...string) harness.Result {
	return harness.RunClient(r.t, nil, r.insideArgs(args)...)
}

// insideArgs is the command line of a poolinit in the pool's namespaces.
func (r *round) insideArgs(args []string) []string {
	return append([]string{"timeout", "10", "nsenter", "-t", fmt.Sprint(r.life().p.PID), "-p", "-m", "-n", "--", harness.Binary(r.t)}, args...)
}

// keepLogs writes the logs of all lives to a file, if the round has failed.
func (r *round) keepLogs() {
	if !r.t.Failed() {
		return
	}
	name := filepath.Join(os.TempDir(), fmt.Sprintf("poolinit-chaos-%d.log", r.seed))
	var all strings.Builder
	for i, l := range r.lives {
		fmt.Fprintf(&all, "== life %d\n%s", i, l.p.Stderr.String())
	}
	if err := os.WriteFile(name, []byte(all.String()), 0o600); err == nil {
		r.t.Logf("the pool's log is in %s", name)
	}
}
