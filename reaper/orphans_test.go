package reaper

import (
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
)

// Ten thousand orphans, all at once: each is counted and reported, none stays.
func TestOrphansAreReaped(t *testing.T) {
	var told, wrong atomic.Int64
	r := newTest(t, func(_ int, exit Exit) {
		told.Add(1)
		if exit.Code != 7 {
			wrong.Add(1)
		}
	})
	n := scaled(10_000)
	p := start(t, r, playStorm(t, n))
	testkit.Wait(t, "exit", p.Exited())
	if status := p.Exit().Status(); status != 0 {
		t.Fatalf("exit code %d", status)
	}
	testkit.Eventually(t, "every orphan reaped", func() (any, bool) { return r.Stats().Orphans, r.Stats().Orphans == uint64(n) })
	testkit.Eventually(t, "told of every orphan", func() (any, bool) { return told.Load(), told.Load() == int64(n) })
	if wrong.Load() != 0 {
		t.Errorf("%d with a wrong status", wrong.Load())
	}
	if left := zombiesOf(os.Getpid()); left != 0 {
		t.Errorf("%d zombies left", left)
	}
	testkit.Wait(t, "nobody left", p.Gone())
	expectEmpty(t, r)
}

// While orphans come by the thousand, starting and signalling go on.
func TestStartInAStorm(t *testing.T) {
	r := newTest(t, nil)
	storm := start(t, r, playStorm(t, scaled(5000)))
	for range 20 {
		p := start(t, r, &Spec{Args: []string{"sleep", "1000"}, Env: os.Environ(), NewGroup: true}) // a Go program that is about to begin may end otherwise
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		testkit.Wait(t, "exit", p.Exited())
		if got := p.Exit().Status(); got != 143 {
			t.Errorf("status %d, want 143", got)
		}
	}
	testkit.Wait(t, "exit", storm.Exited())
}

// The control: what the tests above see happens because of the Reaper.
func TestWithoutReaperZombiesStay(t *testing.T) {
	r := newTest(t, nil)
	p := start(t, r, play("nobody"))
	testkit.Wait(t, "exit", p.Exited())
	if got := p.Exit().Status(); got != 3 {
		t.Errorf("%d zombies stayed, want 3", got)
	}
}
