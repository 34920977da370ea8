package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// A life of the pool is from its start to its end. A round has several.
type life struct {
	p     harness.Pool
	netns string

	mu       sync.Mutex
	stopping time.Time // when it was asked to stop
	ended    time.Time
	killed   bool // by SIGKILL, without a stop
	code     int
}

// startLife starts the pool, and returns when it accepts messages.
func (r *round) startLife() *life {
	r.t.Helper()
	words := append([]string{harness.Self(r.t), strings.Join(r.cage.dirs(), " "), harness.Binary(r.t), "run"}, r.flags...)
	deliver := "frames"
	if r.tagged {
		deliver = "tagged"
	}
	words = append(words, "--", harness.Self(r.t), r.path("book"), deliver)
	p := harness.Start(r.t, harness.Program{Child: poolChild, Args: words, Env: []string{"E2E_NEXT=" + workerChild}})
	r.t.Cleanup(r.heal) // what is frozen cannot be killed
	l := &life{p: harness.PoolOf(p)}
	l.p.ExpectLog("serving metrics", nil)
	testkit.Eventually(r.t, "it accepts messages", func() (any, bool) {
		return p.Stderr.String(), l.p.Count("accepting messages") == 5
	})
	l.netns = fmt.Sprintf("/proc/%d/ns/net", p.Self())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lives, r.alive = append(r.lives, l), true
	return l
}

// life is the one that runs, or ran last.
func (r *round) life() *life {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lives[len(r.lives)-1]
}

// stopLife stops the pool and waits for its end. One that takes too long is killed.
func (r *round) stopLife() (code int) {
	l := r.life()
	l.mu.Lock()
	l.stopping = time.Now()
	l.mu.Unlock()
	l.p.Signal(syscall.SIGTERM)
	select {
	case <-l.p.Exited:
	case <-time.After(stopTimeout + stopSlack):
		// A process that has ended is there as long as one of its threads waits for a
		// frozen disk, and only these are left of it.
		left := stacks(l.p.PID)
		if r.disk == nil || r.disk.frozen == nil || slices.ContainsFunc(left, func(s string) bool { return s != "percpu_rwsem_wait" && s != "0" && s != "" }) {
			r.oracle.complain("a stop has taken more than %v: %v %q", stopTimeout+stopSlack, l.p.List(), left)
		}
		r.heal()
		_ = l.p.Cmd.Process.Kill()
	}
	code = l.p.Wait()
	l.finish(code)
	return code
}

// stacks says what each thread of a process waits for in the kernel.
func stacks(pid int) (list []string) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		where, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/wchan", pid, task.Name()))
		list = append(list, string(where))
	}
	return list
}

// killLife is what no pool can prepare for.
func (r *round) killLife() {
	l := r.life()
	l.mu.Lock()
	l.killed = true
	l.mu.Unlock()
	_ = l.p.Cmd.Process.Kill()
	r.heal() // the kernel keeps what waits for a frozen disk
	l.finish(l.p.Wait())
}

func (l *life) finish(code int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended, l.code = time.Now(), code
}

func (l *life) beganToStop() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stopping
}

// unanswered says what is wrong if a message has no answer, or "".
func (r *round) unanswered(m *message) string {
	l := m.life
	switch {
	case l.killed:
		return ""
	case l.stopping.IsZero():
		return "its connection ended while the pool ran"
	case m.written.IsZero() || m.written.After(l.stopping.Add(-10*time.Millisecond)):
		return "" // it came too late, or not whole
	case l.ended.Sub(l.stopping) > stopTimeout*3/4 || l.code == 137:
		return "" // time was up
	}
	return fmt.Sprintf("it was written %v before a stop, which took %v", l.stopping.Sub(m.written), l.ended.Sub(l.stopping))
}

// excused is when the last messages of the System V queue were lost that may be: with the
// queue, with the pool, or since a stop had no disk for them.
func (r *round) excused() time.Time {
	last := r.removed
	for _, l := range r.lives {
		m := lastLine.FindStringSubmatch(l.p.Stderr.String())
		if (m == nil || m[3] != "0") && l.ended.After(last) {
			last = l.ended
		}
	}
	return last
}

// poolEnds is how often the pool itself may have ended a worker with messages in hand.
func (r *round) poolEnds() (n int) {
	for _, l := range r.lives {
		n += 1 + l.p.Count("reload started") + l.p.Count("number of workers set") + l.p.Count("replacing worker")
	}
	return n
}

// lostCode is the exit code of a stop that has lost messages.
const lostCode = 75

var lastLine = regexp.MustCompile(`stopped: handled (\d+), spooled (\d+), lost (\d+), killed (\d+)`)

// judge looks at how it ended.
func (l *life) judge(t *testing.T) {
	log := l.p.Stderr.String()
	m := lastLine.FindStringSubmatch(log)
	switch {
	case l.killed:
	case l.stopping.IsZero():
		t.Errorf("the pool ended by itself with %d:\n%s", l.code, log[max(0, len(log)-3000):])
	case m == nil || l.code == lostCode && m[3] == "0" || l.code != 0 && l.code != 137 && l.code != lostCode:
		t.Errorf("the pool was stopped, and ended with %d:\n%s", l.code, log[max(0, len(log)-3000):])
	}
}

// in runs something with the thread in the pool's network namespace.
func (l *life) in(do func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(own)
	there, err := unix.Open(l.netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(there)
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return err
	}
	defer func() {
		if err := unix.Setns(own, unix.CLONE_NEWNET); err != nil {
			panic(err) // the thread must not serve anything else
		}
	}()
	do()
	return nil
}

// dial connects to an address in the pool's network namespace: the socket belongs to the
// namespace of the thread that makes it.
func (l *life) dial(network, addr string) (nc net.Conn, err error) {
	if e := l.in(func() { nc, err = net.Dial(network, addr) }); e != nil {
		return nil, e
	}
	return nc, err
}

// get returns a page of --http.
func (l *life) get(path string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) { return l.dial(network, addr) }}}
	return harness.Get(client, "http://127.0.0.1:7000"+path)
}

// document returns the status, or nil.
func (l *life) document() *harness.Document {
	text, err := l.get("/status.json")
	d := new(harness.Document)
	if err != nil || json.Unmarshal([]byte(text), d) != nil {
		return nil
	}
	return d
}

// figures are what a pool that has nothing to do uses.
type figures struct {
	fds, goroutines, memory int
}

func (l *life) figures() (f figures) {
	text, err := l.get("/metrics")
	if err != nil {
		return figures{1 << 30, 1 << 30, 1 << 30}
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "process_open_fds":
			f.fds = int(n)
		case "go_goroutines":
			f.goroutines = int(n)
		case "process_resident_memory_bytes":
			f.memory = int(n)
		}
	}
	return f
}

// idleFigures waits until the pool consists of itself and its workers, and returns its figures.
func (l *life) idleFigures(workers int) figures {
	l.p.T.Helper()
	testkit.Eventually(l.p.T, "there is only the pool in its namespace", func() (any, bool) {
		list := l.p.List()
		return list, len(list) == 1+workers
	})
	return l.figures()
}

// above says what a pool uses more than it did at first, with some slack. "": nothing.
func (f figures) above(first figures) string {
	if f.fds > first.fds+2 || f.goroutines > first.goroutines+6 || f.memory > first.memory+64<<20 {
		return fmt.Sprintf("%+v; at first %+v", f, first)
	}
	return ""
}
