package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// moverDeed joins the process group of its child, as a shell's job does that is put
// together with another.
var moverDeed = deed("mover", func(words []string) int {
	cmd := exec.Command("/proc/self/exe", words...)
	cmd.Env = append(os.Environ(), "E2E_CHILD="+workerChild)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return stubFailed(err)
	}
	if err := syscall.Setpgid(0, cmd.Process.Pid); err != nil {
		return stubFailed(err)
	}
	fmt.Println("moved")
	return deeds[words[0]](words[1:])
})

// A worker that has left its own group is stopped as any other, and killed if it
// does not stop.
func TestRunStopsWhoLeftItsGroup(t *testing.T) {
	for words, end := range map[string]struct {
		code int
		why  string
	}{
		"obey":   {0, "killed 0"},
		"ignore": {137, "killed 1"},
	} {
		t.Run(words, func(t *testing.T) {
			p := startRun(t, program{}, "--stop-timeout", "2s", "--", moverDeed, words)
			p.stdout.expect(t, "moved\n")
			if words == "ignore" {
				p.stdout.expect(t, "deaf\n")
			}
			p.signal(syscall.SIGTERM)
			p.expectExit(end.code)
			p.expectLog(end.why, nil)
		})
	}
}

// A worker may tell how its stop goes, in which it waits until that is read.
func TestRunNotifyWhileStopping(t *testing.T) {
	need(t, "sh")
	script := `trap '"$0" notify "STATUS=tidying up"; exit $?' TERM; echo up; while :; do sleep 0.05; done`
	p := runPool{start(t, program{args: []string{poolinit(t), "--", "sh", "-c", script, poolinit(t)}})}
	p.stdout.expect(t, "up\n")
	p.signal(syscall.SIGTERM)
	p.expectExit(0)
	p.expectLog("worker says", func(r record) bool { return r.Status == "tidying up" })
	p.expectLog("worker ended", func(r record) bool { return r.Signal == "" && r.Code == 0 })
}

// letGoDeed closes its channel, and lives on.
var letGoDeed = deed("let-go", func([]string) int {
	fd, err := strconv.Atoi(os.Getenv("POOLINIT_FD"))
	if err != nil {
		return stubFailed(err)
	}
	if err := syscall.Close(fd); err != nil {
		return stubFailed(err)
	}
	return forEver()
})

// Without /proc it cannot be seen whether a worker that closed its channel is
// about to exit. It is replaced all the same.
func TestRunDetachWithoutProc(t *testing.T) {
	need(t, "sh", "mount")
	args := runArgs(t, "--listen", "tcp://127.0.0.1:0", "--", letGoDeed)
	p := runPool{start(t, program{child: workerChild,
		args: append([]string{"sh", "-c", `mount -t tmpfs none /proc && exec "$0" "$@"`}, args...)})}
	p.expectLog("worker closed its channel and is detached", nil)
}

// Where no cgroup is mounted one line says that OOM kills cannot be told apart, and
// the pool works.
func TestRunWithoutCgroup(t *testing.T) {
	need(t, "sh", "umount")
	const warning = "OOM kills cannot be told apart"
	args := runArgs(t, "--restart", "never", "--", "exit", "0")
	p := runPool{start(t, program{child: workerChild,
		args: append([]string{"sh", "-c", `umount -R /sys/fs/cgroup; exec "$0" "$@"`}, args...)})}
	p.expectLog("stopped: ", nil)
	if n := p.count(warning); n != 1 {
		t.Errorf("%d lines say so:\n%s", n, p.stderr.String())
	}
	if r := p.expectLog(warning, nil); r.Level != "warn" || !strings.Contains(r.Error, "no cgroup is mounted") {
		t.Errorf("%+v", r)
	}
}
