package reaper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/race"
)

// newTest takes over the children of the test binary for one test.
func newTest(t *testing.T, onOrphan func(int, Exit)) *Reaper {
	t.Helper()
	r, err := New(onOrphan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func start(t *testing.T, r *Reaper, spec *Spec) *Process {
	t.Helper()
	p, err := r.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the Reaper's
		_ = p.SignalGroup(syscall.SIGKILL)
		_ = p.Signal(syscall.SIGKILL)
		testkit.Wait(t, "the end of a child", p.Exited())
	})
	return p
}

// scaled is a number of processes. One with a race detector's memory takes ten
// times as long to fork, and to end.
func scaled(n int) int {
	switch {
	case testing.Short():
		return n / 50
	case race.On:
		return n / 10
	}
	return n
}

func TestExitIsRouted(t *testing.T) {
	r := newTest(t, nil)
	for _, c := range []struct {
		spec   *Spec
		code   int
		signal syscall.Signal
		status int
	}{
		{play("exit", "0"), 0, 0, 0},
		{play("exit", "42"), 42, 0, 42},
		{play("exit", "255"), 255, 0, 255},
		{play("die", "15"), 0, syscall.SIGTERM, 143},
		{play("die", "9"), 0, syscall.SIGKILL, 137},
		{play("die", "64"), 0, 64, 192},
	} {
		before := time.Now()
		p := start(t, r, c.spec)
		testkit.Wait(t, "exit", p.Exited())
		testkit.Wait(t, "nobody left", p.Gone())
		exit := p.Exit()
		if exit.Code != c.code || exit.Signal != c.signal || exit.Status() != c.status {
			t.Errorf("%v: code %d, signal %v, status %d", c, exit.Code, exit.Signal, exit.Status())
		}
		if exit.At.Before(before) || exit.At.After(time.Now()) {
			t.Errorf("exited at %v, which is not between %v and now", exit.At, before)
		}
		if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("Signal after the end: %v", err)
		}
		if err := p.SignalGroup(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("SignalGroup after the end: %v", err)
		}
	}
	if n := r.Stats().Orphans; n != 0 {
		t.Errorf("%d orphans", n)
	}
}

func TestRusageIsTheChilds(t *testing.T) {
	r := newTest(t, nil)
	p := start(t, r, play("burn"))
	testkit.Wait(t, "exit", p.Exited())
	usage := p.Exit().Rusage
	if cpu := usage.Utime.Nano() + usage.Stime.Nano(); cpu < int64(30*time.Millisecond) {
		t.Errorf("CPU time %v, want 30 ms or more", time.Duration(cpu))
	}
	if usage.Maxrss < 1024 {
		t.Errorf("peak memory %d kB", usage.Maxrss)
	}
}

// A child may be dead before Start returns; and whoever asks, however often and
// at the same time, gets the same answer.
func TestChildrenThatDieAtOnce(t *testing.T) {
	r := newTest(t, nil)
	n, args := scaled(2000), exits(t)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range n / 4 {
				want := (worker*31 + i) % 256
				p, err := r.Start(&Spec{Args: args(want), NewGroup: i%2 == 0})
				if err != nil {
					t.Error(err)
					return
				}
				testkit.Wait(t, "exit", p.Exited())
				if got := p.Exit().Status(); got != want {
					t.Errorf("status %d, want %d", got, want)
				}
			}
		})
	}
	wg.Wait()
	expectEmpty(t, r)
}

func expectEmpty(t *testing.T, r *Reaper) {
	t.Helper()
	testkit.Eventually(t, "nothing registered", func() (any, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return fmt.Sprint(r.procs, r.lingering), len(r.procs) == 0 && r.lingering == 0
	})
}

