package pool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// A new version that does not work, in four languages, with the flags at their
// defaults: it costs one worker at most, and the caller of the reload is told why.
func TestRunBrokenDeploy(t *testing.T) {
	languages := map[string]struct {
		command []string // and the file
		good    string
		broken  map[string]string // by what the caller is told
	}{
		"python": {[]string{"/usr/bin/python3"}, "import time\nprint('up', flush=True)\ntime.sleep(1000)\n", map[string]string{
			"ModuleNotFoundError: No module named 'no_such_module'": "import time\ntime.sleep(2)\nimport no_such_module\n",
			"exited with code 0": "pass\n",
		}},
		"php": {[]string{"php"}, "<?php echo \"up\\n\"; sleep(1000);\n", map[string]string{
			"Call to undefined function no_such_function()": "<?php fwrite(STDERR, 'starting'); no_such_function();\n",
			"exited with code 1":                            "<?php usleep(300000); exit(1);\n",
		}},
		"node": {[]string{"node"}, "console.log('up'); setTimeout(() => {}, 1e6)\n", map[string]string{
			"Cannot find module 'no-such-module'": "require('no-such-module')\n",
			"exited with code 0":                  "1 + 1\n",
		}},
		"sh": {[]string{"sh"}, "echo up; exec sleep 1000\n", map[string]string{
			"no-such-program": "sleep 2; exec no-such-program\n",
			"cannot open":     "", // the file is gone
		}},
	}
	for name, lang := range languages {
		harness.Need(t, lang.command[0])
		for says, text := range lang.broken {
			for _, order := range []string{"stop-first", "start-first"} {
				t.Run(name+"/"+says+"/"+order, func(t *testing.T) {
					t.Parallel()
					file := filepath.Join(t.TempDir(), "app")
					put(t, file, lang.good)
					p := harness.PoolOf(harness.Start(t, harness.Program{Args: slices.Concat(
						[]string{harness.Binary(t), "-n", "4", "--output", "prefix", "--reload-order", order, "--"}, lang.command, []string{file})}))
					awaitUp(p, 4)
					put(t, file, text)
					if p.Inside("reload", "--wait").Says(t, 1, "reload failed: new worker 0 is not ready", says); t.Failed() {
						return
					}
					left := 3
					if order == "start-first" {
						left = 4
					}
					if n := generationOne(p); n != left {
						t.Errorf("%d old workers are left, want %d", n, left)
					}
				})
			}
		}
	}
}

// put replaces a file in one step, as a deploy does; an empty text removes it.
func put(t *testing.T, file, text string) {
	t.Helper()
	if text == "" {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		return
	}
	harness.InstallScript(t, file, text)
}

// awaitUp waits until so many workers have read their program.
func awaitUp(p harness.Pool, n int) {
	p.T.Helper()
	testkit.Eventually(p.T, fmt.Sprint(n, " workers are up"), func() (any, bool) {
		got := strings.Count(p.Stdout.String(), "up\n")
		return got, got == n
	})
}

// generationOne counts the workers that run and were started before any reload.
func generationOne(p harness.Pool) (n int) {
	for _, w := range p.Document().Workers {
		if w.PID != 0 && w.Generation == 1 {
			n++
		}
	}
	return n
}

// A version that cannot even be started costs none.
func TestRunDeployWithoutCommand(t *testing.T) {
	harness.Need(t, "sh")
	for says, text := range map[string]string{
		"no such file there":                       "",
		"permission denied":                        "not executable",
		"the file exists, but not the interpreter": "#!/no/such/interpreter\n",
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "app")
			put(t, file, "#!/bin/sh\necho up; exec sleep 1000\n")
			p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "-n", "4", "--min-ready", "500ms", "--", file}}))
			awaitUp(p, 4)
			put(t, file, text)
			if text == "not executable" {
				if err := os.Chmod(file, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			p.Inside("reload", "--wait").Says(t, 1, "reload failed: exec "+file, says)
			if n := generationOne(p); n != 4 || p.Count("worker exited") != 0 {
				t.Errorf("%d old workers are left\n%s", n, p.Stderr.String())
			}
			put(t, file, "#!/bin/sh\necho up; exec sleep 1000\n")
			p.Inside("reload", "--wait").Says(t, 0, "reload done")
		})
	}
}

// A message that kills each worker does not fail a reload, and one message more
// does not help a version that dies of all.
func TestRunPoisonDuringReload(t *testing.T) {
	harness.Need(t, "sh")
	const good = "#!/bin/sh\nwhile IFS= read -r line <&3; do case $line in poison) exit 3;; wait) sleep 1;; esac; echo ok >&3; done\n"
	const bad = "#!/bin/sh\nwhile IFS= read -r line <&3; do exit 4; done\n"
	for name, version := range map[string]string{"good": good, "bad": bad} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "app")
			put(t, file, good)
			url := harness.UnixURL(t, "?reply=always")
			p := harness.PoolOf(harness.StartSource(t, harness.Program{}, url,
				"-n", "2", "--min-ready", "6s", "--deliver", "lines", "--attempts", "2", "--retry-delay", "10ms", "--healthy-after", "1h", file))
			nc := harness.Dial(t, url)
			for range 2 { // both are busy at first, and have answered then
				send(t, nc, "wait")
			}
			reply(t, nc, "ok", "ok")
			put(t, file, version)
			p.Signal(syscall.SIGUSR1)
			p.ExpectLog("worker started", func(r harness.Record) bool { return r.Generation == 2 })
			send(t, nc, "wait") // the old worker has it, or the canary
			send(t, nc, "poison")
			send(t, nc, "wait")
			if name == "good" {
				p.ExpectLog("reload done", nil)
				return
			}
			failed := p.ExpectLog("reload failed", nil)
			if !strings.Contains(failed.Error, "new worker 0 is not ready: exited with code 4") || p.Count("the reload goes on") != 1 {
				t.Errorf("%+v\n%s", failed, p.Stderr.String())
			}
			if n := generationOne(p); n != 1 {
				t.Errorf("%d old workers are left", n)
			}
		})
	}
}

