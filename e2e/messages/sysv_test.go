package messages

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// A notebook is a directory in which workers note what they have handled. While
// there is a file "pause" in it they handle nothing.
type notebook string

var noteDeed = harness.Deed("note", func(words []string) int {
	dir := words[0]
	sock := os.NewFile(3, "channel")
	r := bufio.NewReader(sock)
	notes, err := os.OpenFile(filepath.Join(dir, "notes"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return harness.Failed(err)
	}
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return 0
		}
		body := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(r, body); err != nil {
			return 0
		}
		if _, err := os.Stat(filepath.Join(dir, "pause")); err == nil {
			return harness.Forever()
		}
		_, _ = notes.Write(append(body, '\n'))
		_, _ = sock.Write(make([]byte, 4))
	}
})

// handled returns how often each message was handled.
func (n notebook) handled() map[string]int {
	text, _ := os.ReadFile(filepath.Join(string(n), "notes")) // none yet
	times := map[string]int{}
	for line := range strings.Lines(string(text)) {
		times[strings.TrimSuffix(line, "\n")]++
	}
	return times
}

func (n notebook) pause(t testing.TB) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(string(n), "pause"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (n notebook) goOn() { _ = os.Remove(filepath.Join(string(n), "pause")) }

// expectAll waits until the messages 0 to n-1 have been handled, and no others.
func (n notebook) expectAll(t testing.TB, count int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d messages handled", count), func() (any, bool) {
		got := n.handled()
		return len(got), len(got) >= count
	})
	got := n.handled()
	for i := range count {
		if got[strconv.Itoa(i)] == 0 {
			t.Errorf("message %d was never handled", i)
		}
	}
	if len(got) != count {
		t.Errorf("%d different messages, want %d", len(got), count)
	}
}

// phpSend sends the numbers from..to-1 with PHP's msg_send.
func phpSend(q harness.SysVQueue, t testing.TB, from, to int) *harness.Process {
	t.Helper()
	return harness.Start(t, harness.Program{Host: true, Args: []string{"php", "-r", fmt.Sprintf(
		`$q = msg_get_queue(%d, 0600); for ($i = %d; $i < %d; $i++) msg_send($q, 1, (string)$i, false) || exit(1);`, uint32(q), from, to)}})
}

func needPHP(t testing.TB) {
	t.Helper()
	harness.Need(t, "php")
	if _, code := harness.Run(t, harness.Program{Host: true, Args: []string{"php", "-r", "exit(function_exists('msg_send') ? 0 : 1);"}}); code != 0 {
		strict.Skip(t, "php has no sysvmsg")
	}
}

// killSome kills workers while messages are being handled.
func killSome(p harness.Pool, times int) {
	p.T.Helper()
	for range times {
		workers := p.AwaitWorkers(2)
		w := workers[rand.IntN(2)]
		_ = syscall.Kill(w.PID, syscall.SIGKILL)
		p.WaitForProcess("another worker", func(q harness.ProcInfo) bool { return q.PID != w.PID && q.PPID == w.PPID })
		testkit.Eventually(p.T, "it is gone", func() (any, bool) { _, there := harness.ReadProc(w.PID); return nil, !there })
	}
}

