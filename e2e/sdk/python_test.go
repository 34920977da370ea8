package sdk

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// python3 pool.py becomes poolinit, with the same PID: an ENTRYPOINT's PID 1.
func TestSDKPythonBecomesPoolinit(t *testing.T) {
	harness.Need(t, "python3")
	p := pythonSDK.start(t)
	if q, ok := harness.ReadProc(p.PID); !ok || q.Inside != 1 || q.Name != filepath.Base(harness.Binary(t)) {
		t.Errorf("PID 1 is %v", q)
	}
	p.stop(0)
}

// The script is run again as it was run: with Python's own options, and from
// wherever it is.
func TestSDKPythonCommand(t *testing.T) {
	harness.Need(t, "python3")
	dir := pythonSDK.dir(t)
	fake := filepath.Join(dir, "fake")
	harness.InstallScript(t, fake, "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\necho \"$@\"\n")
	python := pythonSDK.interpreter(t)
	for args, want := range map[string]string{
		"pool.py a --":                       dir + "/pool.py a --",
		"./pool.py":                          "/pool.py",
		"-W error -X utf8 -O pool.py":        "-W error -X utf8 -O " + dir + "/pool.py",
		"-Wignore::UserWarning pool.py -m x": "-Wignore::UserWarning " + dir + "/pool.py -m x",
		"-X dev -m pool a":                   "-X dev -m pool a",
	} {
		p, _ := harness.Run(t, harness.Program{Args: []string{"sh", "-c", "cd " + dir + " && exec " + python + " " + args},
			Env: []string{"POOLINIT=" + fake, "POOL_URL=unix:///x"}})
		got := p.Stdout.String() + p.Stderr.String()
		if !strings.HasPrefix(got, "start\n"+python+" ") || !strings.HasSuffix(got, want+"\n") {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

// A child that is a copy of the worker neither answers for it nor stops for it.
func TestSDKPythonFork(t *testing.T) {
	harness.Need(t, "python3")
	w := pythonSDK.worker(t)
	w.write(frames("fork", "next"))
	w.want("7", "next")
	if strings.Contains(w.Stdout.String(), "down") {
		t.Error(w.Stdout.String())
	}
	w.end()
	w.wantEnd(0, "")
}

// An idle worker and one that goes on are alive; one that hangs says nothing.
func TestSDKPythonWatchdog(t *testing.T) {
	harness.Need(t, "python3")
	w := pythonSDK.worker(t, "WATCHDOG_USEC=20000")
	w.wantNotice("READY=1")
	w.wantNotice("WATCHDOG=1")
	w.wantNotice("WATCHDOG=1")
	file := filepath.Join(t.TempDir(), "go-on")
	w.write(frames("wait " + file))
	testkit.Eventually(t, "silence", func() (any, bool) {
		select {
		case got := <-w.notices:
			return got, false
		case <-time.After(100 * time.Millisecond):
			return "", strings.Contains(w.Stdout.String(), "waiting")
		}
	})
	touch(t, file)
	w.want("wait " + file)
	w.wantNotice("WATCHDOG=1")
	w.end()
	w.wantEnd(0, "")
}

// The thread that looks after waiting replies is there only where some may wait.
func TestSDKPythonThreads(t *testing.T) {
	harness.Need(t, "python3")
	w := pythonSDK.worker(t)
	for range 10 {
		w.write(frames("threads"))
		w.want("1")
	}
	w.write(frames("a", "threads", "threads"))
	w.want("a", "2", "2")
	w.end()
	w.wantEnd(0, "")
}
