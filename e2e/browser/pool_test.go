package browser

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A pool is a poolinit that runs, with workers that the test binary plays.
type pool struct {
	t        testing.TB
	cmd      *exec.Cmd
	log      buffer
	exited   chan struct{}
	url      string // of its HTTP
	messages string // a socket, for a pool with messages
}

var address = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)

// startPool starts a pool that is killed at the end of the test.
func startPool(t testing.TB, env []string, flags ...string) *pool {
	t.Helper()
	chromium(t) // no need of a pool if it has to be skipped
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &pool{t: t, exited: make(chan struct{})}
	flags = append([]string{"--http", "127.0.0.1:0", "--ready", "notify", "--log-format", "json"}, flags...)
	p.cmd = exec.Command(poolinit(t), append(flags, "--", self)...)
	p.cmd.Env = append(append(os.Environ(), "BROWSER_WORKER=1"), env...)
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends when the pool does, which the cleanup sees to
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // the kernel takes the workers along
		<-p.exited
		if t.Failed() {
			t.Logf("the pool's log:\n%s", p.log.String())
		}
	})
	eventually(t, "an address in the log", func() (any, bool) {
		p.url = address.FindString(p.log.String())
		return p.log.String(), p.url != ""
	})
	return p
}

// startMessages starts a pool that takes messages.
func startMessages(t testing.TB, env []string, flags ...string) *pool {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	p := startPool(t, env, append([]string{"--deliver", "lines", "--listen", "unix://" + socket}, flags...)...)
	p.messages = "unix://" + socket
	return p
}

// send sends messages, and waits until they are answered.
func (p *pool) send(lines ...string) {
	p.t.Helper()
	cmd := exec.Command(poolinit(p.t), "send", "--reply", p.messages+"?reply=always")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("send: %v\n%s", err, out)
	}
}

func (p *pool) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// document is status.json, with what the tests need of it.
type document struct {
	Workers []struct {
		PID int `json:"pid"`
	} `json:"workers"`
}

func (p *pool) document() (d document) {
	p.t.Helper()
	resp, err := http.Get(p.url + "/status.json")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&d); err != nil {
		p.t.Fatal(err)
	}
	return d
}

// object is a part of status.json.
type object = map[string]any

// A front stands between the browser and a pool: it sees what is asked for, may
// change what status.json says, and may be down.
type front struct {
	url string

	mu     sync.Mutex
	paths  []string
	change func(doc object) // or nil
	down   bool
}

func (p *pool) front() *front {
	p.t.Helper()
	target, err := url.Parse(p.url)
	if err != nil {
		p.t.Fatal(err)
	}
	f := &front{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(resp *http.Response) error {
			if resp.Request.URL.Path == "/status.json" {
				return f.rewrite(resp)
			}
			return nil
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.paths = append(f.paths, r.URL.Path)
		down := f.down
		f.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	p.t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *front) rewrite(resp *http.Response) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.change == nil {
		return nil
	}
	defer resp.Body.Close()
	var doc object
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		return err
	}
	f.change(doc)
	text, err := json.Marshal(doc)
	recorder := httptest.NewRecorder()
	_, _ = recorder.Write(text)
	resp.Body, resp.ContentLength = recorder.Result().Body, int64(len(text))
	resp.Header.Del("Content-Length")
	return err
}

// set changes what the front does.
func (f *front) set(down bool, change func(doc object)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down, f.change = down, change
}

// asked returns what was asked for so far.
func (f *front) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.paths)
}
