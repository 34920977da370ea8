package control

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
)

// children are what the test binary plays.
var children = testkit.Children{
	"pool":   childPool,
	"squat":  childSquat,
	"client": childClient,
	"dial":   childDial,
}

func TestMain(m *testing.M) { os.Exit(children.Main(m)) }

// A child is another process, played by the test binary.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	out   *strings.Builder
	ended chan struct{}
}

// play starts a child. It is killed at the end of the test.
func play(t *testing.T, attr *syscall.SysProcAttr, name string, args ...string) *child {
	t.Helper()
	c := &child{t: t, out: new(strings.Builder), ended: make(chan struct{})}
	c.cmd = testkit.Child(name, args...)
	c.cmd.SysProcAttr = attr
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr = os.Stderr
	c.stdin = stdin
	if err := c.cmd.Start(); err != nil {
		if attr != nil && errors.Is(err, syscall.EPERM) {
			strict.Skip(t, "no permission: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill(); <-c.ended })
	first := make([]byte, 1)
	_, err = io.ReadFull(stdout, first)
	go func() { // ends with the child
		defer close(c.ended)
		rest, _ := io.ReadAll(stdout)
		c.out.Write(append(first, rest...))
		_ = c.cmd.Wait() // what it has printed is what counts
	}()
	if err != nil {
		<-c.ended
		t.Fatalf("the child %s ended without a word", name)
	}
	return c
}

// text waits for the end of the child and returns what it has printed.
func (c *child) text() string {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(testkit.Patience):
		c.t.Fatal("the child does not end")
	}
	return c.out.String()
}

// childPool is a pool that stops when it is asked to, forgets what it can, and ends
// when its stdin does.
func childPool([]string) int {
	pool := newFakePool()
	s, err := Listen(pool.view(), pool, func(error) {})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	s.Serve()
	fmt.Println("serving")
	select {
	case <-pool.stopC:
	case <-endOfStdin():
		return 0
	}
	s.Close()
	s, pool = nil, nil
	for range 3 {
		runtime.GC() // closes what nobody holds any more
	}
	fmt.Println("closed")
	<-endOfStdin()
	return 0
}

func endOfStdin() <-chan struct{} {
	end := make(chan struct{})
	go func() { // ends with the process at the latest
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	return end
}

// childSquat listens at a name that is somebody else's.
func childSquat(args []string) int {
	ln, err := net.Listen("unix", args[0])
	fmt.Println("listening", err)
	if err != nil {
		return 1
	}
	defer ln.Close()
	<-endOfStdin()
	return 0
}

// childClient says what a direct connection to a name gets.
func childClient(args []string) int {
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
	_, _ = io.WriteString(conn, `{"command":"stop"}`+"\n") // it may be closed already
	answer, err := io.ReadAll(conn)
	fmt.Printf("%s%v\n", answer, err)
	return 0
}

// childDial says what poolinit's own commands get.
func childDial(args []string) int {
	pid, _ := strconv.Atoi(args[0])
	_, err := Dial(pid)
	fmt.Println(err)
	return 0
}

// A fakePool does what the test says.
type fakePool struct {
	mu      sync.Mutex
	stats   supervisor.Stats
	whys    []string
	results chan supervisor.ReloadResult // of the next reload
	asked   chan struct{}                // 1: a reload was asked for
	stopC   chan struct{}                // closed by Stop
	refused []error
	paused  bool
	waiting []Waiting
	fails   error // of what can fail
}

func newFakePool() *fakePool {
	return &fakePool{
		results: make(chan supervisor.ReloadResult, 1), // 1: as a pool's
		asked:   make(chan struct{}, 1),
		stopC:   make(chan struct{}),
		stats: supervisor.Stats{Began: time.Now(), Generation: 1, Complete: true, Workers: []supervisor.WorkerStats{
			{ID: 0, PID: os.Getpid(), Generation: 1, State: supervisor.Ready, Since: time.Now(), Started: time.Now(), Starts: 1},
			{ID: 1, State: supervisor.Backoff, Since: time.Now(), Failures: 2},
		}},
	}
}

func (p *fakePool) Stats() supervisor.Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

func (p *fakePool) Stop(why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.whys) == 0 {
		close(p.stopC)
	}
	p.whys = append(p.whys, why)
}

func (p *fakePool) StopNow(why string) { p.Stop(why) }

func (p *fakePool) ReloadWait(why string) <-chan supervisor.ReloadResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whys = append(p.whys, why)
	p.asked <- struct{}{}
	return p.results
}

func (p *fakePool) Scale(workers int, why string) error {
	return p.ask(why, func() { p.stats.Workers = make([]supervisor.WorkerStats, workers) })
}

func (p *fakePool) Pause(why string) error { return p.ask(why, func() { p.paused = true }) }

func (p *fakePool) Resume(why string) error { return p.ask(why, func() { p.paused = false }) }

func (p *fakePool) Queue(limit int) (List, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(limit, len(p.waiting))
	return List{append([]Waiting{}, p.waiting[:n]...), len(p.waiting) - n}, p.fails
}

func (p *fakePool) Drop(ids []uint64, why string) (dropped int, err error) {
	err = p.ask(why, func() {
		before := len(p.waiting)
		p.waiting = slices.DeleteFunc(p.waiting, func(w Waiting) bool { return slices.Contains(ids, w.ID) })
		dropped = before - len(p.waiting)
	})
	return dropped, err
}

// ask does what the pool is asked for, unless that fails.
func (p *fakePool) ask(why string, what func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whys = append(p.whys, why)
	if p.fails == nil {
		what()
	}
	return p.fails
}

func (p *fakePool) set(change func(*supervisor.Stats)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.stats)
}

