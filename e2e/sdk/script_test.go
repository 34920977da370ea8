package sdk

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// A scriptSDK is an SDK of one file, for a language of scripts. testdata/sdk has
// the same programs in each.
type scriptSDK struct {
	name, needs string
	whoAmI      []string // arguments that make it print its own path
	file, ext   string
	fails       string // what "fail now" fails with
	client      string // the program of testdata that is a client; "" is client
}

var (
	pythonSDK = scriptSDK{name: "python", needs: "python3", whoAmI: []string{"-c", "import sys; print(sys.executable)"},
		file: "../../sdk/python/poolinit.py", ext: ".py", fails: "ValueError: now"}
	nodeSDK = scriptSDK{name: "node", needs: "node", whoAmI: []string{"-p", "process.execPath"},
		file: "../../sdk/node/poolinit.js", ext: ".js", fails: "RangeError: now"}
)

// asyncioSDK is Python's, with its client for asyncio.
var asyncioSDK = scriptSDK{name: "python, asyncio", needs: pythonSDK.needs, whoAmI: pythonSDK.whoAmI,
	file: pythonSDK.file, ext: pythonSDK.ext, fails: pythonSDK.fails, client: "asyncclient"}

// eachScriptSDK runs a test for each language that is installed, beside other
// tests: most of the time it waits.
func eachScriptSDK(t *testing.T, test func(t *testing.T, s scriptSDK)) {
	eachSDK(t, []scriptSDK{pythonSDK, nodeSDK}, test)
}

// eachScriptClient runs a test for each client of these languages.
func eachScriptClient(t *testing.T, test func(t *testing.T, s scriptSDK)) {
	eachSDK(t, []scriptSDK{pythonSDK, asyncioSDK, nodeSDK}, test)
}

func eachSDK(t *testing.T, sdks []scriptSDK, test func(t *testing.T, s scriptSDK)) {
	t.Parallel()
	for _, s := range sdks {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			harness.Need(t, s.needs)
			test(t, s)
		})
	}
}

// dir returns a directory with the SDK's file and the tests' programs in it.
func (s scriptSDK) dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	programs, err := filepath.Glob("testdata/*" + s.ext)
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range append(programs, s.file) {
		text, err := os.ReadFile(source)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(source)), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A scriptPool is the tests' program as a pool, run by hand.
type scriptPool struct {
	harness.Pool
	s   scriptSDK
	url string
}

// start runs the program by hand, as PID 1, with variables. It waits until the
// workers are up.
func (s scriptSDK) start(t testing.TB, env ...string) scriptPool {
	t.Helper()
	return s.startAt(t, harness.UnixURL(t, "?reply=always"), env...)
}

func (s scriptSDK) startAt(t testing.TB, url string, env ...string) scriptPool {
	t.Helper()
	prog := harness.Program{Args: []string{s.needs, filepath.Join(s.dir(t), "pool"+s.ext)},
		Env: append([]string{"POOLINIT=" + harness.Binary(t), "POOL_URL=" + url, "PYTHONUNBUFFERED="}, env...)}
	p := scriptPool{harness.PoolOf(harness.Start(t, prog)), s, url}
	workers := 2
	if slices.Contains(env, "POOLINIT_WORKERS=1") {
		workers = 1
	}
	p.awaitUps(workers)
	return p
}

// An up is what a worker says when it starts.
type up struct{ worker, of, generation, pid int }

var upPattern = regexp.MustCompile(`(?m)^up worker=(\d+) of=(\d+) generation=(\d+) pid=(\d+)$`)

func (p scriptPool) ups() (list []up) {
	for _, m := range upPattern.FindAllStringSubmatch(p.Stdout.String(), -1) {
		var n [4]int
		for i := range n {
			n[i], _ = strconv.Atoi(m[i+1])
		}
		list = append(list, up{n[0], n[1], n[2], n[3]})
	}
	return list
}

// awaitUps waits until so many workers have said that they start.
func (p scriptPool) awaitUps(n int) (list []up) {
	p.T.Helper()
	testkit.Eventually(p.T, fmt.Sprintf("%d starts", n), func() (any, bool) {
		list = p.ups()
		return fmt.Sprint(list, p.Stdout.String(), p.Stderr.String()), len(list) >= n
	})
	return list
}

// upOf returns the first start of a worker.
func (p scriptPool) upOf(worker int) (u up) {
	p.T.Helper()
	ups := p.ups()
	i := slices.IndexFunc(ups, func(u up) bool { return u.worker == worker })
	if i < 0 {
		p.T.Fatalf("worker %d has not started: %v", worker, ups)
	}
	return ups[i]
}

// outside returns the PID that a worker has for the test.
func (p scriptPool) outside(u up) int {
	p.T.Helper()
	return p.WaitForProcess(fmt.Sprintf("worker %+v", u), func(q harness.ProcInfo) bool { return q.Inside == u.pid }).PID
}

// stop stops the pool. Every worker that has come up, but for so many, has to
// come down by itself.
func (p scriptPool) stop(killed int) {
	p.T.Helper()
	p.Signal(syscall.SIGTERM)
	p.expectEnd(killed)
}

func (p scriptPool) expectEnd(killed int) {
	p.T.Helper()
	p.ExpectExit(0)
	if ups, downs := len(p.ups()), strings.Count(p.Stdout.String(), "down worker="); downs != ups-killed {
		p.T.Errorf("%d workers stopped, want %d - %d\n%s\n%s", downs, ups, killed, p.Stdout.String(), p.Stderr.String())
	}
	if out := p.Stdout.String(); !strings.HasPrefix(out, "start\n") || !strings.HasSuffix(out, "\nshutdown -1\n") {
		p.T.Errorf("not from start to shutdown:\n%s\n%s", out, p.Stderr.String())
	}
}

// A scriptClient sends messages by a connection of its own.
type scriptClient struct {
	t testing.TB
	net.Conn
}

func (p scriptPool) client() scriptClient {
	p.T.Helper()
	c := scriptClient{p.T, harness.Dial(p.T, p.url)}
	if err := c.SetDeadline(time.Now().Add(3 * testkit.Patience)); err != nil {
		p.T.Fatal(err)
	}
	return c
}

func (c scriptClient) send(bodies ...string) {
	c.t.Helper()
	for _, body := range bodies {
		if err := harness.WriteFrame(c, body); err != nil {
			c.t.Fatal(err)
		}
	}
}

// next reads a reply; a failure has a ! before it.
func (c scriptClient) next() string {
	c.t.Helper()
	body, failed, err := harness.ReadFrame(c)
	switch {
	case err == io.EOF:
		return "EOF"
	case err != nil:
		c.t.Fatal(err)
	case failed:
		return "!" + string(body)
	}
	return string(body)
}

func (c scriptClient) want(replies ...string) {
	c.t.Helper()
	for _, want := range replies {
		if got := c.next(); got != want {
			c.t.Errorf("reply %.300q (%d bytes), want %.300q (%d bytes)", got, len(got), want, len(want))
		}
	}
}

// ask sends a message and returns its reply.
func (c scriptClient) ask(body string) string {
	c.t.Helper()
	c.send(body)
	return c.next()
}

// touch makes a file that a worker waits for.
func touch(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}
