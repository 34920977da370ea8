package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
)

// A desk is where a test's messages come from, and their results go.
type desk struct {
	stats ipc.SourceStats
	flow  ipc.Flow

	mu      sync.Mutex
	results []string // "!" before a failure
	settled chan struct{}
}

func (d *desk) Settled(m *ipc.Delivery, reply []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := string(reply[frame.HeaderSize:])
	if reply[0]&0x80 != 0 {
		text = "!" + text
	}
	d.results = append(d.results, text)
	m.Release()
	d.settled <- struct{}{}
}

func (d *desk) Flush() {}

// A bench is a launcher whose command runs once a message.
type bench struct {
	*capture
	t    *testing.T
	desk desk
	proc supervisor.Process
}

// execBench runs a shell script for each message, by worker 3.
func execBench(t *testing.T, script string, change func(*ipc.Config)) *bench {
	t.Helper()
	return startBench(t, script, change, nil)
}

// startBench is execBench with a launcher that is not like the others.
func startBench(t *testing.T, script string, change func(*ipc.Config), other func(*Config)) *bench {
	t.Helper()
	b := &bench{capture: launcher(t, ""), t: t}
	b.desk.settled = make(chan struct{}, 100)
	b.desk.stats.Name = "tcp://here"
	b.desk.flow = ipc.NewFlow(&ipc.Lane{Source: &b.desk.stats})
	cfg := ipc.Config{QueueMessages: 100, QueueBytes: 1 << 20, MaxMessage: 64 << 20, Window: 1, Attempts: 1}
	if change != nil {
		change(&cfg)
	}
	b.Queue, b.Deliver = ipc.NewQueue(cfg, zerolog.Nop()), DeliverExec
	b.Args = []string{"/bin/sh", "-c", script}
	if other != nil {
		other(&b.Config)
	}
	b.proc = b.launch(t)
	b.proc.Feed(true, time.Time{})
	t.Cleanup(func() {
		b.end(syscall.SIGKILL)
		b.proc.Release("the test is over", false)
		b.Queue.Close()
	})
	return b
}

// end stops the worker as the pool does.
func (b *bench) end(sig syscall.Signal) {
	b.t.Helper()
	b.proc.Finish()
	_ = b.proc.Signal(supervisor.Group, sig)
	wait(b.t, "exit", b.proc.Events().Exited)
}

func (b *bench) submit(bodies ...string) {
	b.t.Helper()
	for _, body := range bodies {
		if b.Queue.Submit([]*ipc.Delivery{ipc.NewDelivery(&b.desk, &b.desk.flow, []byte(body))}) != 1 {
			b.t.Fatal("not taken")
		}
	}
}

// want submits a message and compares its result.
func (b *bench) want(body, result string) {
	b.t.Helper()
	b.submit(body)
	b.expect(result)
}

func (b *bench) expect(result string) {
	b.t.Helper()
	if got := b.result(); got != result {
		b.t.Errorf("result %.200q, want %.200q", got, result)
	}
}

// result waits for the next result, and returns it.
func (b *bench) result() string {
	b.t.Helper()
	select {
	case <-b.desk.settled:
	case <-time.After(patience):
		b.t.Fatalf("no result; the log: %s", b.logged())
	}
	b.desk.mu.Lock()
	defer b.desk.mu.Unlock()
	return b.desk.results[len(b.desk.results)-1]
}

// running waits until the command has written a line, and returns its PID.
func (b *bench) running() int {
	b.t.Helper()
	pid := 0
	eventually(b.t, "it runs", func() (any, bool) {
		b.mu.Lock()
		defer b.mu.Unlock()
		text := b.text.String()
		pid = b.proc.Info().PID
		return text, strings.Contains(text, "running") && pid > 0
	})
	return pid
}

