package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/supervisor"
)

func TestStatus(t *testing.T) {
	w := newWorld(t)
	d, raw, err := w.client().Status()
	if err != nil {
		t.Fatal(err)
	}
	if d.PID != os.Getpid() || len(d.Workers) != 2 || d.Workers[0].PID != os.Getpid() || d.Workers[0].Memory == 0 || !d.Ready {
		t.Errorf("%s", raw)
	}
	if !json.Valid(raw) || raw[len(raw)-1] != '\n' {
		t.Errorf("%q", raw)
	}
}

// More than fits into a socket's buffer.
func TestStatusOfManyWorkers(t *testing.T) {
	w := newWorld(t)
	w.pool.set(func(s *supervisor.Stats) { s.Workers = make([]supervisor.WorkerStats, 5000) })
	d, _, err := w.client().Status()
	if err != nil || len(d.Workers) != 5000 {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		change func(*supervisor.Stats)
		want   Answer
	}{
		{func(*supervisor.Stats) {}, Answer{Live: true, Ready: true}},
		{func(s *supervisor.Stats) { s.Workers[0].State = supervisor.Starting }, Answer{Live: true, Reason: "no worker is ready"}},
		{func(s *supervisor.Stats) { s.Complete = false }, Answer{Live: true, Reason: "not every worker has been ready yet"}},
		{func(s *supervisor.Stats) { s.Stopping = "SIGTERM" }, Answer{Live: true, Reason: "the pool stops: SIGTERM"}},
	} {
		w.pool.set(tt.change)
		if got, err := w.client().Health(); err != nil || got != tt.want {
			t.Errorf("%+v, %v; want %+v", got, err, tt.want)
		}
	}
}

// stuckQueue has a message that waits beside a worker with nothing to do.
type stuckQueue struct{}

func (stuckQueue) Stats(workers int) ipc.QueueStats {
	return ipc.QueueStats{Messages: 1, OldestID: 7, Oldest: time.Minute, Idle: 1, Workers: make([]ipc.WorkerStats, workers)}
}

func (stuckQueue) Paused() bool { return false }

// It takes a second to be sure that a pool is stuck: the one of a bubble.
func TestHealthOfAStuckPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		view := newFakePool().view()
		view.Queue, view.Serving = stuckQueue{}, func() bool { return true }
		here, there := socketPair(t)
		c := &Client{conn: here, in: bufio.NewReader(here), within: AnswerTime}
		if err := c.ask(request{Command: cmdHealth}); err != nil {
			t.Fatal(err)
		}
		(&session{Server: &Server{view: view, times: times{request: requestTime}}, conn: there, in: there, begin: func() {}}).answer()
		want := Answer{Ready: true, Reason: "a message has waited for 1m0s while a ready worker has nothing to do"}
		if got, err := c.answer(c.within); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	})
}

// socketPair is a connection between two ends of the test.
func socketPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// told is what one reload --wait was told.
type told struct {
	progress []Answer
	last     Answer
	err      error
}

// reloads asks for a reload, and waits until the pool has heard of it. What
// comes is for result.
func (w *world) reloads() (progress <-chan Answer, result <-chan told) {
	w.t.Helper()
	c := w.client()
	each, all := make(chan Answer), make(chan told, 1) // 1: the test may have ended
	go func() {                                        // ends with the server at the latest
		var r told
		r.last, r.err = c.Reload(true, func(a Answer) {
			r.progress = append(r.progress, a)
			each <- a
		})
		all <- r
	}()
	<-w.pool.asked
	return each, all
}

func running(generation, replaced int) func(*supervisor.Stats) {
	return func(s *supervisor.Stats) {
		s.Reload.Running, s.Reload.Generation, s.Reload.Replaced = true, generation, replaced
	}
}

