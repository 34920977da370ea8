package init_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// tiniKeeps is what tini does not pass on; uncatchable what no program in Go
// can have, or nobody. (32 and 33 are libc's: tini cannot have them either.)
var (
	tiniKeeps = []syscall.Signal{syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGABRT,
		syscall.SIGTRAP, syscall.SIGSYS, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCHLD, 32, 33}
	onlyTiniForwards = []syscall.Signal{syscall.SIGURG, syscall.SIGPROF, 34}
)

func forwarded(who string) (yes, no map[syscall.Signal]bool) {
	yes, no = map[syscall.Signal]bool{}, map[syscall.Signal]bool{}
	for _, sig := range harness.AllSignals {
		yes[sig] = sig != syscall.SIGKILL && sig != syscall.SIGSTOP
	}
	yes[syscall.SIGCONT] = false // it and TSTP cancel each other, so it has its turn later
	keeps := tiniKeeps
	if who != "tini" {
		keeps = append(onlyTiniForwards, keeps...)
	}
	for _, sig := range keeps {
		yes[sig], no[sig] = false, true
	}
	for sig, is := range yes {
		if !is {
			delete(yes, sig)
		}
	}
	return yes, no
}

// Every signal but those that are kept arrives, and comes alone: it is the
// child's, not the group's.
func TestInitForwardsSignals(t *testing.T) {
	harness.Need(t, "sleep")
	for who, command := range inits(t) {
		t.Run(who, func(t *testing.T) {
			p := harness.Start(t, harness.Program{Args: append(command, "--", harness.Self(t)), Child: familyChild})
			child := waitBlocked(p, "child", func(q harness.ProcInfo) bool { return q.PPID == p.PID })
			grandchild := waitBlocked(p, "grandchild", func(q harness.ProcInfo) bool { return q.PPID == child.PID })
			sendAll(t, p, who)
			want, _ := forwarded(who)
			harness.RequireSignals(t, child.PID, "ShdPnd", want)
			if got := harness.SignalSet(grandchild.PID, "ShdPnd"); len(got) > 0 {
				t.Errorf("the grandchild got %v", got)
			}
			p.Signal(syscall.SIGCONT) // takes the pending TSTP's place
			delete(want, syscall.SIGTSTP)
			want[syscall.SIGCONT] = true
			harness.RequireSignals(t, child.PID, "ShdPnd", want)
		})
	}
}

// With -g, or its variable, the whole group gets them.
func TestInitForwardsToGroup(t *testing.T) {
	harness.Need(t, "sleep")
	for who, command := range inits(t) {
		for _, prog := range []harness.Program{{Args: append(command, "-g", "--", harness.Self(t))},
			{Args: append(command, "--", harness.Self(t)), Env: []string{"TINI_KILL_PROCESS_GROUP="}}} {
			t.Run(who, func(t *testing.T) {
				prog.Child = familyChild
				p := harness.Start(t, prog)
				child := waitBlocked(p, "child", func(q harness.ProcInfo) bool { return q.PPID == p.PID })
				grandchild := waitBlocked(p, "grandchild", func(q harness.ProcInfo) bool { return q.PPID == child.PID })
				sendAll(t, p, who)
				want, _ := forwarded(who)
				harness.RequireSignals(t, child.PID, "ShdPnd", want)
				harness.RequireSignals(t, grandchild.PID, "ShdPnd", want)
			})
		}
	}
}

// waitBlocked waits for a process that has become blockedChild.
func waitBlocked(p *harness.Process, what string, wanted func(harness.ProcInfo) bool) harness.ProcInfo {
	p.T.Helper()
	return p.WaitForProcess(what, func(q harness.ProcInfo) bool {
		return q.Name == "sleep" && wanted(q) && len(harness.SignalSet(q.PID, "SigBlk")) > 60
	})
}

// sendAll sends what is not forwarded first: when the last one has arrived it
// has been seen that these have not. It waits until the program is able to
// have them all, which an init in Go is a little after it has a child.
func sendAll(t *testing.T, p *harness.Process, who string) {
	t.Helper()
	yes, no := forwarded(who)
	waitCatching(p, who == "tini")
	for sig := range no {
		p.Signal(sig)
	}
	for sig := range yes {
		p.Signal(sig)
	}
}

