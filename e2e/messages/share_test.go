package messages

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// serveShared is an HTTP server on the first shared socket that ends its
// requests when it is told to stop, as every good one does. It answers with its
// generation; any other path than / is a file that it waits for first.
var serveShared = harness.Deed("serve-shared", func([]string) int {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" {
		return harness.Failed(fmt.Errorf("LISTEN_PID=%s LISTEN_FDS=%s", os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")))
	}
	ln, err := net.FileListener(os.NewFile(3, "shared"))
	if err != nil {
		return harness.Failed(err)
	}
	var open sync.WaitGroup
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				fmt.Println("slow begins")
				harness.AwaitFile(r.URL.Path)
			}
			fmt.Fprint(w, os.Getenv("POOLINIT_GENERATION"))
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Done()
			}
		},
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() { // ends with the program
		<-stop
		server.SetKeepAlivesEnabled(false)
		ln.Close()
	}()
	// Not Shutdown: it drops the requests of connections that were accepted just before.
	if err := server.Serve(ln); !errors.Is(err, net.ErrClosed) {
		return harness.Failed(err)
	}
	open.Wait()
	return 0
})

// A load is clients that connect anew for each request, all the time.
type load struct {
	t    testing.TB
	stop atomic.Bool
	all  sync.WaitGroup

	mu          sync.Mutex
	generations map[string]int
	errs        []error
}

func startLoad(t testing.TB, addr string) *load {
	l := &load{t: t, generations: map[string]int{}}
	t.Cleanup(l.end)
	for range 8 {
		l.all.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testkit.Patience}
			for !l.stop.Load() {
				l.note(harness.Get(client, "http://"+addr+"/"))
			}
		})
	}
	return l
}

func (l *load) note(text string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.generations[text]++; err != nil {
		l.errs = append(l.errs, err)
	}
}

// served waits until a generation has answered.
func (l *load) served(generation string) {
	l.t.Helper()
	testkit.Eventually(l.t, "generation "+generation+" serves", func() (any, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return fmt.Sprint(l.generations, l.errs), l.generations[generation] > 0
	})
}

func (l *load) end() {
	l.stop.Store(true)
	l.all.Wait()
}

// A server on a shared socket is rolled under load, and no connection is refused
// or reset.
func TestShareRolledUnderLoad(t *testing.T) {
	for _, order := range []string{"stop-first", "start-first"} {
		for _, workers := range []string{"1", "3"} {
			t.Run(order+" "+workers, func(t *testing.T) {
				addr := harness.FreePort(t)
				p := harness.StartRun(t, harness.Program{}, "-n", workers, "--share", "tcp://"+addr, "--reload-order", order, "--", serveShared)
				n, _ := strconv.Atoi(workers)
				p.AwaitWorkers(n)
				l := startLoad(t, addr)
				l.served("1")
				for _, generation := range []string{"2", "3", "4"} {
					p.Signal(syscall.SIGUSR1)
					l.served(generation)
					testkit.Eventually(t, "the reload is done", func() (any, bool) {
						done := p.Count("reload done")
						return done, strconv.Itoa(done+1) == generation
					})
				}
				l.end()
				if len(l.errs) > 0 {
					t.Errorf("%d of %v requests failed: %v", len(l.errs), l.generations, l.errs[0])
				}
				p.Signal(syscall.SIGTERM)
				p.ExpectExit(0)
			})
		}
	}
}

// At a stop the socket stays open until the last worker is gone: requests in
// hand are finished, and nobody is refused before.
func TestShareStop(t *testing.T) {
	addr, goOn := harness.FreePort(t), filepath.Join(t.TempDir(), "go-on")
	p := harness.StartRun(t, harness.Program{}, "--share", "tcp://"+addr, "--stop-timeout", "5m", "--", serveShared)
	p.AwaitWorkers(1)
	answer := make(chan error, 1)
	go func() { // ends with its request
		text, err := harness.Get(&http.Client{Timeout: testkit.Patience}, "http://"+addr+goOn)
		if err == nil && text != "1" {
			err = fmt.Errorf("%q", text)
		}
		answer <- err
	}()
	p.Stdout.Expect(t, "slow begins")
	p.Signal(syscall.SIGTERM)
	p.ExpectLog("stopping", nil)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Errorf("refused while a worker still works: %v", err)
	} else {
		nc.Close()
	}
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Errorf("the request in hand: %v", err)
	}
	p.ExpectExit(0)
	if nc, err := net.Dial("tcp", addr); err == nil {
		nc.Close()
		t.Error("still open")
	}
}

