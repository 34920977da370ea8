package sdk

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// The programs in an SDK's README, as they stand there.

// example writes the nth program of the README beside the SDK's file.
func (s scriptSDK) example(t testing.TB, n int, replace ...string) (path string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(s.file), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "\n```"+map[string]string{".py": "python", ".js": "js"}[s.ext]+"\n")
	if len(parts) <= n {
		t.Fatalf("there are only %d programs", len(parts)-1)
	}
	code, _, _ := strings.Cut(parts[n], "\n```\n")
	path = filepath.Join(s.dir(t), "program"+s.ext)
	if err := os.WriteFile(path, []byte(strings.NewReplacer(replace...).Replace(code)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s scriptSDK) startExample(i *island, path string) harness.Pool {
	i.t.Helper()
	prog := i.program(s.needs, path)
	prog.Env = []string{"POOLINIT=" + harness.Binary(i.t), "PYTHONUNBUFFERED="}
	return harness.PoolOf(harness.Start(i.t, prog))
}

func file(t testing.TB, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The first does what the seed's programs 3 and 4 do.
func TestSDKScriptREADMEShort(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		i := newIsland(t)
		for _, url := range []string{"tcp://127.0.0.1:8089", "sysv://0x7000001"} {
			path := s.example(t, 1, "tcp://127.0.0.1:8089", url)
			text, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(text), url) || len(strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })) > 15 {
				t.Errorf("%v\n%s", err, text)
			}
			p := s.startExample(i, path)
			p.Stdout.ExpectTimes(t, " is started\n", 2)
			p.Stderr.Expect(t, "accepting messages")
			hello := file(t, "hello")
			i.run(harness.Binary(t), "send", url, hello)
			p.Stdout.Expect(t, "\nMessage: hello\n")
			p.Signal(syscall.SIGUSR1)
			p.ExpectLog("reload done", nil)
			p.Stdout.ExpectTimes(t, " is started\n", 4)
			i.run(harness.Binary(t), "send", url, hello, hello)
			p.Stdout.ExpectTimes(t, "Message: hello\n", 3)
			p.Signal(syscall.SIGTERM)
			p.ExpectExit(0)
		}
	})
}

// The second shows everything, its own client too.
func TestSDKScriptREADMELong(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		i := newIsland(t)
		path, url := s.example(t, 2), "tcp://127.0.0.1:8089?reply=always"
		p := s.startExample(i, path)
		p.Stdout.ExpectTimes(t, " of 4, generation 1\n", 4)
		if got := i.run(s.needs, path, "send"); got != "hello, Swoole\n" {
			t.Error(got)
		}
		if got := i.run(harness.Binary(t), "send", url, file(t, `{"uid": 1991, "stop": "worker"}`)); got != "hello, Swoole\n" {
			t.Error(got)
		}
		p.Stdout.ExpectTimes(t, " of 4, generation 1\n", 5)
		got := i.run("sh", "-c", "! "+harness.Binary(t)+" send '"+url+"' $0 $1 2>&1", file(t, "no JSON"), file(t, `{"uid": 7}`))
		if !strings.Contains(got, ": refused: ") || !strings.Contains(got, ": given-up: after 3 attempts: error: ") {
			t.Error(got)
		}
		if got := i.run(harness.Binary(t), "send", url, file(t, `{"uid": 1991, "stop": "pool"}`)); got != "hello, Swoole\n" {
			t.Error(got)
		}
		p.ExpectExit(0)
		out := p.Stdout.String()
		if !strings.HasPrefix(out, "once, before poolinit runs\n") || !strings.HasSuffix(out, "\nonce, when no worker is left\n") ||
			strings.Count(out, " has answered its last message\n") != 5 {
			t.Error(out)
		}
	})
}

// The third has a loop of its own, and is stopped in its own way.
func TestSDKScriptREADMELoop(t *testing.T) {
	eachScriptSDK(t, func(t *testing.T, s scriptSDK) {
		p := s.startExample(newIsland(t), s.example(t, 3))
		p.Stdout.ExpectTimes(t, " is started\n", 2)
		p.Signal(syscall.SIGTERM)
		p.ExpectExit(0)
		if strings.Count(p.Stdout.String(), " is stopped\n") != 2 {
			t.Error(p.Stdout.String())
		}
		for _, r := range p.Records() {
			if r.Message == "worker exited" && (r.Code != 0 || r.Signal != "") {
				t.Errorf("%+v", r)
			}
		}
	})
}

// The asyncio worker is one of ten lines, and handles a hundred messages of the
// asyncio client at the same time.
func TestSDKPythonREADMEAsync(t *testing.T) {
	harness.Need(t, "python3")
	i := newIsland(t)
	worker, client := pythonSDK.example(t, 4), pythonSDK.example(t, 5)
	text, err := os.ReadFile(worker)
	if lines := strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' }); err != nil || len(lines) > 10 ||
		!strings.Contains(string(text), "async def") {
		t.Errorf("%v: %d lines\n%s", err, len(lines), text)
	}
	p := pythonSDK.startExample(i, worker)
	p.Stderr.Expect(t, "accepting messages")
	if got := i.run("python3", client); got != "100 MESSAGE 99\n" {
		t.Errorf("%q\n%s", got, p.Stderr.String())
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}