// waitCatching waits until a program in Go has asked for every signal: TTOU is
// one that the runtime leaves alone until then, and RTMAX comes last.
func waitCatching(p *harness.Process, isTini bool) {
	p.T.Helper()
	if isTini {
		return
	}
	self := p.Self()
	testkit.Eventually(p.T, "the init catches signals", func() (any, bool) {
		caught := harness.SignalSet(self, "SigCgt")
		return caught, caught[64] && caught[syscall.SIGTTOU]
	})
}

// A signal that is not the child's to ignore ends it, and the init with it.
func TestInitStops(t *testing.T) {
	harness.Need(t, "sleep")
	for who, command := range inits(t) {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, 37} {
			t.Run(fmt.Sprint(who, sig), func(t *testing.T) {
				p := harness.Start(t, harness.Program{Args: append(command, "--", "sleep", "1000")})
				p.WaitForProcess("sleep", func(q harness.ProcInfo) bool { return q.Name == "sleep" })
				p.Signal(sig)
				if code := p.Wait(); code != 128+int(sig) {
					t.Errorf("exit code %d, want %d", code, 128+int(sig))
				}
			})
		}
	}
}

// Whenever SIGTERM comes, from the first moment of the program on: if it is
// repeated it ends the child, or everything. (Go has a handler a little before
// it can be told what to do in it, and exits from there. docs/tini.md has it as
// "the first moment".)
func TestInitEarlySIGTERM(t *testing.T) {
	harness.Need(t, "sh", "sleep")
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	for who, command := range inits(t) {
		t.Run(who, func(t *testing.T) {
			for range rounds {
				p := harness.Start(t, harness.Program{Args: append(command, "--", "sleep", "1000")})
				untilStub(p, t)
				for running(p) {
					_ = syscall.Kill(p.PID, syscall.SIGTERM)
				}
				code := p.Wait()
				tooEarly := who != "tini" && (code == 2 || code == 139)
				if code != 143 && !tooEarly {
					t.Fatalf("exit code %d, want 143; stdout %q, stderr %q", code, p.Stdout.String(), p.Stderr.String())
				}
			}
		})
	}
}

// untilStub waits, without a pause, until the stub has become the program.
func untilStub(p *harness.Process, t *testing.T) {
	stub := harness.Self(t)
	for running(p) {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID)); err == nil && exe != stub {
			return
		}
	}
}

func running(p *harness.Process) bool {
	select {
	case <-p.Exited:
		return false
	default:
		return true
	}
}

// firstSignals are those that Go leaves blocked until they are asked for, and CONT
// and TSTP, for which it has no handler until then.
var firstSignals = map[string]syscall.Signal{
	"SIGUSR1": 10, "SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGCONT": 18, "SIGTSTP": 20, "SIGXCPU": 24, "SIGXFSZ": 25,
	"SIGVTALRM": 26, "SIGWINCH": 28, "SIGIO": 29, "SIGPWR": 30, "SIGRTMIN+1": 35, "SIGRTMIN+3": 37, "SIGRTMIN+30": 64,
}

// Signals that come from the first instructions of the program on, long before its
// child exists, are passed on to it.
func TestInitKeepsFirstSignals(t *testing.T) {
	harness.Need(t, "sleep")
	for name, sig := range firstSignals {
		p := harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "init", "-vvv", "--", "sleep", "1000"}})
		untilFirstInstructions(t, p)
		_ = syscall.Kill(p.PID, sig)
		p.Stderr.Expect(t, "Passing signal: '"+name+"'")
		_ = syscall.Kill(p.PID, syscall.SIGKILL) // the signal may have ended it
		p.Wait()
	}
}

// The same in a pool, for the signals that it forwards.
func TestRunKeepsFirstSignals(t *testing.T) {
	harness.Need(t, "sleep")
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "run", "--log-level", "debug", "--", "sleep", "1000"}}))
	untilFirstInstructions(t, p.Process)
	names := []string{"SIGUSR2", "SIGALRM", "SIGXCPU", "SIGVTALRM", "SIGWINCH", "SIGIO", "SIGPWR", "SIGCONT", "SIGRTMIN+30"}
	for _, name := range names {
		_ = syscall.Kill(p.PID, firstSignals[name])
	}
	for _, name := range names {
		p.ExpectLog("forwarding signal", func(r harness.Record) bool { return r.Signal == name })
	}
}

