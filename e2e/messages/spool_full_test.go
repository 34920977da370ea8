package messages

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// A dialogue is a connection that is asked one thing after the other.
type dialogue struct {
	t  testing.TB
	nc net.Conn
	in *bufio.Reader
}

func dialogueAt(t testing.TB, socket string) *dialogue {
	t.Helper()
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &dialogue{t, nc, bufio.NewReader(nc)}
}

// ask sends a message, and wants a reply that begins so; one with a "!" is a
// failure.
func (d *dialogue) ask(body, want string) {
	d.t.Helper()
	_ = d.nc.SetDeadline(time.Now().Add(testkit.Patience))
	if err := harness.WriteFrame(d.nc, body); err != nil {
		d.t.Fatal(err)
	}
	reply, failed, err := harness.ReadFrame(d.in)
	got := string(reply)
	if failed {
		got = "!" + got
	}
	if err != nil || !strings.HasPrefix(got, want) {
		d.t.Fatalf("reply %.100q %v, want %.100q", got, err, want)
	}
}

// anyonesDir returns a new directory that every user may look into, and whose
// path is short enough for a socket.
func anyonesDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// expectComplaints waits for a complaint about the spool, and checks that there
// are far fewer than there were reasons to complain.
func expectComplaints(p harness.Pool, why string, reasons int) {
	p.T.Helper()
	p.ExpectLog("cannot write to the spool", func(r harness.Record) bool { return r.Level == "warn" && strings.Contains(r.Why, why) })
	if n := p.Count("cannot write to the spool"); n > reasons/2 {
		p.T.Errorf("%d complaints about %d messages:\n%s", n, reasons, p.Stderr.String())
	}
}

// expectTotals waits for the end, and compares the figures of the last line.
func expectTotals(p harness.Pool, handled, spooled, lost int) {
	p.T.Helper()
	p.ExpectExit(0)
	if h, s, l := p.Totals(); h != handled || s != spooled || l != lost {
		p.T.Errorf("handled %d, spooled %d, lost %d; want %d, %d, %d", h, s, l, handled, spooled, lost)
	}
}

// The disk gets full while the pool runs: it goes on, says so now and then, and
// counts what is not kept as lost. When there is room again it is kept again.
func TestSpoolGetsFull(t *testing.T) {
	needRoot(t)
	dir, spool := anyonesDir(t), t.TempDir()
	socket := filepath.Join(dir, "sock")
	p := harness.PoolOf(harness.Start(t, harness.Program{Child: harness.TmpfsChild, Env: []string{"E2E_NEXT=" + chaosWorker}, Args: []string{
		harness.Self(t), spool, "size=64k", harness.Binary(t), "--attempts", "1", "--stop-timeout", "5m",
		"--listen", "unix://" + socket + "?reply=always", "--spool", spool, "--", harness.Self(t), filepath.Join(dir, "book"),
	}}))
	p.Stderr.Expect(t, "accepting messages")
	seen := filepath.Join("/proc", harness.StatusLine(p.PID, "Pid"), "root", spool)
	kept := func() []string {
		names, _ := filepath.Glob(filepath.Join(seen, "poolinit-0", "*.given-up")) // a tmpfs is everybody's
		return names
	}
	const bad = 20
	d := dialogueAt(t, socket)
	for range bad {
		d.ask("fail "+strings.Repeat("x", 4000), "!given-up: broken: on purpose")
		d.ask("good", "good")
	}
	full := kept()
	if len(full) == 0 || len(full) >= bad/2 {
		t.Errorf("%d messages are kept: %q", len(full), full)
	}
	expectComplaints(p, "no space left on device", bad-len(full))
	for _, name := range full {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	d.ask("fail again", "!given-up: ")
	if names := kept(); len(names) != 1 {
		t.Errorf("with room again: %q", names)
	}
	d.nc.Close()
	p.Signal(syscall.SIGTERM)
	expectTotals(p, bad, 0, bad-len(full))
}

// The same with a directory that somebody takes the permissions from, for a pool
// that is not root.
func TestSpoolGetsUnwritable(t *testing.T) {
	needRoot(t)
	harness.Need(t, "sh")
	dir := anyonesDir(t)
	spool, socket := filepath.Join(dir, "spool"), filepath.Join(dir, "run", "sock")
	for _, path := range []string{spool, filepath.Dir(socket)} {
		err := os.Mkdir(path, 0o700)
		if err == nil {
			err = os.Chown(path, 65534, 65534)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p := harness.PoolOf(harness.Start(t, harness.Program{Child: harness.UserChild, Args: []string{
		harness.Self(t), "65534", harness.Binary(t), "--attempts", "1", "--deliver", "exec", "--stop-timeout", "5m",
		"--listen", "unix://" + socket + "?reply=always", "--spool", spool, "--", "sh", "-c", `read -r word; [ "$word" = good ] && echo fine`,
	}}))
	p.Stderr.Expect(t, "accepting messages")
	d := dialogueAt(t, socket)
	allow := func(mode os.FileMode, kept int) {
		t.Helper()
		d.ask("good", "fine")
		if names, _ := filepath.Glob(filepath.Join(spool, "*.given-up")); len(names) != kept {
			t.Errorf("kept: %q, want %d", names, kept)
		}
		if err := os.Chmod(spool, mode); err != nil {
			t.Fatal(err)
		}
	}
	const bad = 5
	d.ask("bad", "!given-up: ")
	allow(0o500, 1)
	for range bad {
		d.ask("bad", "!given-up: ")
	}
	expectComplaints(p, "permission denied", bad)
	allow(0o700, 1)
	d.ask("bad", "!given-up: ")
	allow(0o700, 2)
	d.nc.Close()
	p.Signal(syscall.SIGTERM)
	expectTotals(p, 3, 0, bad)
}

// A socket where the user may not make one: a line that says who may not, where,
// and what helps.
func TestListenNotWritable(t *testing.T) {
	needRoot(t)
	dir := anyonesDir(t)
	for _, flag := range []string{"--listen", "--share"} {
		p, code := harness.Run(t, harness.Program{Child: harness.UserChild, Args: []string{
			harness.Self(t), "65534", harness.Binary(t), flag, "unix://" + dir + "/pool.sock", "--", "sh", "-c", "echo started"}})
		harness.CheckUsage(t, p, code, []string{"cannot listen on unix://" + dir + "/pool.sock: ",
			"permission denied: let uid 65534 write to " + dir + ", or choose another directory"})
		p, code = harness.Run(t, harness.Program{Args: []string{harness.Binary(t), flag, "unix://" + dir + "/none/pool.sock", "--", "sh", "-c", "echo started"}})
		harness.CheckUsage(t, p, code, []string{"cannot listen on unix://" + dir + "/none/pool.sock: ",
			"no such file or directory: make the directory " + dir + "/none, or choose another one"})
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		strict.Skip(t, "only root can do that")
	}
}
