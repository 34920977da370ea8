package e2e

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
)

// An entrypoint script that does not exec leads the session, and poolinit is in its
// group: no shell is above that could continue them after a Ctrl-Z.
func TestRunTerminalCtrlZBelowAScript(t *testing.T) {
	need(t, "sh", "cat")
	tty := openPTY(t)
	p := start(t, program{under: true, tty: tty, args: []string{poolinit(t), "--", "sh", "-c", "echo up; exec cat"}})
	tty.expect("up\r\n")
	tty.send("\x1a")
	tty.expect("^Z")
	tty.send("one\n")
	tty.expect("one\r\none\r\n")
	tty.send("\x03")
	tty.expect("stopped: ")
	if code := p.wait(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
}

// A worker that reads while a job of its own has the foreground stays stopped as
// long as the job lives, and is continued once, with the foreground.
func TestRunTerminalReadBehindAJob(t *testing.T) {
	need(t, "sh")
	for _, under := range []bool{false, true} {
		t.Run(fmt.Sprint("under=", under), func(t *testing.T) {
			tty := openPTY(t)
			p := start(t, program{under: under, tty: tty, child: workerChild,
				args: []string{poolinit(t), "--", self(t), behindJobDeed}})
			tty.expect("the job has the foreground\r\n")
			worker := p.waitFor("the worker, stopped", func(q procInfo) bool {
				return q.State == 'T' && strings.Contains(q.Name, "e2e")
			})
			tty.send("for the job\n")
			tty.expect("the job got for the job\r\n")
			tty.send("for the worker\n")
			tty.expect("the worker got for the worker, continued 1 times\r\n")
			if got := tty.foreground(); got != worker.PID {
				t.Errorf("the foreground is %d's, want %d's: %v", got, worker.PID, p.list())
			}
		})
	}
}

// behindJobDeed gives the foreground to a job, which nobody waits for, and reads.
var behindJobDeed = deed("behind-job", func([]string) int {
	continued := make(chan os.Signal, 1000) // 1000: what is to be seen is that it is far fewer
	signal.Notify(continued, syscall.SIGCONT)
	job := exec.Command("sh", "-c", `echo the job has the foreground; read -r x; echo "the job got $x"`)
	job.Stdin, job.Stdout, job.Stderr = os.Stdin, os.Stdout, os.Stderr
	job.SysProcAttr = &syscall.SysProcAttr{Foreground: true}
	if err := job.Start(); err != nil {
		return stubFailed(err)
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return stubFailed(err)
	}
	<-continued // it may be behind the line
	fmt.Printf("the worker got %s, continued %d times\n", strings.TrimSpace(line), 1+len(continued))
	return forEver()
})

// The successor of a worker on the terminal wants to read while the old one still
// has the foreground, and gets it when that has ended.
func TestRunTerminalStartFirst(t *testing.T) {
	need(t, "bash")
	tests := map[string]func(t *testing.T, args ...string) (*pty, *process){
		"PID 1": func(t *testing.T, args ...string) (*pty, *process) {
			tty := openPTY(t)
			return tty, start(t, program{tty: tty, child: workerChild, args: args})
		},
		"job": func(t *testing.T, args ...string) (*pty, *process) {
			tty, p := shell(t)
			tty.send("E2E_CHILD=" + workerChild + " " + strings.Join(args, " ") + "\n")
			return tty, p
		},
	}
	for name, begin := range tests {
		t.Run(name, func(t *testing.T) {
			enough := filepath.Join(t.TempDir(), "enough")
			tty, p := begin(t, poolinit(t), "--reload-order", "start-first", "--", self(t), readerDeed, enough)
			tty.expect("up worker=0 generation=1")
			tty.send("one\n")
			tty.expect("generation 1 got one\r\n")
			pool := p.waitFor("poolinit", func(q procInfo) bool { return q.Name == "poolinit" })
			if err := syscall.Kill(pool.PID, syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			tty.expect("up worker=0 generation=2")
			next := p.waitFor("the successor, stopped", func(q procInfo) bool { return q.State == 'T' && q.PPID == pool.PID })
			if err := os.WriteFile(enough, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			tty.expect("reload done")
			tty.send("two\n")
			tty.expect("generation 2 got two\r\n")
			if got := tty.foreground(); got != next.PID {
				t.Errorf("the foreground is %d's, want %d's: %v", got, next.PID, p.list())
			}
		})
	}
}

// readerDeed reads lines. After SIGTERM it ends when there is a file.
var readerDeed = deed("reader", func(words []string) int {
	stop := make(chan os.Signal, 1) // 1: the first is enough
	signal.Notify(stop, syscall.SIGTERM)
	go func() { // ends with the process
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			fmt.Printf("generation %s got %s\n", os.Getenv("POOLINIT_GENERATION"), lines.Text())
		}
	}()
	<-stop
	awaitFile(words[0])
	return 0
})

// A pool that has lent its terminal writes its log from the background: after stty
// tostop the kernel stops who does that, and as PID 1 refuses it.
func TestRunTerminalToStop(t *testing.T) {
	need(t, "bash", "sh", "stty", "sleep")
	tests := map[string]func(t *testing.T) (*pty, *process){
		"PID 1": func(t *testing.T) (*pty, *process) {
			tty := openPTY(t)
			return tty, start(t, program{tty: tty, args: []string{"bash", "-c", "exec " + toStop(t)}})
		},
		"job": func(t *testing.T) (*pty, *process) {
			tty, p := shell(t)
			tty.send(toStop(t) + "\n")
			return tty, p
		},
	}
	for name, begin := range tests {
		t.Run(name, func(t *testing.T) {
			tty, p := begin(t)
			tty.expect("up\r\n")
			pool := p.waitFor("poolinit", func(q procInfo) bool { return q.Name == "poolinit" })
			for _, sig := range []syscall.Signal{syscall.SIGWINCH, syscall.SIGTERM} {
				if err := syscall.Kill(pool.PID, sig); err != nil {
					t.Fatal(err)
				}
				tty.expect(map[syscall.Signal]string{syscall.SIGWINCH: "SIGWINCH", syscall.SIGTERM: "stopped: "}[sig])
			}
		})
	}
}

func toStop(t *testing.T) string {
	return poolinit(t) + " --log-level debug -- sh -c 'stty tostop; echo up; exec sleep 1000'"
}

// After Ctrl-Z and bg the foreground is the shell's: a worker that reads stops, with
// the pool, and the shell stays where it is.
func TestRunTerminalReadInTheBackground(t *testing.T) {
	need(t, "bash", "sh", "cat")
	tty, p := shell(t)
	tty.send(poolinit(t) + " -- sh -c 'echo up; exec cat'\n")
	tty.expect("up\r\n")
	for range 3 {
		tty.send("\x1a")
		tty.expect("Stopped")
		tty.expect("ready> ")
		tty.send("bg\n")
		tty.expect("ready> ")
		p.waitFor("cat, stopped", func(q procInfo) bool { return q.Name == "cat" && q.State == 'T' })
		p.waitFor("poolinit, stopped", func(q procInfo) bool { return q.Name == "poolinit" && q.State == 'T' })
		tty.send("echo the shell is $((40 + 2))\n")
		tty.expect("the shell is 42\r\n")
		tty.expect("ready> ")
		tty.send("fg\n")
		tty.expect("cat'\r\n")
		tty.send("one\n")
		tty.expect("one\r\none\r\n")
	}
	tty.send("\x03")
	tty.expect("stopped: ")
}