func send(t *testing.T, nc interface{ Write([]byte) (int, error) }, body string) {
	t.Helper()
	if err := harness.WriteFrame(nc, body); err != nil {
		t.Fatal(err)
	}
}

func reply(t *testing.T, nc interface{ Read([]byte) (int, error) }, want ...string) {
	t.Helper()
	for _, w := range want {
		if body, _, err := harness.ReadFrame(nc); string(body) != w || err != nil {
			t.Fatalf("reply %q, %v; want %q", body, err, w)
		}
	}
}

// A command that puts itself into the background is named, and the pool gives up.
func TestRunDaemonizes(t *testing.T) {
	harness.Need(t, "sh", "setsid", "redis-server")
	port := strings.TrimPrefix(harness.FreePort(t), "127.0.0.1:")
	for name, tt := range map[string]struct {
		process string
		command []string
	}{
		"any":          {"sleep (", []string{"sh", "-c", "setsid sleep 1000 & sleep 0.3; exit 0"}},
		"redis-server": {"redis-server (", []string{"redis-server", "--port", port, "--daemonize", "yes", "--save", "", "--dir", t.TempDir(), "--bind", "127.0.0.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{harness.Binary(t), "--give-up", "3", "--"}, tt.command...)
			p := harness.PoolOf(harness.Start(t, harness.Program{Args: args}))
			told := p.ExpectLog("puts itself into the background (it daemonizes)", nil)
			if told.Level != "warn" || !strings.HasPrefix(fmt.Sprint(told.Processes), "["+tt.process) {
				t.Errorf("%+v", told)
			}
			p.ExpectExit(1)
			if n := p.Count("worker started"); n != 7 {
				t.Errorf("%d starts", n)
			}
		})
	}
}

// prefork is a server that ends its child itself: the child finishes its work,
// unless it is signalled too.
const prefork = `
trap 'wait $child; echo served; exit 0' TERM
sh -c 'trap "echo child was signalled; exit 1" TERM; echo up; until [ -e "$0" ]; do sleep 0.01; done; echo child is done' "$1" &
child=$!
wait $child
`

func TestRunStopScope(t *testing.T) {
	harness.Need(t, "sh")
	for scope, want := range map[string]string{"leader": "up\nchild is done\nserved\n", "group": "up\nchild was signalled\nserved\n"} {
		t.Run(scope, func(t *testing.T) {
			t.Parallel()
			release := filepath.Join(t.TempDir(), "release")
			p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "--stop-scope", scope, "--stop-timeout", "30s", "--", "sh", "-c", prefork, "sh", release}}))
			p.Stdout.Expect(t, "up\n")
			p.Signal(syscall.SIGTERM)
			p.ExpectLog("stopping", nil)
			if scope == "leader" {
				put(t, release, "now")
			}
			p.ExpectExit(0)
			if got := p.Stdout.String(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// Releases behind a symbolic link: the next worker runs in the new one, also after
// the old one has been removed.
func TestRunChdir(t *testing.T) {
	harness.Need(t, "sh")
	root := t.TempDir()
	current := filepath.Join(root, "current")
	release := func(name string) {
		t.Helper()
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, "app"), "#!/bin/sh\necho \""+name+" in $(pwd), $(pwd -P)\"; exec sleep 1000\n")
		if err := os.Symlink(dir, current+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(current+".new", current); err != nil {
			t.Fatal(err)
		}
	}
	refused, code := harness.Run(t, harness.Program{Args: []string{harness.Binary(t), "--chdir", current, "--", "./app"}})
	harness.CheckUsage(t, refused, code, []string{"cannot use --chdir: chdir " + current + ": no such directory"})
	release("one")
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "-n", "2", "--min-ready", "100ms", "--chdir", current, "--", "./app"}}))
	ran := func(name string, times int) {
		t.Helper()
		line := fmt.Sprintf("%s in %s, %s\n", name, current, filepath.Join(root, name))
		testkit.Eventually(t, line, func() (any, bool) {
			return p.Stdout.String(), strings.Count(p.Stdout.String(), line) == times
		})
	}
	ran("one", 2)
	release("two")
	if err := os.RemoveAll(filepath.Join(root, "one")); err != nil {
		t.Fatal(err)
	}
	p.Inside("reload", "--wait").Says(t, 0, "reload done")
	ran("two", 2)
	if err := os.Remove(current); err != nil {
		t.Fatal(err)
	}
	p.Inside("reload", "--wait").Says(t, 1, "reload failed: chdir "+current+": no such directory")
	if n := p.Count("worker exited"); n != 2 {
		t.Errorf("%d workers ended", n)
	}
	release("three")
	p.Inside("reload", "--wait").Says(t, 0, "reload done")
	ran("three", 2)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}