// untilFirstInstructions waits, without a pause, until the program blocks signals,
// which is before the Go runtime begins.
func untilFirstInstructions(t *testing.T, p *harness.Process) {
	untilStub(p, t)
	for began := time.Now(); running(p) && time.Since(began) < testkit.Patience && !harness.SignalSet(p.PID, "SigBlk")[syscall.SIGUSR2]; {
		continue
	}
}

// One SIGTERM, sent as soon as the program has asked for it, must reach the
// child that does not exist yet.
func TestInitKeepsEarlySIGTERM(t *testing.T) {
	harness.Need(t, "sleep")
	p := harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "init", "--", "sleep", "1000"}, Blocked: []syscall.Signal{askedForLast}})
	untilStub(p, t)
	for running(p) && !unblocked(p, askedForLast) {
		continue
	}
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 143 {
		t.Errorf("exit code %d, want 143; stderr %s", code, p.Stderr.String())
	}
}

// askedForLast is asked for after SIGTERM. If it was blocked at the start,
// that is seen in the mask of the thread on which the runtime takes signals.
const askedForLast = syscall.Signal(37)

func unblocked(p *harness.Process, sig syscall.Signal) bool {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID))
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil && harness.StatusLine(tid, "SigBlk") != "" && !harness.SignalSet(tid, "SigBlk")[sig] {
			return true
		}
	}
	return false
}

func TestInitReapsOrphans(t *testing.T) {
	for who, command := range inits(t) {
		t.Run(who, func(t *testing.T) {
			p := harness.Start(t, harness.Program{Args: append(command, "-w", "--", harness.Self(t), "20"), Child: orphansChild})
			p.Stdout.Expect(t, "done\n")
			testkit.Eventually(t, "no zombie", func() (any, bool) { z := p.Zombies(); return z, len(z) == 0 })
			testkit.Eventually(t, "a warning for each", func() (any, bool) {
				n := strings.Count(p.Stderr.String(), "Reaped zombie process with pid=")
				return n, n == 20
			})
		})
	}
	t.Run("control", func(t *testing.T) {
		p := harness.Start(t, harness.Program{Args: []string{harness.Self(t), "3"}, Child: orphansChild})
		p.Stdout.Expect(t, "done\n")
		testkit.Eventually(t, "three zombies", func() (any, bool) { z := p.Zombies(); return p.List(), len(z) == 3 })
	})
}

// -s takes orphans in without being PID 1; without it they go to PID 1.
func TestInitSubreaper(t *testing.T) {
	for who, command := range inits(t) {
		for flag, zombies := range map[string]int{"-s": 0, "-w": 2} { // PID 1 here is one that reaps nobody
			t.Run(who+flag, func(t *testing.T) {
				p := harness.Start(t, harness.Program{Args: append(command, flag, "--", harness.Self(t), "2"), Child: orphansChild, Under: true})
				p.Stdout.Expect(t, "done\n")
				testkit.Eventually(t, "zombies", func() (any, bool) { return p.List(), len(p.Zombies()) == zombies })
			})
		}
	}
}

// -p: the parent's death comes as a signal, and is passed on like any other.
func TestInitParentDeath(t *testing.T) {
	harness.Need(t, "sleep")
	for who, command := range inits(t) {
		t.Run(who, func(t *testing.T) {
			r, w := pipe(t)
			parent := append([]string{harness.Self(t)}, lookedUp(t, command)...)
			p := harness.Start(t, harness.Program{Args: append(parent, "-s", "-p", "SIGUSR1", "--", harness.Self(t)), Child: keeperChild, Stdin: r})
			sleep := waitBlocked(p, "the child of the init", func(q harness.ProcInfo) bool { return q.PID != p.PID })
			if got := harness.SignalSet(sleep.PID, "ShdPnd"); len(got) > 0 {
				t.Errorf("pending before: %v", got)
			}
			w.Close()
			harness.RequireSignals(t, sleep.PID, "ShdPnd", map[syscall.Signal]bool{syscall.SIGUSR1: true})
		})
	}
}

func lookedUp(t *testing.T, command []string) []string {
	path, err := exec.LookPath(command[0])
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{path}, command[1:]...)
}