// Ten thousand statuses, two hundred at a time, each at the same moment.
func TestNoStatusIsLost(t *testing.T) {
	r := newTest(t, nil)
	const crowd = 200
	args := exits(t)
	for range max(1, scaled(10_000)/crowd) {
		gate, open, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		syscall.CloseOnExec(int(open.Fd()))
		var all [crowd]*Process
		for i := range all {
			p, err := r.Start(&Spec{Args: args(i), Files: []uintptr{gate.Fd(), 1, 2}, NewGroup: true})
			if err != nil {
				t.Fatal(err)
			}
			all[i] = p
		}
		gate.Close()
		open.Close() // now they all end
		for i, p := range all {
			testkit.Wait(t, "exit", p.Exited())
			if got := p.Exit().Status(); got != i {
				t.Fatalf("status %d, want %d", got, i)
			}
		}
	}
	expectEmpty(t, r)
	if n := r.Stats().Orphans; n != 0 {
		t.Errorf("%d orphans", n)
	}
}

func TestGroupOutlivesItsLeader(t *testing.T) {
	orphans := make(chan Exit, 10) // more than there will be
	r := newTest(t, func(_ int, exit Exit) { orphans <- exit })
	p := start(t, r, play("leader"))
	testkit.Wait(t, "exit", p.Exited())
	if got := p.Exit().Status(); got != 3 {
		t.Fatalf("status %d", got)
	}
	select {
	case <-p.Gone():
		t.Fatal("Gone while a member of the group lives")
	default:
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal: %v, want ErrProcessDone", err)
	}
	if err := p.SignalGroup(0); err != nil { // is a process there?
		t.Errorf("SignalGroup: %v", err)
	}
	if err := p.SignalGroup(syscall.SIGKILL); err != nil {
		t.Errorf("SignalGroup: %v", err)
	}
	testkit.Wait(t, "nobody left", p.Gone())
	if exit := <-orphans; exit.Signal != syscall.SIGKILL {
		t.Errorf("the orphan's exit: %+v", exit)
	}
	expectEmpty(t, r)
}

// A stopped child is not reported, and the loop does not spin.
func TestStoppedChild(t *testing.T) {
	r := newTest(t, nil)
	p := start(t, r, play("block"))
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT, syscall.SIGSTOP} {
		if err := p.Signal(sig); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "stopped or not", func() (any, bool) {
			state := stateOf(p.PID())
			return string(state), (state == 'T') == (sig == syscall.SIGSTOP)
		})
	}
	if err := p.SignalGroup(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "nobody left", p.Gone())
}

func stateOf(pid int) byte {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	if len(rest) == 0 {
		return 0
	}
	return rest[0]
}

func TestStartAfterClose(t *testing.T) {
	r, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := r.Start(play("exit", "0")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Start: %v, want ErrClosed", err)
	}
}

// output starts a child and returns what it, and what it starts, writes.
func output(t *testing.T, r *Reaper, spec *Spec) (text string, p *Process) {
	t.Helper()
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	spec.Files[1] = writing.Fd()
	p = start(t, r, spec)
	writing.Close()
	out, err := io.ReadAll(reading)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "exit", p.Exited())
	return string(out), p
}

// The peak memory of a child is its own, not that of this program, which the kernel
// counts as the child's until exec. Of a small child that ends by itself it is not
// known.
func TestPeakIsTheChildsOwn(t *testing.T) {
	const own = 96 << 20
	ballast := make([]byte, own)
	for i := range len(ballast) / 4096 {
		ballast[i*4096] = 1
	}
	r := newTest(t, nil)
	p := start(t, r, &Spec{Args: []string{"sleep", "1000"}, NewGroup: true})
	if err := p.SignalGroup(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, "exit", p.Exited())
	if peak, counted := p.Exit().Peak, p.Exit().Rusage.Maxrss; peak == 0 || peak > own/2 || counted<<10 < own {
		t.Errorf("peak %d, the kernel counts %d kB", peak, counted)
	}
	p = start(t, r, &Spec{Args: []string{"true"}})
	testkit.Wait(t, "exit", p.Exited())
	if peak := p.Exit().Peak; peak != 0 {
		t.Errorf("peak %d of a child that was not looked at", peak)
	}
	runtime.KeepAlive(ballast)
}
