package control

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

func TestStatus(t *testing.T) {
	url := harness.UnixURL(t, "?reply=always")
	p := harness.StartSDK(t, url, "-n", "2")
	harness.Send(t, strings.NewReader(harness.Seq(10)), "--reply", url).Want(t, harness.Seq(10), 0)
	p.AwaitPool()
	got := p.Inside("status")
	got.Says(t, 0, "poolinit ", ", PID 1, up ", ", generation 1: ready\n", "queue: 0 of 1024 messages, 0B of 64MiB, oldest -; in flight 0\n", "unix://")
	if strings.Contains(got.Stdout, "\x1b") {
		t.Errorf("colours in a pipe: %q", got.Stdout)
	}
	handled := 0
	for _, worker := range []string{"0", "1"} {
		n, err := strconv.Atoi(column(t, got.Stdout, worker, "HANDLED"))
		if err != nil {
			t.Error(err)
		}
		handled += n
		if state := column(t, got.Stdout, worker, "STATE"); state != "ready" {
			t.Errorf("worker %s is %s", worker, state)
		}
		if memory := column(t, got.Stdout, worker, "MEMORY"); !strings.HasSuffix(memory, "MiB") {
			t.Errorf("worker %s has %s", worker, memory)
		}
	}
	if handled != 10 {
		t.Errorf("%d handled\n%s", handled, got.Stdout)
	}
	raw := p.Inside("status", "--json")
	if raw.Code != 0 || !json.Valid([]byte(raw.Stdout)) || strings.Count(raw.Stdout, "\n") != 1 {
		t.Errorf("%+v", raw)
	}
	d := harness.ParseDocument(t, raw.Stdout)
	if d.PID != 1 || len(d.Workers) != 2 || len(d.Sources) != 1 || d.Sources[0].Handled != 10 || d.Queue == nil {
		t.Errorf("%s", raw.Stdout)
	}
	for _, w := range d.Workers {
		found := p.WaitForProcess("the worker's process", func(q harness.ProcInfo) bool { return q.Inside == w.PID })
		if found.PPID != p.PID {
			t.Errorf("worker %d is %v", w.ID, found)
		}
	}
}

// What a crashed worker leaves in the table.
func TestStatusOfACrash(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "--give-up", "0", "--restart-delay", "1h", "--restart-delay-max", "1h", "--", "exit", "3")
	p.AwaitDocument("the worker waits", func(d *harness.Document) bool { return d.Workers[0].State == "backoff" })
	got := p.Inside("status")
	got.Says(t, 0, "not ready: ", "ago: exited with code 3 after ", "(crash)", "starts in ")
	if pid := column(t, got.Stdout, "0", "PID"); pid != "-" {
		t.Errorf("PID %s", pid)
	}
	d := p.Document()
	if x := d.Workers[0].LastExit; x == nil || x.Code != 3 || x.Why != "crash" || d.Workers[0].Failures != 1 || d.Workers[0].Next < 60 {
		t.Errorf("%+v", d.Workers[0])
	}
}

func TestStatusWithoutAPool(t *testing.T) {
	harness.Need(t, "sleep")
	p := harness.Start(t, harness.Program{Args: []string{"sleep", "1000"}})
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"reload"}, {"stop", "--wait"}, {"health"}} {
		if got := p.Inside(args...); got.Stderr != "poolinit: no pool runs in this PID namespace\n" || got.Stdout != "" || got.Code != 1 {
			t.Errorf("%q: %+v", args, got)
		}
	}
	p.Inside("status", "--pid", "1").Says(t, 1, "process 1 is not a pool in this PID namespace")
	p.Inside("status", "--pid", "77").Says(t, 1, "process 77 is not a pool in this PID namespace")
}

// With several pools somebody must say which.
func TestStatusOfTwoPools(t *testing.T) {
	harness.Need(t, "sh", "sleep")
	p := harness.Start(t, harness.Program{Args: []string{"sh", "-c", `"$0" -n 1 -- sleep 1000 & "$0" -n 2 -- sleep 1000 & wait`, harness.Binary(t)}})
	var pids []int
	testkit.Eventually(t, "two pools", func() (any, bool) {
		pids = nil
		for _, q := range p.List() {
			if q.PPID == p.PID && p.Inside("health", "--ready", "--pid", strconv.Itoa(q.Inside)).Code == 0 {
				pids = append(pids, q.Inside)
			}
		}
		return p.List(), len(pids) == 2
	})
	want := fmt.Sprintf("poolinit: 2 pools run here, with the PIDs %d %d: say which one by --pid\n", min(pids[0], pids[1]), max(pids[0], pids[1]))
	for _, args := range [][]string{{"status"}, {"stop"}, {"health"}} {
		if got := p.Inside(args...); got.Stderr != want || got.Code != 1 {
			t.Errorf("%q: %+v, want %q", args, got, want)
		}
	}
	workers := 0
	for _, pid := range pids {
		d := p.Document("--pid", strconv.Itoa(pid))
		if d.PID != pid {
			t.Errorf("pool %d says it is %d", pid, d.PID)
		}
		workers += len(d.Workers)
	}
	if workers != 3 {
		t.Errorf("%d workers", workers)
	}
	first := strconv.Itoa(pids[0])
	p.Inside("stop", "--wait", "--pid", first).Says(t, 0, "process "+first+" has stopped its workers\n")
	testkit.Eventually(t, "the other one is the only one", func() (any, bool) {
		got := p.Inside("status", "--json")
		return got, got.Code == 0 && harness.ParseDocument(t, got.Stdout).PID == pids[1]
	})
}

