package messages

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// poolinit is a service of a manager that gives it a socket and listens to it, as
// systemd and podman do.
func TestUnderAManager(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	given, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unused, err := other.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	_ = manager.SetReadDeadline(time.Now().Add(testkit.Patience)) // it is open
	heard := map[string]bool{}
	hear := func(line string) {
		t.Helper()
		for buf := make([]byte, 4096); !heard[line]; {
			n, err := manager.Read(buf)
			if err != nil {
				t.Fatalf("no %s: %v; heard %v", line, err, heard)
			}
			for said := range strings.SplitSeq(string(buf[:n]), "\n") {
				heard[said] = true
			}
		}
	}

	p := harness.StartRun(t, harness.Program{Files: []*os.File{given, unused}, Env: []string{
		"LISTEN_PID=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=web:spare", "NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=3000000",
	}}, "--min-ready", "100ms", "--share", "fd://web", "--", serveShared)
	unused.Close()
	other.Close()
	hear("READY=1")
	hear("STATUS=1 of 1 workers ready")
	hear("WATCHDOG=1")
	resp, err := http.Get("http://" + ln.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "1" {
		t.Errorf("%q, %v", body, err)
	}
	p.ExpectLog("closing inherited sockets: no --share hands them on", func(harness.Record) bool { return true })
	if _, err := net.Dial("tcp", other.Addr().String()); err == nil {
		t.Error("a socket that nothing accepts from is open")
	}
	p.Signal(syscall.SIGTERM)
	hear("STOPPING=1")
	hear("STATUS=stopping: SIGTERM")
	p.ExpectExit(0)
}

// A socket that was not given is an error before anything starts.
func TestShareOfWhatWasNotGiven(t *testing.T) {
	p, code := harness.Run(t, harness.Program{Env: []string{"LISTEN_PID=1", "LISTEN_FDS=0"}, Args: []string{harness.Binary(t), "--share", "fd://web", "sleep", "1000"}})
	harness.CheckUsage(t, p, code, []string{"cannot share fd://web", "was given no sockets", "LISTEN_FDS"})
}