// Sent = handled + still in the queue + spooled, while workers are killed and
// at a stop with messages in hand; and after the next start all are handled.
func TestSysVLosesNothing(t *testing.T) {
	needPHP(t)
	q, notes, spool := harness.NewSysVQueue(t), notebook(t.TempDir()), t.TempDir()
	args := []string{"-n", "2", "--listen", q.URL(), "--spool", spool, "--attempts", "1000", "--healthy-after", "0s",
		"--stop-timeout", "3s", "--", noteDeed, string(notes)}
	p := harness.StartRun(t, harness.Program{}, args...)
	p.ExpectLog("accepting messages", nil)
	sender := phpSend(q, t, 0, 10_000)
	killSome(p, 20)
	if code := sender.Wait(); code != 0 {
		t.Fatalf("php: exit code %d: %s", code, sender.Stderr.String())
	}
	notes.expectAll(t, 10_000)

	notes.pause(t)
	if code := phpSend(q, t, 10_000, 11_000).Wait(); code != 0 {
		t.Fatalf("php: exit code %d", code)
	}
	testkit.Eventually(t, "both workers have something", func() (any, bool) { return q.Depth(), q.Depth() <= 998 })
	p.Signal(syscall.SIGTERM)
	expectStopped(p)
	handled, spooled, lost := p.Totals()
	kept, err := filepath.Glob(filepath.Join(spool, "*.undelivered"))
	if err != nil || len(kept) != spooled || spooled == 0 || lost != 0 {
		t.Errorf("spooled %d, files %d, lost %d", spooled, len(kept), lost)
	}
	if handled+q.Depth()+spooled != 11_000 {
		t.Errorf("handled %d + in the queue %d + spooled %d = %d, want 11000", handled, q.Depth(), spooled, handled+q.Depth()+spooled)
	}

	notes.goOn()
	p = harness.StartRun(t, harness.Program{}, args...)
	notes.expectAll(t, 11_000)
	testkit.Eventually(t, "the spool is empty", func() (any, bool) {
		left, _ := filepath.Glob(filepath.Join(spool, "*d"))
		return left, len(left) == 0
	})
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	if again, _, _ := p.Totals(); handled+again != 11_000 {
		t.Errorf("handled %d and %d, want 11000 together", handled, again)
	}
}

// A stop: the rest waits in the kernel. A start: it goes on.
func TestSysVSurvivesRestart(t *testing.T) {
	needPHP(t)
	q, notes := harness.NewSysVQueue(t), notebook(t.TempDir())
	args := []string{"--listen", q.URL(), "--", noteDeed, string(notes)}
	for round := range 3 {
		p := harness.StartRun(t, harness.Program{}, args...)
		testkit.Eventually(t, "the queue is there", func() (any, bool) { return q.Depth(), q.Depth() >= 0 })
		notes.expectAll(t, 100*round)
		p.Signal(syscall.SIGTERM)
		p.ExpectExit(0)
		if code := phpSend(q, t, 100*round, 100*(round+1)).Wait(); code != 0 {
			t.Fatalf("php: exit code %d", code)
		}
		if q.Depth() != 100 {
			t.Errorf("%d messages in the queue, want 100", q.Depth())
		}
	}
}

// A worker that is killed with --attempts 1: at most once.
func TestSysVAtMostOnce(t *testing.T) {
	needPHP(t)
	q, notes, spool := harness.NewSysVQueue(t), notebook(t.TempDir()), t.TempDir()
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--listen", q.URL(), "--spool", spool, "--attempts", "1", "--healthy-after", "0s",
		"--", noteDeed, string(notes))
	p.ExpectLog("accepting messages", nil)
	sender := phpSend(q, t, 0, 20_000)
	killSome(p, 10)
	if code := sender.Wait(); code != 0 {
		t.Fatalf("php: exit code %d: %s", code, sender.Stderr.String())
	}
	testkit.Eventually(t, "the queue is empty", func() (any, bool) { return q.Depth(), q.Depth() == 0 })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	handled, _, lost := p.Totals()
	givenUp, _ := filepath.Glob(filepath.Join(spool, "*.given-up"))
	if handled+len(givenUp) != 20_000 || lost != 0 {
		t.Errorf("handled %d + given up %d != 20000; lost %d", handled, len(givenUp), lost)
	}
	for body, times := range notes.handled() {
		if times > 1 {
			t.Errorf("message %s was handled %d times", body, times)
		}
	}
}