func TestExecResults(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 200_000)
	for name, tt := range map[string]struct{ script, body, want string }{
		"echo":                    {`cat`, "hello", "hello"},
		"empty":                   {`cat`, "", ""},
		"large":                   {`cat`, big, big},
		"not read":                {`echo done`, big, "done\n"},
		"prints first":            {`head -c 300000 /dev/zero | tr '\0' x; cat`, big, strings.Repeat("x", 300_000) + big},
		"code":                    {`cat; exit 3`, "a", "!given-up: the command exited with code 3"},
		"signal":                  {`kill -9 $$`, "a", "!given-up: the command died of SIGKILL"},
		"closes stdout, goes on":  {`echo early; exec >&-; sleep 0.05; exit 4`, "a", "!given-up: the command exited with code 4"},
		"leaves one in the group": {`sleep 1000 & echo parent`, "a", "parent\n"},
		"leaves a deaf one":       {`(trap "" TERM; exec sleep 1000) & echo parent`, "a", "parent\n"},
		"leaves one outside":      {`setsid sleep 2 & echo parent`, "a", "parent\n"},
		"stdin can be read again": {`cat; cat <&0`, "a", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // one of them takes stopGrace
			b := execBench(t, tt.script, nil)
			b.want(tt.body, tt.want)
			b.end(syscall.SIGTERM)
			if code := b.proc.Info().Exit.Status(); code != 0 {
				t.Errorf("the worker exits with %d", code)
			}
		})
	}
}

// What the last part of a pipeline prints shortly after the first has ended is
// still the reply. (It has a tenth of a second, which a machine that stands still
// can take away: not every time.)
func TestExecPipeline(t *testing.T) {
	b := execBench(t, `(sleep 0.02; echo late) & echo early`, nil)
	eventually(t, "both lines", func() (any, bool) {
		b.submit("a")
		got := b.result()
		return got, got == "early\nlate\n"
	})
}

func TestExecReplyTooLong(t *testing.T) {
	b := execBench(t, `cat /dev/zero`, nil)
	b.want("a", fmt.Sprintf("!given-up: the reply is longer than %d bytes", frame.MaxReply))
}

func TestExecIsTold(t *testing.T) {
	t.Setenv("POOLINIT_MESSAGE_ID", "outer")
	t.Setenv("NOTIFY_SOCKET", "outer")
	b := execBench(t, `echo $POOLINIT_MESSAGE_ID $POOLINIT_ATTEMPT $POOLINIT_SOURCE $POOLINIT_DELIVER $POOLINIT_WORKER_ID `+
		`$POOLINIT_WORKERS $POOLINIT_GENERATION "$POOLINIT_FD$NOTIFY_SOCKET"; [ "$POOLINIT_ATTEMPT" = 2 ]`,
		func(c *ipc.Config) { c.Attempts = 2 })
	b.want("a", "1 2 tcp://here exec 3 5 2 \n")
	b.want("a", "2 2 tcp://here exec 3 5 2 \n")
}

func TestExecFiles(t *testing.T) {
	b := execBench(t, `ls /proc/$$/fd; cut -d' ' -f 5 /proc/$$/stat | grep -qx $$ && echo leads`, nil)
	b.want("a", "0\n1\n2\nleads\n")
}

// What it writes to stderr is its log.
func TestExecLog(t *testing.T) {
	b := execBench(t, `echo "seen: $(cat)" >&2`, nil)
	b.want("a", "")
	b.end(syscall.SIGTERM)
	if err := b.relay.Close(patience); err != nil {
		t.Error(err)
	}
	if got := b.text.String(); got != "[worker 3] seen: a\n" {
		t.Errorf("%q", got)
	}
}

