package pool

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/reaper/proc"
)

// moverDeed joins the process group of its child, as a shell's job does that is put
// together with another.
var moverDeed = harness.Deed("mover", func(words []string) int {
	cmd := exec.Command("/proc/self/exe", words...)
	cmd.Env = append(os.Environ(), "TEST_CHILD="+harness.WorkerChild)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return harness.Failed(err)
	}
	if err := syscall.Setpgid(0, cmd.Process.Pid); err != nil {
		return harness.Failed(err)
	}
	fmt.Println("moved")
	return harness.Deeds[words[0]](words[1:])
})

// A worker that has left its own group is stopped as any other, and killed if it
// does not stop.
func TestRunStopsWhoLeftItsGroup(t *testing.T) {
	t.Parallel()
	for words, end := range map[string]struct {
		code int
		why  string
	}{
		"obey":   {0, "killed 0"},
		"ignore": {137, "killed 1"},
	} {
		t.Run(words, func(t *testing.T) {
			p := harness.StartRun(t, harness.Program{}, "--stop-timeout", "2s", "--", moverDeed, words)
			p.Stdout.Expect(t, "moved\n")
			if words == "ignore" {
				p.Stdout.Expect(t, "deaf\n")
			}
			p.Signal(syscall.SIGTERM)
			p.ExpectExit(end.code)
			p.ExpectLog(end.why, nil)
		})
	}
}

// A worker may tell how its stop goes, in which it waits until that is read.
func TestRunNotifyWhileStopping(t *testing.T) {
	harness.Need(t, "sh")
	script := `trap '"$0" notify "STATUS=tidying up"; exit $?' TERM; echo up; while :; do sleep 0.05; done`
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "--", "sh", "-c", script, harness.Binary(t)}}))
	p.Stdout.Expect(t, "up\n")
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.ExpectLog("worker status", func(r harness.Record) bool { return r.Status == "tidying up" })
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Signal == "" && r.Code == 0 })
}

// letGoDeed closes its channel, and lives on.
var letGoDeed = harness.Deed("let-go", func([]string) int {
	fd, err := strconv.Atoi(os.Getenv("POOLINIT_FD"))
	if err != nil {
		return harness.Failed(err)
	}
	if err := syscall.Close(fd); err != nil {
		return harness.Failed(err)
	}
	return harness.Forever()
})

// Without /proc it cannot be seen whether a worker that closed its channel is
// about to exit. It is replaced all the same.
func TestRunDetachWithoutProc(t *testing.T) {
	harness.Need(t, "sh", "mount")
	args := harness.RunArgs(t, "--listen", "tcp://127.0.0.1:0", "--", letGoDeed)
	p := harness.PoolOf(harness.Start(t, harness.Program{Child: harness.WorkerChild,
		Args: append([]string{"sh", "-c", `mount -t tmpfs none /proc && exec "$0" "$@"`}, args...)}))
	p.ExpectLog("worker closed its channel, it is now detached", nil)
}

// Where no cgroup is mounted one line says that OOM kills cannot be told apart, and
// the pool works.
func TestRunWithoutCgroup(t *testing.T) {
	harness.Need(t, "sh", "umount")
	const warning = "OOM kills cannot be told apart"
	args := harness.RunArgs(t, "--restart", "never", "--", "exit", "0")
	p := harness.PoolOf(harness.Start(t, harness.Program{Child: harness.WorkerChild,
		Args: append([]string{"sh", "-c", `umount -R /sys/fs/cgroup; exec "$0" "$@"`}, args...)}))
	p.ExpectLog("stopped: ", nil)
	if n := p.Count(warning); n != 1 {
		t.Errorf("%d lines say so:\n%s", n, p.Stderr.String())
	}
	if r := p.ExpectLog(warning, nil); r.Level != "warn" || !strings.Contains(r.Error, "no cgroup is mounted") {
		t.Errorf("%+v", r)
	}
}

// The OOM killer prefers workers, and commands that run for a message, to poolinit.
func TestRunOOMScoreAdj(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		flags []string
		more  int
	}{
		"default":   {nil, 500},
		"a number":  {[]string{"--oom-score-adj", "7"}, 7},
		"the most":  {[]string{"--oom-score-adj", "1000"}, 1000},
		"not":       {[]string{"--oom-score-adj", "0"}, 0},
		"as a user": {[]string{"--user", "65534:65534"}, 500},
		"shares":    {[]string{"--share", "tcp://127.0.0.1:0"}, 500},
	} {
		t.Run(name, func(t *testing.T) {
			harness.Need(t, "sleep")
			p := harness.PoolOf(harness.Start(t, harness.Program{Args: append(append([]string{harness.Binary(t)}, tt.flags...), "--", "sleep", "1000")}))
			w := p.WaitForProcess("the worker", func(q harness.ProcInfo) bool { return q.Name == "sleep" })
			own, err := proc.OOMScoreAdj(p.PID)
			if err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, "the worker's oom_score_adj", func() (any, bool) {
				got, err := proc.OOMScoreAdj(w.PID)
				return got, err == nil && got == min(own+tt.more, 1000)
			})
			if now, _ := proc.OOMScoreAdj(p.PID); now != own {
				t.Errorf("poolinit's own is %d, and was %d", now, own)
			}
		})
	}
}