// sdListenFDs is systemd's own check, in another language: LISTEN_PID is the
// process itself, the sockets are there from 3 on, listening and blocking, and
// each has its name. Then it answers one connection on each.
const sdListenFDs = `
import os, socket
assert int(os.environ["LISTEN_PID"]) == os.getpid(), os.environ["LISTEN_PID"]
names = os.environ["LISTEN_FDNAMES"].split(":")
assert len(names) == int(os.environ["LISTEN_FDS"])
found = {}
for fd, name in enumerate(names, 3):
    s = found[name] = socket.socket(fileno=fd)
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert os.get_blocking(fd) and os.get_inheritable(fd)
assert found["web"].family == socket.AF_INET and found["unix-admin.sock"].family == socket.AF_UNIX
assert not os.path.exists("/proc/self/fd/5") or "POOLINIT_FD" in os.environ
print("ready", os.getuid(), flush=True)
while True:
    for name, s in found.items():
        with s.accept()[0] as c:
            c.sendall(name.encode())
`

func TestSharePython(t *testing.T) {
	harness.Need(t, "python3")
	addr, path := harness.FreePort(t), t.TempDir()+"/admin.sock"
	args := []string{harness.Binary(t), "--share", "tcp://" + addr + "?name=web", "--share", "unix://" + path + "?mode=0666"}
	uid := "0"
	if os.Geteuid() == 0 {
		uid = "12345"
		args = append(args, "--user", "12345:12345")
	}
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: append(args, "--", "/usr/bin/env", "python3", "-c", sdListenFDs)}))
	if uid == "0" {
		uid = strconv.Itoa(os.Geteuid())
	}
	p.Stdout.Expect(t, "ready "+uid)
	for _, a := range [][2]string{{"tcp", addr}, {"unix", path}} {
		nc, err := net.Dial(a[0], a[1])
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
		text, err := io.ReadAll(nc)
		nc.Close()
		if want := map[string]string{"tcp": "web", "unix": "unix-admin.sock"}[a[0]]; string(text) != want || err != nil {
			t.Errorf("%s: %q %v", a[0], text, err)
		}
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", path, err)
	}
}

// Workers die with poolinit, though they were another program first.
func TestShareWorkersDieWithPoolinit(t *testing.T) {
	p := harness.StartRun(t, harness.Program{Under: true}, "-n", "3", "--share", "tcp://"+harness.FreePort(t), "--", "ignore")
	p.AwaitWorkers(3)
	workers := p.Workers()
	p.Signal(syscall.SIGKILL)
	for _, list := range workers {
		for _, w := range list {
			testkit.Eventually(t, "the worker is gone", func() (any, bool) {
				q, ok := harness.ReadProc(w.PID)
				return q, !ok || q.State == 'Z'
			})
		}
	}
}

func TestShareCannotStart(t *testing.T) {
	for command, want := range map[string]int{"./no-such-command": 127, "/": 126} {
		p, code := harness.Run(t, harness.Program{Args: []string{harness.Binary(t), "--share", "tcp://" + harness.FreePort(t), "--", command}})
		if code != want || !strings.Contains(p.Stderr.String(), "exec "+command+": ") {
			t.Errorf("%s: code %d\n%s", command, code, p.Stderr.String())
		}
	}
}

// What cannot be bound is said before anything starts.
func TestShareBadAddresses(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir := t.TempDir()
	live, err := net.Listen("unix", dir+"/live")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	for url, says := range map[string]string{
		"tcp://" + ln.Addr().String(): "address already in use",
		"unix://" + dir:               "exists and is not a socket",
		"unix://" + dir + "/live":     "another process listens",
		"unix:///proc/x":              "cannot listen on unix:///proc/x",
		"http://x":                    "--share",
		"tcp://:80?reply=always":      "name=",
	} {
		for _, flag := range []string{"--share", "--listen"} {
			if flag == "--listen" && strings.Contains(says, "=") || flag == "--listen" && says == "--share" {
				continue
			}
			p, code := harness.Run(t, harness.Program{Args: []string{harness.Binary(t), flag, url, "--", "sh", "-c", "echo started"}})
			harness.CheckUsage(t, p, code, []string{says})
		}
	}
	if nc, err := net.Dial("unix", dir+"/live"); err != nil {
		t.Errorf("the live socket has lost its file: %v", err)
	} else {
		nc.Close()
	}
}