// A command that is killed from outside has failed, and the next message is
// handled.
func TestExecKilled(t *testing.T) {
	b := execBench(t, `read -r line; [ $line = b ] && exit; echo running >&2; sleep 1000`, nil)
	b.submit("a\n")
	if err := syscall.Kill(b.running(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.expect("!given-up: the command died of SIGKILL")
	b.want("b\n", "")
}

// An asker counts how often somebody asks whether it was the OOM killer.
type asker struct {
	asked atomic.Int32
	bench *bench
}

func askingBench(t *testing.T, script string, yes bool) *asker {
	t.Helper()
	a := new(asker)
	a.bench = startBench(t, script, nil, func(c *Config) {
		c.CommandKilled = func(worker, pid int, exit reaper.Exit, uptime time.Duration) bool {
			a.asked.Add(1)
			if worker != 3 || pid <= 0 || exit.Signal != syscall.SIGKILL || uptime <= 0 || uptime > patience {
				t.Errorf("worker %d, pid %d, %+v after %v", worker, pid, exit, uptime)
			}
			return yes
		}
	})
	return a
}

// What the kernel kills for want of memory is called so. The message failed, and
// the worker goes on.
func TestExecOutOfMemory(t *testing.T) {
	a := askingBench(t, `read -r line; [ $line = b ] || kill -9 $$`, true)
	a.bench.want("a\n", "!given-up: command was killed by the OOM killer")
	a.bench.want("b\n", "")
	if n := a.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestExecKilledBySomebodyElse(t *testing.T) {
	a := askingBench(t, `kill -9 $$`, false)
	a.bench.want("a", "!given-up: the command died of SIGKILL")
	if n := a.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// Nobody asks about a SIGKILL that was sent here: the answer would be another
// process's.
func TestExecKilledByThePool(t *testing.T) {
	for name, end := range map[string]struct {
		script string
		kill   func(*bench)
	}{
		"reply too long": {`cat /dev/zero`, func(b *bench) { b.result() }},
		"stop":           {`echo running >&2; sleep 1000`, func(b *bench) { b.running(); b.end(syscall.SIGKILL) }},
		"other signal":   {`kill -TERM $$`, func(b *bench) { b.expect("!given-up: the command died of SIGTERM") }},
	} {
		t.Run(name, func(t *testing.T) {
			a := askingBench(t, end.script, true)
			a.bench.submit("a")
			end.kill(a.bench)
			if n := a.asked.Load(); n != 0 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// Finish lets the command end: no signal, then the worker is gone.
func TestExecFinishes(t *testing.T) {
	b := execBench(t, `trap "echo signalled; exit 9" TERM; echo running >&2; sleep 0.1; cat`, nil)
	b.submit("a")
	b.running()
	wait(t, "answer", b.proc.Finish())
	_ = b.proc.Signal(supervisor.Group, syscall.SIGTERM)
	wait(t, "exit", b.proc.Events().Exited)
	b.expect("a")
	if b.proc.Info().PID != 0 || b.proc.Info().Exit.Status() != 0 {
		t.Error(b.proc.Info().PID, b.proc.Info().Exit)
	}
}

// A command that the pool has to end takes its worker along. The message's
// record is what the pool says.
func TestExecIsEnded(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		b := execBench(t, `echo running >&2; sleep 1000`, nil)
		b.submit("a")
		b.running()
		b.end(sig)
		b.proc.Release("the worker was too slow", false)
		b.expect("!given-up: the worker was too slow")
		if b.proc.Info().Exit.Signal != sig {
			t.Errorf("%v", b.proc.Info().Exit)
		}
	}
}

func TestExecIdleIsEnded(t *testing.T) {
	b := execBench(t, `cat`, nil)
	if b.proc.Info().PID != 0 {
		t.Error("something runs")
	}
	b.end(syscall.SIGKILL)
}

// Other signals reach the command, and change nothing else.
func TestExecForwards(t *testing.T) {
	b := execBench(t, `trap "echo forwarded; exit 0" USR2; echo running >&2; while :; do sleep 0.01; done`, nil)
	b.submit("a")
	b.running()
	if err := b.proc.Signal(supervisor.Alone, syscall.SIGUSR2); err != nil {
		t.Error(err)
	}
	b.expect("forwarded\n")
}

// A command that cannot be started any more fails the worker, not the message.
func TestExecCommandIsGone(t *testing.T) {
	command := filepath.Join(t.TempDir(), "command")
	if err := os.Symlink("/bin/sh", command); err != nil {
		t.Fatal(err)
	}
	b := startBench(t, `true`, nil, func(c *Config) { c.Args[0] = command })
	if err := os.Remove(command); err != nil {
		t.Fatal(err)
	}
	b.submit("a")
	wait(t, "exit", b.proc.Events().Exited)
	if code := b.proc.Info().Exit.Code; code != 127 {
		t.Errorf("exit code %d", code)
	}
	if waiting, _, flying := b.Queue.Depth(); waiting != 1 || flying != 0 {
		t.Errorf("%d wait, %d in flight", waiting, flying)
	}
	b.proc.Release("it is gone", false)
	b.Args = []string{"cat"}
	b.proc = b.launch(t)
	b.proc.Feed(true, time.Time{})
	b.expect("a")
}

func TestExecStartFails(t *testing.T) {
	b := execBench(t, `true`, nil)
	for command, want := range map[string]string{
		"/no/such/command": "cannot start worker: exec /no/such/command: no such file there",
		"/":                "cannot start worker: exec /: is a directory",
	} {
		b.Args = []string{command}
		if _, err := New(b.Config).Launch(supervisor.Identity{}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// No descriptor, process or buffer stays behind.
func TestExecLeavesNothing(t *testing.T) {
	b := execBench(t, `cat`, nil)
	b.want("a", "a")
	before := openFiles(t)
	for range 100 {
		b.want("a", "a")
	}
	expectFiles(t, before)
}
