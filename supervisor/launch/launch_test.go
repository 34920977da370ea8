package launch

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit/strict"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/notify"
	"github.com/poolinit/poolinit/supervisor/output"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// The test binary plays the worker: TEST_CHILD says what it does.
func TestMain(m *testing.M) {
	if IsShareExec(os.Args) {
		os.Exit(ShareExec(os.Args))
	}
	if role := os.Getenv("TEST_CHILD"); role != "" {
		os.Exit(child(role))
	}
	os.Exit(m.Run())
}

func child(role string) int {
	switch role {
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "files":
		entries, _ := os.ReadDir("/proc/self/fd")
		for _, e := range entries {
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil { // but the one of ReadDir itself
				fmt.Println(e.Name(), to)
			}
		}
	case "group":
		fmt.Println(os.Getpid() == unix.Getpgrp())
	case "id":
		groups, _ := os.Getgroups()
		fmt.Println(os.Getuid(), os.Getgid(), groups)
	case "both":
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
	case "ready":
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		if err := speak("READY=1\nSTATUS=up"); err != nil {
			fmt.Println(err)
			return 1
		}
		<-ended
		return 7
	case "garbage":
		for range 3 {
			_ = speak("garbage")
		}
		return 0
	}
	return 0
}

func speak(text string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	return unix.Sendto(fd, []byte(text), 0, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")})
}

// One for all tests, as there must be one in a program. It ends with it.
var theReaper = sync.OnceValues(func() (*reaper.Reaper, error) {
	reaper.SealFiles() // what the test was started with
	return reaper.New(nil)
})

// A capture is the configuration of a launcher, with what its workers print and
// its log.
type capture struct {
	Config
	relay *output.Relay
	mu    sync.Mutex
	text  bytes.Buffer
	log   bytes.Buffer
}

// A part is one of a capture's texts.
type part struct {
	c  *capture
	to *bytes.Buffer
}

func (p part) Write(b []byte) (int, error) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return p.to.Write(b)
}

// launcher returns one that starts the test binary in a role.
func launcher(t *testing.T, role string) *capture {
	t.Helper()
	reap, err := theReaper()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := new(capture)
	c.relay = output.NewRelay(output.Prefix, part{c, &c.text}, part{c, &c.text})
	c.Config = Config{
		Reaper: reap, Args: []string{self}, Relay: c.relay, Log: zerolog.New(part{c, &c.log}),
		Env: append(Environ(func(name string) bool { return name == "TEST_CHILD" }), "TEST_CHILD="+role,
			"GORACE=atexit_sleep_ms=0"), // else it takes a second to exit
	}
	return c
}

// run starts worker 3, waits for its end, and returns its lines, without their prefix.
func (c *capture) run(t *testing.T) []string {
	t.Helper()
	p := c.launch(t)
	wait(t, "exit", p.Events().Exited)
	if code := p.Info().Exit.Status(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.Release("the test is over", false)
	if err := c.relay.Close(patience); err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	text := strings.ReplaceAll(c.text.String(), "[worker 3] ", "")
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func (c *capture) launch(t *testing.T) supervisor.Process {
	t.Helper()
	p, err := New(c.Config).Launch(supervisor.Identity{ID: 3, Workers: 5, Generation: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Signal(supervisor.Group, syscall.SIGKILL) }) // most have ended
	return p
}

func (c *capture) logged() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

// eventually waits for what has no channel.
func eventually(t *testing.T, what string, cond func() (got any, ok bool)) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got, ok := cond()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v; instead there was: %v", what, patience, got)
		}
	}
}

func wait(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("no %s", what)
	}
}

func TestWorkerIsTold(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/outer")
	t.Setenv("WATCHDOG_USEC", "1")
	t.Setenv("WATCHDOG_PID", "1")
	t.Setenv("POOLINIT_WORKER_ID", "99")
	t.Setenv("OTHER", "stays")
	c := launcher(t, "env")
	c.Watchdog = 1500 * time.Millisecond
	env := c.run(t)
	for _, want := range []string{"POOLINIT_WORKER_ID=3", "POOLINIT_WORKERS=5", "POOLINIT_GENERATION=2", "WATCHDOG_USEC=1500000", "OTHER=stays"} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in %q", want, env)
		}
	}
	seen := map[string]bool{}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if seen[name] {
			t.Errorf("%s is there twice", name)
		}
		seen[name] = true
		if name == "WATCHDOG_PID" || name == "NOTIFY_SOCKET" && !strings.HasPrefix(value, "@poolinit/") {
			t.Error(v)
		}
	}
	if !seen["NOTIFY_SOCKET"] {
		t.Error("no NOTIFY_SOCKET")
	}
}

func TestNoWatchdogUnlessAsked(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "1")
	for _, v := range launcher(t, "env").run(t) {
		if strings.HasPrefix(v, "WATCHDOG_USEC=") {
			t.Error(v)
		}
	}
}

func TestWorkerLeadsItsGroup(t *testing.T) {
	if got := launcher(t, "group").run(t); got[0] != "true" {
		t.Error("it does not")
	}
}

func TestWorkerHasThreeFiles(t *testing.T) {
	lines := launcher(t, "files").run(t)
	var got []string
	for _, line := range lines {
		// The runtime of the child opens some for itself.
		if !strings.Contains(line, "anon_inode:[") && !strings.Contains(line, "/sys/fs/cgroup/") {
			got = append(got, line)
		}
	}
	slices.Sort(got)
	if len(got) != 3 || !strings.HasPrefix(got[0], "0 ") ||
		!strings.HasPrefix(got[1], "1 pipe:") || !strings.HasPrefix(got[2], "2 pipe:") {
		t.Errorf("descriptors %q: want 0, 1 and 2", got)
	}
}