func TestReloadWait(t *testing.T) {
	w := newWorld(t)
	progress, result := w.reloads()
	for i := 1; i <= 2; i++ {
		w.pool.set(running(2, i))
		if got, want := <-progress, (Answer{Generation: 2, Replaced: i, Workers: 2}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	w.pool.set(func(s *supervisor.Stats) { s.Reload.Running = false })
	w.pool.results <- supervisor.ReloadResult{Outcome: supervisor.Complete, Generation: 2, Took: 1500 * time.Millisecond}
	got := <-result
	if want := (Answer{Generation: 2, Outcome: "done", Seconds: 1.5}); got.err != nil || got.last != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if asked := w.pool.asks(); asked != fmt.Sprintf("poolinit reload (uid %d, pid %d)", os.Geteuid(), os.Getpid()) {
		t.Errorf("the log would say %q", asked)
	}
}

// The last step and the end may come between two looks.
func TestReloadWaitTellsTheLastStep(t *testing.T) {
	w := newWorld(t)
	progress, result := w.reloads()
	w.pool.set(running(2, 2))
	w.pool.set(func(s *supervisor.Stats) { s.Reload.Running = false })
	w.pool.results <- supervisor.ReloadResult{Outcome: supervisor.Failed, Generation: 2, Reason: "new worker 1 is not ready: crash"}
	if got, want := <-progress, (Answer{Generation: 2, Replaced: 2, Workers: 2}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := <-result; got.err != nil || got.last.Outcome != "failed" || got.last.Reason != "new worker 1 is not ready: crash" {
		t.Errorf("%+v", got)
	}
}

// What was there before is not the progress of this one.
func TestReloadWaitIsNotToldOfAnother(t *testing.T) {
	w := newWorld(t)
	w.pool.set(running(2, 2))
	w.pool.set(func(s *supervisor.Stats) { s.Reload.Running = false })
	_, result := w.reloads()
	w.pool.results <- supervisor.ReloadResult{Outcome: supervisor.Interrupted, Reason: "the pool is stopping"}
	if got := <-result; got.err != nil || len(got.progress) > 0 || got.last.Outcome != "interrupted" || got.last.Reason != "the pool is stopping" {
		t.Errorf("%+v", got)
	}
}

// One that is queued is told of the one before, by its generation.
func TestReloadWaitInTheQueue(t *testing.T) {
	w := newWorld(t)
	w.pool.set(running(2, 1))
	progress, result := w.reloads()
	for _, step := range [][2]int{{2, 1}, {3, 1}} {
		w.pool.set(running(step[0], step[1]))
		if got := <-progress; got.Generation != step[0] || got.Replaced != step[1] {
			t.Errorf("%+v, want %v", got, step)
		}
	}
	w.pool.set(running(4, 2)) // and another one follows
	w.pool.results <- supervisor.ReloadResult{Outcome: supervisor.Complete, Generation: 3}
	for {
		select {
		case a := <-progress: // a tick may have come between the two
			if a.Generation == 3 {
				t.Errorf("%+v", a)
			}
			continue
		case got := <-result:
			if got.err != nil || got.last.Generation != 3 || got.last.Outcome != "done" {
				t.Errorf("%+v", got)
			}
		}
		return
	}
}

func TestReloadWithoutWait(t *testing.T) {
	w := newWorld(t)
	if a, err := w.client().Reload(false, nil); err != nil || a != (Answer{Accepted: true}) {
		t.Errorf("%+v, %v", a, err)
	}
	<-w.pool.asked
}

// A pool that stops does not say that it reloads, whoever asks.
func TestReloadWhileStopping(t *testing.T) {
	w := newWorld(t)
	w.pool.set(func(s *supervisor.Stats) { s.Stopping = "SIGTERM" })
	w.pool.results <- supervisor.ReloadResult{Outcome: supervisor.Interrupted, Reason: "the pool is stopping"}
	for _, wait := range []bool{false, true} {
		if a, err := w.client().Reload(wait, nil); err != nil || a != (Answer{Outcome: "interrupted", Reason: "the pool is stopping"}) {
			t.Errorf("wait %v: %+v, %v", wait, a, err)
		}
		<-w.pool.asked
	}
}

func TestReloadOfAPoolThatDies(t *testing.T) {
	w := newWorld(t)
	_, result := w.reloads()
	w.close()
	wantError(t, (<-result).err, fmt.Sprintf("the pool of process %d closed the connection: it has ended, or is about to", os.Getpid()))
}

func TestStopWithoutWait(t *testing.T) {
	w := newWorld(t)
	for _, now := range []bool{false, false, true} {
		if a, err := w.client().Stop(false, now); err != nil || a != (Answer{Accepted: true, Kills: now}) {
			t.Errorf("%+v, %v", a, err)
		}
		w.pool.set(func(s *supervisor.Stats) { s.Stopping = "poolinit stop" })
	}
	who := fmt.Sprintf("poolinit stop (uid %d, pid %d)", os.Geteuid(), os.Getpid())
	if asked := w.pool.asks(); asked != who+"; "+who+"; "+strings.Replace(who, "stop", "stop --now", 1) {
		t.Errorf("the log would say %q", asked)
	}
}

// Stop with wait returns when the process has ended, not when its server has.
func TestStopWait(t *testing.T) {
	pool := play(t, nil, "pool")
	c, err := Dial(pool.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stopped := make(chan error, 1) // 1: the test may have ended
	go func() { _, err := c.Stop(true, false); stopped <- err }()
	testkit.Eventually(t, "it has closed its server", func() (any, bool) {
		_, err := Dial(pool.cmd.Process.Pid)
		return err, err == noPool(pool.cmd.Process.Pid)
	})
	select {
	case err := <-stopped:
		t.Errorf("Stop returns %v while the process runs", err)
	default:
	}
	pool.stdin.Close()
	if got := pool.text(); got != "serving\nclosed\n" {
		t.Errorf("the pool says %q", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// stoppedPool returns the PID of a pool that SIGSTOP has stopped.
func stoppedPool(t *testing.T) int {
	t.Helper()
	pid := play(t, nil, "pool").cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "it is stopped", func() (any, bool) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		return err, strings.Contains(string(text), "State:\tT")
	})
	return pid
}

// A pool that does not get to answer is said to hang.
func TestHangingPool(t *testing.T) {
	pid := stoppedPool(t)
	for what, ask := range map[string]func(*Client) error{
		"status": func(c *Client) error { _, _, err := c.Status(); return err },
		"health": func(c *Client) error { _, err := c.Health(); return err },
		"reload": func(c *Client) error { _, err := c.Reload(true, nil); return err },
		"stop":   func(c *Client) error { _, err := c.Stop(true, false); return err },
		"pause":  func(c *Client) error { return c.Pause() },
		"queue":  func(c *Client) error { _, _, err := c.Queue(1); return err },
		"drop":   func(c *Client) error { _, err := c.Drop([]uint64{1}); return err },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c, err := Dial(pid)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.within != AnswerTime {
				t.Errorf("it would wait for %v, not %v", c.within, AnswerTime)
			}
			c.within = AnswerTime / 20
			wantError(t, ask(c), fmt.Sprintf("the pool of process %d does not answer within 150ms: it hangs, or is stopped", pid))
		})
	}
}

// When the kernel's queue is full nobody is kept waiting either.
func TestHangingPoolWithAQueue(t *testing.T) {
	pid := stoppedPool(t)
	for range 1 << 16 {
		c, err := Dial(pid)
		if err != nil {
			wantError(t, err, fmt.Sprintf("the pool of process %d hangs, or is stopped: too many wait for it already", pid))
			return
		}
		defer c.Close()
	}
	strict.Skip(t, "the kernel's queue has no end")
}

// Who has taken somebody else's name is not trusted.
func TestSquatter(t *testing.T) {
	for _, tt := range []struct {
		attr *syscall.SysProcAttr
		want string
	}{
		{nil, "belongs to process %d: not trusting it"},
		{&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Credential: nobody}, "belongs to process %d: not trusting it"},
	} {
		squatter := play(t, tt.attr, "squat", name(t))
		_, err := Dial(os.Getpid())
		wantError(t, err, fmt.Sprintf(tt.want, squatter.cmd.Process.Pid))
		squatter.stdin.Close()
		squatter.text()
	}
}

var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

// Root may ask the pool of any user.
func TestPoolOfAnotherUser(t *testing.T) {
	pool := play(t, &syscall.SysProcAttr{Credential: nobody}, "pool")
	c, err := Dial(pool.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Health(); err != nil {
		t.Error(err)
	}
}

// Nobody else may, nor believes what it would say.
func TestPoolOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		strict.Skip(t, "this is not root")
	}
	w := newWorld(t)
	got := play(t, &syscall.SysProcAttr{Credential: nobody}, "dial", strconv.Itoa(os.Getpid())).text()
	want := fmt.Sprintf("the pool of process %d runs as uid 0: only that one and root may ask it, and this is uid 65534\n", os.Getpid())
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
	testkit.Eventually(t, "the pool has noticed", func() (any, bool) { return w.pool.refusals(), len(w.pool.refusals()) == 1 })
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	ln, err := net.Listen("unix", name(t))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, tt := range []struct{ answer, want string }{
		{"hello\n", "cannot parse the pool's answer: invalid character"},
		{`{"pid":"x"}` + "\n", "cannot parse the pool's answer"},
		{"", "closed the connection: it has ended, or is about to"},
		{`{"pid":1`, "closed the connection: it has ended, or is about to"},
		{`{"error":"no, thank you"}` + "\n", "the pool refuses: no, thank you"},
		{`{"error":7}` + "\n", "cannot parse the pool's answer"},
	} {
		served := make(chan struct{})
		go func() { // ends when it has served one
			defer close(served)
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, maxRequest))
			_, _ = conn.Write([]byte(tt.answer))
			conn.Close()
		}()
		c, err := Dial(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = c.Status()
		wantError(t, err, tt.want)
		c.Close()
		<-served
	}
}

