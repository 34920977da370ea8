package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// counting is an OOM over a fixture, and what sets its count.
func counting(t *testing.T, kills int) (o *OOM, set func(kills int)) {
	t.Helper()
	root := machine(t, "0::/\n", v2Mounts, nil)
	set = func(kills int) {
		write(t, root+"/sys/fs/cgroup/memory.events", fmt.Sprintf("oom 1\noom_kill %d\noom_group_kill 0\n", kills))
	}
	set(kills)
	m, err := Find(root)
	if err != nil {
		t.Fatal(err)
	}
	o = Watch(m)
	t.Cleanup(func() { _ = o.Close() })
	return o, set
}

func TestOOMUsesUpOneCountADeath(t *testing.T) {
	o, set := counting(t, 5)
	expect := func(want bool, when string) {
		t.Helper()
		if got := o.Killed(); got != want {
			t.Errorf("%s: Killed = %v", when, got)
		}
	}
	expect(false, "counts from before")
	set(7)
	expect(true, "the first of two")
	expect(true, "the second")
	expect(false, "a SIGKILL of somebody")
	set(8)
	o.Orphan(syscall.SIGTERM)
	expect(true, "an orphan that died of something else")
	set(9)
	o.Orphan(syscall.SIGKILL)
	expect(false, "the orphan was it")
	set(11)
	o.Orphan(syscall.SIGKILL)
	expect(true, "orphan and worker at once")
	set(20)
	o.Sync()
	expect(false, "after Sync")
	set(3)
	expect(false, "a count that fell")
	set(4)
	expect(true, "grown from there")
	if err := o.Err(); err != nil {
		t.Error(err)
	}
}

func TestOOMWithoutController(t *testing.T) {
	var none *OOM
	for _, o := range []*OOM{none, Watch(nil)} {
		o.Sync()
		o.Orphan(syscall.SIGKILL)
		if o.Killed() || !errors.Is(o.Err(), ErrNone) || o.Close() != nil {
			t.Errorf("%v: Err = %v", o, o.Err())
		}
	}
}

func TestOOMConcurrently(t *testing.T) {
	o, set := counting(t, 0)
	set(50)
	var yes atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if o.Killed() {
				yes.Add(1)
			}
		})
	}
	wg.Wait()
	if yes.Load() != 50 {
		t.Errorf("%d of 50", yes.Load())
	}
}

// The roles that the test binary plays in TestOOMForReal.
const (
	roleVar  = "CGROUP_TEST_ROLE"
	groupVar = "CGROUP_TEST_GROUP"

	limit  = 192 << 20 // of the group: room for two test binaries with a race detector
	greedy = 1 << 30   // what the glutton wants
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "supervisor":
		playSupervisor()
	case "glutton":
		playGlutton()
	case "sleeper":
		_, _ = io.ReadAll(os.Stdin)
	default:
		os.Exit(m.Run())
	}
}

// playSupervisor enters the group and does what a pool does there: it looks at the deaths of two children.
func playSupervisor() {
	if err := os.WriteFile(os.Getenv(groupVar)+"/cgroup.procs", []byte("0"), 0); err != nil {
		fmt.Println("skip:", err)
		return
	}
	o := NewOOM()
	defer o.Close()
	for _, role := range []string{"sleeper", "glutton", "sleeper"} {
		died, err := runChild(role)
		fmt.Println(role, died, o.Killed(), err)
	}
	fmt.Println(o.memory.Path(), o.Err())
}

// runChild returns the signal that a child in that role died of. A sleeper gets its SIGKILL from here.
func runChild(role string) (os.Signal, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	p, err := os.StartProcess("/proc/self/exe", os.Args[:1], &os.ProcAttr{
		Env:   []string{roleVar + "=" + role, "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")},
		Files: []*os.File{r, nil, nil},
	})
	if err != nil {
		return nil, err
	}
	if role == "sleeper" {
		_ = p.Kill()
	}
	state, err := p.Wait()
	if err != nil {
		return nil, err
	}
	return state.Sys().(syscall.WaitStatus).Signal(), nil
}

// playGlutton makes itself the one that the OOM killer chooses.
func playGlutton() {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	held := make([]byte, greedy)
	for i := 0; i < greedy; i += 4096 {
		held[i] = 1
	}
	fmt.Println(len(held))
}

func TestOOMForReal(t *testing.T) {
	group := makeGroup(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := os.StartProcess("/proc/self/exe", os.Args[:1], &os.ProcAttr{
		Env:   []string{roleVar + "=supervisor", groupVar + "=" + group, "GOCOVERDIR=" + t.TempDir()},
		Files: []*os.File{nil, w, os.Stderr},
	})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(r)
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	got := string(text)
	if reason, skip := strings.CutPrefix(got, "skip:"); skip {
		strict.Skip(t, "cannot enter a cgroup: %s", reason)
	}
	want := "sleeper killed false <nil>\nglutton killed true <nil>\nsleeper killed false <nil>\n" + group
	if !strings.HasPrefix(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// makeGroup makes a cgroup with a memory limit below this process's own, or skips the test.
func makeGroup(t *testing.T) string {
	t.Helper()
	m, err := Find("")
	if err != nil {
		strict.Skip(t, "%v", err)
	}
	defer m.Close()
	group := filepath.Join(filepath.Dir(m.Path()), "cgroup-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		strict.Skip(t, "cannot make a cgroup: %v", err)
	}
	t.Cleanup(func() { removeGroup(t, group) })
	file, swap := "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	swapLimit := limit // of memory and swap together
	if filepath.Base(m.Path()) == "memory.events" {
		file, swap, swapLimit = "memory.max", "memory.swap.max", 0
	}
	if err := os.WriteFile(filepath.Join(group, file), []byte(strconv.Itoa(limit)), 0); err != nil {
		strict.Skip(t, "cannot limit a cgroup: %v", err)
	}
	// Absent where the kernel does not account for swap. Without it there is usually none.
	_ = os.WriteFile(filepath.Join(group, swap), []byte(strconv.Itoa(swapLimit)), 0)
	return group
}

// removeGroup kills what is left in the group and waits for the kernel to let go of it.
func removeGroup(t *testing.T, group string) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for {
		err := os.Remove(group)
		if err == nil {
			return
		}
		text, _ := os.ReadFile(group + "/cgroup.procs")
		for pid := range strings.FieldsSeq(string(text)) {
			if n, err := strconv.Atoi(pid); err == nil && n > 1 {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Errorf("left behind: %v", err)
			return
		}
	}
}
