package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestStatus(t *testing.T) {
	url := unixURL(t, "?reply=always")
	p := startSDK(t, url, "-n", "2")
	send(t, strings.NewReader(seq(10)), "--reply", url).want(t, seq(10), 0)
	p.awaitPool()
	got := p.inside("status")
	got.says(t, 0, "poolinit ", ", PID 1, up ", ", generation 1: ready\n", "queue: 0 of 1024 messages, 0B of 64MiB, oldest -; in flight 0\n", "unix://")
	if strings.Contains(got.stdout, "\x1b") {
		t.Errorf("colours in a pipe: %q", got.stdout)
	}
	handled := 0
	for _, worker := range []string{"0", "1"} {
		n, err := strconv.Atoi(column(t, got.stdout, worker, "HANDLED"))
		if err != nil {
			t.Error(err)
		}
		handled += n
		if state := column(t, got.stdout, worker, "STATE"); state != "ready" {
			t.Errorf("worker %s is %s", worker, state)
		}
		if memory := column(t, got.stdout, worker, "MEMORY"); !strings.HasSuffix(memory, "MiB") {
			t.Errorf("worker %s has %s", worker, memory)
		}
	}
	if handled != 10 {
		t.Errorf("%d handled\n%s", handled, got.stdout)
	}
	raw := p.inside("status", "--json")
	if raw.code != 0 || !json.Valid([]byte(raw.stdout)) || strings.Count(raw.stdout, "\n") != 1 {
		t.Errorf("%+v", raw)
	}
	d := parseDocument(t, raw.stdout)
	if d.PID != 1 || len(d.Workers) != 2 || len(d.Sources) != 1 || d.Sources[0].Handled != 10 || d.Queue == nil {
		t.Errorf("%s", raw.stdout)
	}
	for _, w := range d.Workers {
		found := p.waitFor("the worker's process", func(q procInfo) bool { return q.Inside == w.PID })
		if found.PPID != p.pid {
			t.Errorf("worker %d is %v", w.ID, found)
		}
	}
}

// What a crashed worker leaves in the table.
func TestStatusOfACrash(t *testing.T) {
	p := startRun(t, program{}, "--give-up", "0", "--restart-delay", "1h", "--restart-delay-max", "1h", "--", "exit", "3")
	p.awaitDocument("the worker waits", func(d *statusDocument) bool { return d.Workers[0].State == "backoff" })
	got := p.inside("status")
	got.says(t, 0, "not ready: ", "ago: exited with code 3 after ", "(crash)", "starts in ")
	if pid := column(t, got.stdout, "0", "PID"); pid != "-" {
		t.Errorf("PID %s", pid)
	}
	d := p.document()
	if x := d.Workers[0].LastExit; x == nil || x.Code != 3 || x.Why != "crash" || x.Peak == 0 || d.Workers[0].Failures != 1 || d.Workers[0].Next < 60 {
		t.Errorf("%+v", d.Workers[0])
	}
}

func TestStatusWithoutAPool(t *testing.T) {
	need(t, "sleep")
	p := start(t, program{args: []string{"sleep", "1000"}})
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"reload"}, {"stop", "--wait"}, {"health"}} {
		if got := p.inside(args...); got.stderr != "poolinit: no pool runs in this PID namespace\n" || got.stdout != "" || got.code != 1 {
			t.Errorf("%q: %+v", args, got)
		}
	}
	p.inside("status", "--pid", "1").says(t, 1, "process 1 is no pool of this PID namespace")
	p.inside("status", "--pid", "77").says(t, 1, "process 77 is no pool of this PID namespace")
}

// With several pools somebody must say which.
func TestStatusOfTwoPools(t *testing.T) {
	need(t, "sh", "sleep")
	p := start(t, program{args: []string{"sh", "-c", `"$0" -n 1 -- sleep 1000 & "$0" -n 2 -- sleep 1000 & wait`, poolinit(t)}})
	var pids []int
	eventually(t, "two pools", func() (any, bool) {
		pids = nil
		for _, q := range p.list() {
			if q.PPID == p.pid && p.inside("health", "--ready", "--pid", strconv.Itoa(q.Inside)).code == 0 {
				pids = append(pids, q.Inside)
			}
		}
		return p.list(), len(pids) == 2
	})
	want := fmt.Sprintf("poolinit: 2 pools run here, with the PIDs %d %d: say which one by --pid\n", min(pids[0], pids[1]), max(pids[0], pids[1]))
	for _, args := range [][]string{{"status"}, {"stop"}, {"health"}} {
		if got := p.inside(args...); got.stderr != want || got.code != 1 {
			t.Errorf("%q: %+v, want %q", args, got, want)
		}
	}
	workers := 0
	for _, pid := range pids {
		d := p.document("--pid", strconv.Itoa(pid))
		if d.PID != pid {
			t.Errorf("pool %d says it is %d", pid, d.PID)
		}
		workers += len(d.Workers)
	}
	if workers != 3 {
		t.Errorf("%d workers", workers)
	}
	first := strconv.Itoa(pids[0])
	p.inside("stop", "--wait", "--pid", first).says(t, 0, "process "+first+" has stopped its workers\n")
	eventually(t, "the other one is the only one", func() (any, bool) {
		got := p.inside("status", "--json")
		return got, got.code == 0 && parseDocument(t, got.stdout).PID == pids[1]
	})
}