// A pool that hangs is said to, soon; and it is asked again when it goes on.
func TestStatusOfAHangingPool(t *testing.T) {
	t.Parallel()
	p := harness.StartRun(t, harness.Program{}, "--", "obey")
	p.AwaitPool()
	p.Signal(syscall.SIGSTOP)
	p.WaitForProcess("the pool is stopped", func(q harness.ProcInfo) bool { return q.PID == p.PID && q.State == 'T' })
	for _, args := range [][]string{{"status"}, {"health"}, {"reload", "--wait"}} {
		if got := p.Inside(args...); got.Stderr != "poolinit: the pool of process 1 does not answer within 3s: it hangs, or is stopped\n" || got.Code != 1 {
			t.Errorf("%q: %+v", args, got)
		}
	}
	p.Signal(syscall.SIGCONT)
	p.AwaitPool()
	p.Inside("reload", "--wait").Says(t, 0)
	if p.Count("reload started") != 1 || p.Count("access denied") != 0 { // who has gone wants nothing any more
		t.Errorf("log:\n%s", p.Stderr.String())
	}
}

// A stop that takes its time can be looked at.
func TestStatusWhileStopping(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "--stop-timeout", "10m", "--ready", "started", "--", "ignore")
	p.Stdout.Expect(t, "deaf")
	p.Inside("health", "--ready").Says(t, 0, "ok\n")
	p.Signal(syscall.SIGTERM)
	d := p.AwaitDocument("it stops", func(d *harness.Document) bool { return d.Stopping != "" && d.Workers[0].State == "stopping" })
	if d.Ready || d.Stopping != "SIGTERM" || d.Reason != "the pool stops: SIGTERM" {
		t.Errorf("%+v", d)
	}
	p.Inside("status").Says(t, 0, "generation 1: stopping: SIGTERM\n")
	p.Inside("health").Says(t, 0, "ok\n")
	p.Inside("health", "--ready").Says(t, 1, "poolinit: not ready: the pool stops: SIGTERM\n")
	p.Inside("reload", "--wait").Says(t, 1, "poolinit: reload interrupted: the pool is stopping\n")
	p.Inside("reload").Says(t, 1, "poolinit: reload refused: the pool is stopping\n")
	p.Inside("stop").Says(t, 0, "process 1 stops\n")
	p.ExpectLog("already stopping", func(r harness.Record) bool { return strings.HasPrefix(r.Why, "poolinit stop (uid ") })
	if got := p.Inside("stop", "--now"); got.Code != -1 { // its namespace may end, and it with that, before it can say so
		got.Says(t, 0, "process 1 kills its workers\n")
	}
	p.ExpectLog("killing the workers now", func(r harness.Record) bool { return strings.HasPrefix(r.Why, "poolinit stop --now (uid ") })
	p.ExpectExit(137)
}

// Others than root and the pool's user are turned away, and the log says so once.
func TestStatusOfAnotherUser(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "--", "obey")
	p.AwaitPool()
	want := "poolinit: the pool of process 1 runs as uid 0: only that one and root may ask it, and this is uid 65534\n"
	for _, args := range [][]string{{"status"}, {"stop"}, {"health"}} {
		if got := p.InsideAs(65534, args...); got.Stderr != want || got.Stdout != "" || got.Code != 1 {
			t.Errorf("%q: %+v, want %q", args, got, want)
		}
	}
	const turned = "control socket: access denied"
	p.ExpectLog(turned, func(r harness.Record) bool { return r.Error == "uid 65534 is not the pool's, which is 0, nor root" })
	p.Inside("stop", "--wait").Says(t, 0)
	p.ExpectExit(0)
	if n := p.Count(turned); n != 1 {
		t.Errorf("said %d times\n%s", n, p.Stderr.String())
	}
}

// Root may ask the pool of anybody.
func TestStatusOfAnotherUsersPool(t *testing.T) {
	harness.Need(t, "setpriv")
	args := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", harness.Binary(t), "--ready", "started", "--", "sleep", "1000"}
	p := harness.Start(t, harness.Program{Args: args})
	p.Stderr.Expect(t, "worker started")
	p.AwaitPool()
	if uid := strings.Fields(harness.StatusLine(p.PID, "Uid"))[1]; uid != "65534" {
		t.Fatalf("the pool runs as %s", uid)
	}
	p.InsideAs(65534, "health", "--ready").Says(t, 0, "ok\n")
	p.InsideAs(65533, "health").Says(t, 1, "runs as uid 65534: only that one and root may ask it, and this is uid 65533")
	p.Inside("stop").Says(t, 0, "process 1 stops\n")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// hidepid=2 hides others from a pool that is not root, so that it cannot tell
// whether root's processes are of its namespace. It refuses them, and says why.
func TestStatusOfAPoolThatSeesNobody(t *testing.T) {
	harness.Need(t, "sh", "mount", "setpriv")
	script := `mount -o remount,hidepid=2 /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" "$@"`
	p := harness.Start(t, harness.Program{Args: []string{"sh", "-c", script, harness.Binary(t), "--", "sleep", "1000"}})
	p.Stderr.Expect(t, "worker started")
	const why = ": /proc hides it from uid 65534 (hidepid); ask as that user"
	p.Inside("status").Says(t, 1, "poolinit: the pool refuses: cannot tell the PID namespace of process ", why)
	p.Stderr.Expect(t, why)
	p.InsideAs(65534, "health").Says(t, 0, "ok\n")
}
