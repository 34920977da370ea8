package pool

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// An entrypoint script that does not exec leads the session, and poolinit is in its
// group: no shell is above that could continue them after a Ctrl-Z.
func TestRunTerminalCtrlZBelowAScript(t *testing.T) {
	harness.Need(t, "sh", "cat")
	tty := harness.OpenPTY(t)
	p := harness.Start(t, harness.Program{Under: true, TTY: tty, Args: []string{harness.Binary(t), "--", "sh", "-c", "echo up; exec cat"}})
	tty.Expect("up\r\n")
	tty.Send("\x1a")
	tty.Expect("^Z")
	tty.Send("one\n")
	tty.Expect("one\r\none\r\n")
	tty.Send("\x03")
	tty.Expect("stopped: ")
	if code := p.Wait(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
}

// A worker that reads while a job of its own has the foreground stays stopped as
// long as the job lives, and is continued once, with the foreground.
func TestRunTerminalReadBehindAJob(t *testing.T) {
	harness.Need(t, "sh")
	for _, under := range []bool{false, true} {
		t.Run(fmt.Sprint("under=", under), func(t *testing.T) {
			tty := harness.OpenPTY(t)
			p := harness.Start(t, harness.Program{Under: under, TTY: tty, Child: harness.WorkerChild,
				Args: []string{harness.Binary(t), "--", harness.Self(t), behindJobDeed}})
			tty.Expect("the job has the foreground\r\n")
			worker := p.WaitForProcess("the worker, stopped", func(q harness.ProcInfo) bool {
				return q.State == 'T' && q.Name == filepath.Base(harness.Self(t))
			})
			tty.Send("for the job\n")
			tty.Expect("the job got for the job\r\n")
			tty.Send("for the worker\n")
			tty.Expect("the worker got for the worker, continued 1 times\r\n")
			if got := tty.Foreground(); got != worker.PID {
				t.Errorf("the foreground is %d's, want %d's: %v", got, worker.PID, p.List())
			}
		})
	}
}

// behindJobDeed gives the foreground to a job, which nobody waits for, and reads.
var behindJobDeed = harness.Deed("behind-job", func([]string) int {
	continued := make(chan os.Signal, 1000) // 1000: what is to be seen is that it is far fewer
	signal.Notify(continued, syscall.SIGCONT)
	job := exec.Command("sh", "-c", `echo the job has the foreground; read -r x; echo "the job got $x"`)
	job.Stdin, job.Stdout, job.Stderr = os.Stdin, os.Stdout, os.Stderr
	job.SysProcAttr = &syscall.SysProcAttr{Foreground: true}
	if err := job.Start(); err != nil {
		return harness.Failed(err)
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return harness.Failed(err)
	}
	<-continued // it may be behind the line
	fmt.Printf("the worker got %s, continued %d times\n", strings.TrimSpace(line), 1+len(continued))
	return harness.Forever()
})

// The successor of a worker on the terminal wants to read while the old one still
// has the foreground, and gets it when that has ended.
func TestRunTerminalStartFirst(t *testing.T) {
	harness.Need(t, "bash")
	tests := map[string]func(t *testing.T, args ...string) (*harness.PTY, *harness.Process){
		"PID 1": func(t *testing.T, args ...string) (*harness.PTY, *harness.Process) {
			tty := harness.OpenPTY(t)
			return tty, harness.Start(t, harness.Program{TTY: tty, Child: harness.WorkerChild, Args: args})
		},
		"job": func(t *testing.T, args ...string) (*harness.PTY, *harness.Process) {
			tty, p := harness.Shell(t)
			tty.Send("TEST_CHILD=" + harness.WorkerChild + " " + strings.Join(args, " ") + "\n")
			return tty, p
		},
	}
	for name, begin := range tests {
		t.Run(name, func(t *testing.T) {
			enough := filepath.Join(t.TempDir(), "enough")
			tty, p := begin(t, harness.Binary(t), "--reload-order", "start-first", "--", harness.Self(t), readerDeed, enough)
			tty.Expect("up worker=0 generation=1")
			tty.Send("one\n")
			tty.Expect("generation 1 got one\r\n")
			pool := p.WaitForProcess("poolinit", func(q harness.ProcInfo) bool { return q.Name == "poolinit" })
			if err := syscall.Kill(pool.PID, syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			tty.Expect("up worker=0 generation=2")
			next := p.WaitForProcess("the successor, stopped", func(q harness.ProcInfo) bool { return q.State == 'T' && q.PPID == pool.PID })
			if err := os.WriteFile(enough, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			tty.Expect("reload done")
			tty.Send("two\n")
			tty.Expect("generation 2 got two\r\n")
			if got := tty.Foreground(); got != next.PID {
				t.Errorf("the foreground is %d's, want %d's: %v", got, next.PID, p.List())
			}
		})
	}
}

// readerDeed reads lines. After SIGTERM it ends when there is a file.
var readerDeed = harness.Deed("reader", func(words []string) int {
	stop := make(chan os.Signal, 1) // 1: the first is enough
	signal.Notify(stop, syscall.SIGTERM)
	go func() { // ends with the process
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			fmt.Printf("generation %s got %s\n", os.Getenv("POOLINIT_GENERATION"), lines.Text())
		}
	}()
	<-stop
	harness.AwaitFile(words[0])
	return 0
})

// A pool that has lent its terminal writes its log from the background: after stty
// tostop the kernel stops who does that, and as PID 1 refuses it.
func TestRunTerminalToStop(t *testing.T) {
	harness.Need(t, "bash", "sh", "stty", "sleep")
	tests := map[string]func(t *testing.T) (*harness.PTY, *harness.Process){
		"PID 1": func(t *testing.T) (*harness.PTY, *harness.Process) {
			tty := harness.OpenPTY(t)
			return tty, harness.Start(t, harness.Program{TTY: tty, Args: []string{"bash", "-c", "exec " + toStop(t)}})
		},
		"job": func(t *testing.T) (*harness.PTY, *harness.Process) {
			tty, p := harness.Shell(t)
			tty.Send(toStop(t) + "\n")
			return tty, p
		},
	}
	for name, begin := range tests {
		t.Run(name, func(t *testing.T) {
			tty, p := begin(t)
			tty.Expect("up\r\n")
			pool := p.WaitForProcess("poolinit", func(q harness.ProcInfo) bool { return q.Name == "poolinit" })
			for _, sig := range []syscall.Signal{syscall.SIGWINCH, syscall.SIGTERM} {
				if err := syscall.Kill(pool.PID, sig); err != nil {
					t.Fatal(err)
				}
				tty.Expect(map[syscall.Signal]string{syscall.SIGWINCH: "SIGWINCH", syscall.SIGTERM: "stopped: "}[sig])
			}
		})
	}
}

func toStop(t *testing.T) string {
	return harness.Binary(t) + " --log-level debug -- sh -c 'stty tostop; echo up; exec sleep 1000'"
}

// After Ctrl-Z and bg the foreground is the shell's: a worker that reads stops, with
// the pool, and the shell stays where it is.
func TestRunTerminalReadInTheBackground(t *testing.T) {
	harness.Need(t, "bash", "sh", "cat")
	tty, p := harness.Shell(t)
	tty.Send(harness.Binary(t) + " -- sh -c 'echo up; exec cat'\n")
	tty.Expect("up\r\n")
	for range 3 {
		tty.Send("\x1a")
		tty.Expect("Stopped")
		tty.Expect("ready> ")
		tty.Send("bg\n")
		tty.Expect("ready> ")
		p.WaitForProcess("cat, stopped", func(q harness.ProcInfo) bool { return q.Name == "cat" && q.State == 'T' })
		p.WaitForProcess("poolinit, stopped", func(q harness.ProcInfo) bool { return q.Name == "poolinit" && q.State == 'T' })
		tty.Send("echo the shell is $((40 + 2))\n")
		tty.Expect("the shell is 42\r\n")
		tty.Expect("ready> ")
		tty.Send("fg\n")
		tty.Expect("cat'\r\n")
		tty.Send("one\n")
		tty.Expect("one\r\none\r\n")
	}
	tty.Send("\x03")
	tty.Expect("stopped: ")
}