// A pool that hangs is said to, soon; and it is asked again when it goes on.
func TestStatusOfAHangingPool(t *testing.T) {
	p := startRun(t, program{}, "--", "obey")
	p.awaitPool()
	p.signal(syscall.SIGSTOP)
	p.waitFor("the pool is stopped", func(q procInfo) bool { return q.PID == p.pid && q.State == 'T' })
	for _, args := range [][]string{{"status"}, {"health"}, {"reload", "--wait"}} {
		if got := p.inside(args...); got.stderr != "poolinit: the pool of process 1 does not answer within 3s: it hangs, or is stopped\n" || got.code != 1 {
			t.Errorf("%q: %+v", args, got)
		}
	}
	p.signal(syscall.SIGCONT)
	p.awaitPool()
	p.inside("reload", "--wait").says(t, 0)
	if p.count("reload begins") != 1 || p.count("turned away") != 0 { // who has gone wants nothing any more
		t.Errorf("log:\n%s", p.stderr.String())
	}
}

// A stop that takes its time can be looked at.
func TestStatusWhileStopping(t *testing.T) {
	p := startRun(t, program{}, "--stop-timeout", "10m", "--", "ignore")
	p.stdout.expect(t, "deaf")
	p.inside("health", "--ready").says(t, 0, "ok\n")
	p.signal(syscall.SIGTERM)
	d := p.awaitDocument("it stops", func(d *statusDocument) bool { return d.Stopping != "" && d.Workers[0].State == "stopping" })
	if d.Ready || d.Stopping != "SIGTERM" || d.Reason != "the pool stops: SIGTERM" {
		t.Errorf("%+v", d)
	}
	p.inside("status").says(t, 0, "generation 1: stopping: SIGTERM\n")
	p.inside("health").says(t, 0, "ok\n")
	p.inside("health", "--ready").says(t, 1, "poolinit: not ready: the pool stops: SIGTERM\n")
	p.inside("reload", "--wait").says(t, 1, "poolinit: reload interrupted: the pool stops\n")
	p.inside("reload").says(t, 1, "poolinit: not reloading: the pool stops\n")
	if got := p.inside("stop"); got.code != -1 { // the second time: its namespace may end, and it with that, before it can say so
		got.says(t, 0, "process 1 kills its workers\n")
	}
	p.expectLog("asked to stop again: killing the workers now", func(r record) bool { return strings.HasPrefix(r.Why, "poolinit stop (uid ") })
	p.expectExit(137)
}

// Others than root and the pool's user are turned away, and the log says so once.
func TestStatusOfAnotherUser(t *testing.T) {
	p := startRun(t, program{}, "--", "obey")
	p.awaitPool()
	want := "poolinit: the pool of process 1 runs as uid 0: only that one and root may ask it, and this is uid 65534\n"
	for _, args := range [][]string{{"status"}, {"stop"}, {"health"}} {
		if got := p.insideAs(65534, args...); got.stderr != want || got.stdout != "" || got.code != 1 {
			t.Errorf("%q: %+v, want %q", args, got, want)
		}
	}
	const turned = "somebody was turned away from the control socket"
	p.expectLog(turned, func(r record) bool { return r.Error == "uid 65534 is not the pool's, which is 0, nor root" })
	p.inside("stop", "--wait").says(t, 0)
	p.expectExit(0)
	if n := p.count(turned); n != 1 {
		t.Errorf("said %d times\n%s", n, p.stderr.String())
	}
}

// Root may ask the pool of anybody.
func TestStatusOfAnotherUsersPool(t *testing.T) {
	need(t, "setpriv")
	args := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", poolinit(t), "--", "sleep", "1000"}
	p := start(t, program{args: args})
	p.stderr.expect(t, "worker started")
	p.awaitPool()
	if uid := strings.Fields(statusLine(p.pid, "Uid"))[1]; uid != "65534" {
		t.Fatalf("the pool runs as %s", uid)
	}
	p.insideAs(65534, "health", "--ready").says(t, 0, "ok\n")
	p.insideAs(65533, "health").says(t, 1, "runs as uid 65534: only that one and root may ask it, and this is uid 65533")
	p.inside("stop").says(t, 0, "process 1 stops\n")
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// hidepid=2 hides others from a pool that is not root, so that it cannot tell
// whether root's processes are of its namespace. It refuses them, and says why.
func TestStatusOfAPoolThatSeesNobody(t *testing.T) {
	need(t, "sh", "mount", "setpriv")
	script := `mount -o remount,hidepid=2 /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" "$@"`
	p := start(t, program{args: []string{"sh", "-c", script, poolinit(t), "--", "sleep", "1000"}})
	p.stderr.expect(t, "worker started")
	const why = ": /proc hides it from uid 65534 (hidepid); ask as that user"
	p.inside("status").says(t, 1, "poolinit: the pool refuses: cannot tell the PID namespace of process ", why)
	p.stderr.expect(t, why)
	p.insideAs(65534, "health").says(t, 0, "ok\n")
}