func TestWorkerUser(t *testing.T) {
	if os.Geteuid() != 0 {
		strict.Skip(t, "only root can start workers as another user")
	}
	c := launcher(t, "id")
	c.Args[0] = readableCopy(t, c.Args[0])
	// With -cover the child writes to this directory, or complains that it cannot.
	c.Env = append(slices.DeleteFunc(c.Env, func(v string) bool { return strings.HasPrefix(v, "GOCOVERDIR=") }),
		"GOCOVERDIR="+writableDir(t))
	c.Credential = &syscall.Credential{Uid: 12345, Gid: 54321, Groups: []uint32{7}}
	if got := c.run(t); got[0] != "12345 54321 [7]" {
		t.Errorf("it is %q", got)
	}
}

// writableDir returns a directory in which any user may write.
func writableDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "launch-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// readableCopy puts the test binary where any user may execute it.
func readableCopy(t *testing.T, program string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "launch-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text, err := os.ReadFile(program)
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	path := filepath.Join(dir, "worker")
	if err == nil {
		err = os.WriteFile(path, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBothStreamsAreRelayed(t *testing.T) {
	got := launcher(t, "both").run(t)
	slices.Sort(got)
	if !slices.Equal(got, []string{"to stderr", "to stdout"}) {
		t.Errorf("%q", got)
	}
}

func TestNoticesArrive(t *testing.T) {
	p := launcher(t, "ready").launch(t)
	select {
	case m := <-p.Events().Notices:
		if want := (notify.Message{Ready: true, Status: "up"}); m != want {
			t.Errorf("%+v", m)
		}
	case <-time.After(patience):
		t.Fatal("no READY=1")
	}
	if err := p.Signal(supervisor.Alone, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	wait(t, "exit", p.Events().Exited)
	wait(t, "end of the group", p.Events().Gone)
	if code := p.Info().Exit.Code; code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	p.Release("the test is over", false)
	for range p.Events().Notices {
		t.Error("a message after Release")
	}
}

func TestGarbageIsLoggedOnce(t *testing.T) {
	c := launcher(t, "garbage")
	p := c.launch(t)
	wait(t, "exit", p.Events().Exited)
	eventually(t, "a complaint", func() (any, bool) { return c.logged(), c.logged() != "" })
	p.Release("the test is over", false)
	// The child may be gone before it is looked at: then it is a stranger.
	if n := strings.Count(c.logged(), "ignoring invalid notify message"); n < 1 || n > 2 {
		t.Errorf("%d complaints: %s", n, c.logged())
	}
}

// A start that fails says why, and leaves nothing open.
func TestFailedStart(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want error
		code int
	}{
		{[]string{"./no-such-program"}, fs.ErrNotExist, 127},
		{[]string{"no-such-program"}, fs.ErrNotExist, 127},
		{[]string{"/"}, fs.ErrPermission, 126},
		{[]string{"./launch.go"}, fs.ErrPermission, 126},
	} {
		before := openFiles(t)
		c := launcher(t, "env")
		c.Args = tt.args
		if err := start(c); err == nil || !strings.HasPrefix(err.Error(), "cannot start worker: ") || reaper.ExitCode(err) != tt.code {
			t.Errorf("%q: %v", tt.args, err)
		}
		for range 20 {
			_ = start(c) // as before
		}
		if err := c.relay.Close(patience); err != nil {
			t.Errorf("%q: %v", tt.args, err)
		}
		expectFiles(t, before)
	}
}

func start(c *capture) error {
	_, err := New(c.Config).Launch(supervisor.Identity{})
	return err
}

// expectFiles waits until no more descriptors are open than before.
func expectFiles(t *testing.T, before int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d descriptors", before), func() (any, bool) {
		now := openFiles(t)
		return now, now <= before
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	if _, err := theReaper(); err != nil { // which has descriptors, too
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Workers are started by many goroutines at once; each gets its own socket and
// leaves nothing behind.
func TestManyAtOnce(t *testing.T) {
	before := openFiles(t)
	c := launcher(t, "env")
	l := New(c.Config)
	var all sync.WaitGroup
	for id := range 32 {
		all.Go(func() {
			p, err := l.Launch(supervisor.Identity{ID: id, Workers: 32, Generation: 1})
			if err != nil {
				t.Error(err)
				return
			}
			<-p.Events().Gone
			p.Release("the test is over", false)
		})
	}
	all.Wait()
	if err := c.relay.Close(patience); err != nil {
		t.Error(err)
	}
	for id := range 32 {
		if line := fmt.Sprintf("[worker %d] POOLINIT_WORKER_ID=%d\n", id, id); !strings.Contains(c.text.String(), line) {
			t.Errorf("no %q", line)
		}
	}
	expectFiles(t, before)
}

func TestEnvironKeepsOrderAndOddities(t *testing.T) {
	t.Setenv("A_FIRST", "1")
	t.Setenv("B_SECOND", "x=y\nz")
	t.Setenv("C_DROPPED", "1")
	env := Environ(func(name string) bool { return name == "C_DROPPED" })
	if !slices.Contains(env, "A_FIRST=1") || !slices.Contains(env, "B_SECOND=x=y\nz") || slices.Contains(env, "C_DROPPED=1") {
		t.Errorf("%q", env)
	}
	for _, name := range OwnVariables() {
		t.Setenv(name, "outer")
	}
	for _, v := range Environ(func(string) bool { return false }) {
		if name, _, _ := strings.Cut(v, "="); slices.Contains(OwnVariables(), name) {
			t.Errorf("inherited: %s", v)
		}
	}
}