// TestOpen runs TestOpenAlone in a network namespace of its own, where no other
// pool can be found.
func TestOpen(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestOpenAlone$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "CONTROL_ALONE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		strict.Skip(t, "no permission to make a network namespace: %v", err)
	}
	if err != nil || !strings.Contains(string(out), "PASS") || strings.Contains(string(out), "no tests") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestOpenAlone(t *testing.T) {
	if os.Getenv("CONTROL_ALONE") == "" {
		t.Skip("is for TestOpen") // no lack: another test runs it
	}
	if _, err := Open(); err != ErrNone {
		t.Errorf("no pool: %v", err)
	}
	head, err := prefix()
	if err != nil {
		t.Fatal(err)
	}
	// Somebody who listens at names that look like a pool's, and one that has a list in it.
	for _, name := range []string{head + "123456789", head + "1", head + "2", head + "x", "@a\n0000000000000000: 00000002 00000000 00010000 0001 01 1 " + head + "3"} {
		ln, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
	}
	if _, err := Open(); err == nil || !strings.Contains(err.Error(), "not trusting it") {
		t.Errorf("squatters alone: %v", err)
	}
	first := play(t, nil, "pool")
	one := opens(t, first)
	if !one {
		t.Error("the only pool is not found")
	}
	foreign := play(t, &syscall.SysProcAttr{Credential: nobody}, "pool")
	if !opens(t, first) {
		t.Error("beside a pool of another user the own one is not found")
	}
	if c, err := Dial(foreign.cmd.Process.Pid); err != nil || c.UID != nobody.Uid {
		t.Errorf("by its PID root asks any pool: %v", err)
	}
	second := play(t, nil, "pool")
	a, b := first.cmd.Process.Pid, second.cmd.Process.Pid
	_, err = Open()
	wantError(t, err, fmt.Sprintf("2 pools run here, with the PIDs %d %d: say which one by --pid", min(a, b), max(a, b)))
	first.stdin.Close()
	first.text()
	if !opens(t, second) {
		t.Error("the pool that is left is not found")
	}
	second.stdin.Close()
	second.text()
	_, err = Open()
	wantError(t, err, "which says that it is a pool, is of uid 65534; if you mean it, say --pid ")
}

func opens(t *testing.T, pool *child) bool {
	t.Helper()
	c, err := Open()
	if err != nil {
		t.Error(err)
		return false
	}
	defer c.Close()
	return c.PID == pool.cmd.Process.Pid
}