// ipcrm while it runs, and messages too long for --max-message.
func TestSysVFaults(t *testing.T) {
	needPHP(t)
	q, notes, spool := harness.NewSysVQueue(t), notebook(t.TempDir()), t.TempDir()
	p := harness.StartRun(t, harness.Program{}, "--listen", q.URL(), "--spool", spool, "--max-message", "4", "--", noteDeed, string(notes))
	p.AwaitWorkers(1)
	for round := range 3 {
		testkit.Eventually(t, "the queue is there", func() (any, bool) { return q.Depth(), q.Depth() >= 0 })
		if code := phpSend(q, t, 10*round, 10*(round+1)).Wait(); code != 0 {
			t.Fatalf("php: exit code %d", code)
		}
		for _, body := range []string{"toolong", strings.Repeat("x", 8192)} {
			q.Send(t, body)
		}
		notes.expectAll(t, 10*(round+1))
		testkit.Eventually(t, "the oversized ones are put away", func() (any, bool) {
			list, _ := filepath.Glob(filepath.Join(spool, "*.given-up"))
			return list, len(list) == 2*(round+1)
		})
		q.Remove()
	}
	p.ExpectLog("System V queue lost", nil)
	p.ExpectLog("oversized messages", nil)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// The queue is removed while the only worker hangs: senders find it again, and
// who replaces the worker handles what they send.
func TestSysVRemovedWhileHung(t *testing.T) {
	t.Parallel()
	q, notes := harness.NewSysVQueue(t), notebook(t.TempDir())
	notes.pause(t)
	p := harness.StartRun(t, harness.Program{}, "-n", "1", "--window", "1", "--healthy-after", "0s", "--listen", q.URL(), "--", noteDeed, string(notes))
	hung := p.AwaitWorkers(1)[0]
	q.Send(t, "0")
	testkit.Eventually(t, "the worker has it", func() (any, bool) { return q.Depth(), q.Depth() == 0 })
	q.Remove()
	testkit.Eventually(t, "the queue is there again", func() (any, bool) { return q.Depth(), q.Depth() == 0 })
	q.Send(t, "1")
	notes.goOn()
	_ = syscall.Kill(hung.PID, syscall.SIGKILL)
	notes.expectAll(t, 2)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// ownIPC gives the test, and what it starts itself, an IPC namespace. The thread
// ends with the test.
func ownIPC(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked
	if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil {
		strict.Skip(t, "no permission to make an IPC namespace: %v", err)
	}
}

// setMaxQueues says how many queues there may be in the test's own namespace.
func setMaxQueues(t testing.TB, n int) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/kernel/msgmni", []byte(strconv.Itoa(n)), 0); err != nil {
		t.Fatal(err)
	}
}

// A pool whose queue cannot be made again is not ready, and says so everywhere,
// until it can.
func TestSysVMissingIsNotReady(t *testing.T) {
	ownIPC(t)
	q := harness.NewSysVQueue(t)
	p := harness.StartRun(t, harness.Program{}, "--http", "127.0.0.1:0", "--listen", q.URL(), "--", noteDeed, t.TempDir())
	p.AwaitPool()
	base := harness.HTTPAddress(p.Process)

	setMaxQueues(t, 0)
	q.Remove()
	why := fmt.Sprintf("messages are not taken from sysv://%#x: no space left on device", uint32(q))
	d := p.AwaitDocument("the pool is not ready", func(d *harness.Document) bool { return !d.Ready })
	if d.Reason != why {
		t.Errorf("reason %q, want %q", d.Reason, why)
	}
	if code, text := harness.Page(t, base+"/readyz"); code != 503 || text != why+"\n" {
		t.Errorf("/readyz: %d %q", code, text)
	}
	if n := harness.Metric(t, base, "poolinit_ready"); n != 0 {
		t.Errorf("poolinit_ready %v", n)
	}
	p.Inside("health", "--ready").Says(t, 1, why)
	p.Inside("status").Says(t, 0, why)
	p.Inside("health").Says(t, 0) // it is alive: a restart would not help

	setMaxQueues(t, 1)
	p.AwaitPool()
	if n := harness.Metric(t, base, fmt.Sprintf(`poolinit_queues_remade_total{source="sysv://%#x"}`, uint32(q))); n != 1 || q.Depth() != 0 {
		t.Errorf("made again %v times, depth %d; want 1 and 0", n, q.Depth())
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}