// asks returns who has asked the pool for something.
func (p *fakePool) asks() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.whys, "; ")
}

func (p *fakePool) refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused = append(p.refused, err)
}

func (p *fakePool) refusals() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

type noOrphans struct{}

func (noOrphans) Stats() reaper.Stats { return reaper.Stats{} }

func (p *fakePool) view() *status.View {
	return &status.View{Version: "v1", PID: os.Getpid(), Pool: p, Reaper: noOrphans{}}
}

// A world is a server for a fake pool, at the socket of the test's own process.
type world struct {
	t      *testing.T
	pool   *fakePool
	server *Server
	before int // goroutines
	closed bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, pool: newFakePool(), before: runtime.NumGoroutine()}
	var err error
	if w.server, err = Listen(w.pool.view(), w.pool, w.pool.refuse); err != nil {
		t.Fatal(err)
	}
	w.server.times = times{request: requestTime / 4, close: closeTime / 10, tick: progressTick / 10}
	w.server.Serve()
	t.Cleanup(w.close)
	return w
}

// close ends the server, within the time it has, and sees that nothing is left.
func (w *world) close() {
	if w.closed {
		return
	}
	w.closed = true
	done := make(chan struct{})
	go func() { w.server.Close(); close(done) }() // ends with Close
	testkit.Wait(w.t, "Close returns", done)
	// AfterFunc's are done, but may not be gone.
	testkit.Eventually(w.t, "no goroutine is left", func() (any, bool) {
		return stacks(), runtime.NumGoroutine() <= w.before+1 // a test's own may come and go
	})
}

func stacks() string {
	buf := make([]byte, 1<<16)
	return string(buf[:runtime.Stack(buf, true)])
}

// name is that of the test's own socket.
func name(t *testing.T) string {
	t.Helper()
	head, err := prefix()
	if err != nil {
		t.Fatal(err)
	}
	return head + strconv.Itoa(os.Getpid())
}

// client connects as poolinit's own commands do.
func (w *world) client() *Client {
	w.t.Helper()
	c, err := Dial(os.Getpid())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

// dial connects in the plain way.
func (w *world) dial() *net.UnixConn {
	w.t.Helper()
	var conn net.Conn
	testkit.Eventually(w.t, "a connection", func() (_ any, ok bool) {
		var err error
		conn, err = net.Dial("unix", name(w.t))
		if err != nil && !errors.Is(err, syscall.EAGAIN) { // the kernel's queue may be short
			w.t.Fatal(err)
		}
		return err, err == nil
	})
	w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
	return conn.(*net.UnixConn)
}

// answer is all that a connection gets for what it sends.
func (w *world) answer(request string) string {
	w.t.Helper()
	conn := w.dial()
	_, _ = io.WriteString(conn, request) // the server may have had enough
	text, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		w.t.Errorf("%.100q: %v", request, err)
	}
	return string(text)
}

// idle waits until nobody is served.
func (w *world) idle() {
	w.t.Helper()
	testkit.Eventually(w.t, "nobody is served", func() (any, bool) {
		return w.server.listener.Taken(), w.server.listener.Taken() <= 1 // for the next one
	})
}

func wantError(t *testing.T, err error, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("error %v, want %q", err, words)
	}
}
