package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/supervisor"
)

// A changingPool has the workers that the test says.
type changingPool chan supervisor.Stats

func (p changingPool) Stats() supervisor.Stats {
	s := <-p
	p <- s
	return s
}

func (p changingPool) set(states ...supervisor.State) {
	select {
	case <-p:
	default:
	}
	s := supervisor.Stats{Complete: states[0] == supervisor.Ready}
	for _, state := range states {
		s.Workers = append(s.Workers, supervisor.WorkerStats{State: state})
	}
	p <- s
}

func TestManagerIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(testkit.Patience)) // it is open
	next := func(ignored string) string {
		t.Helper()
		for buf := make([]byte, 1000); ; {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if text := string(buf[:n]); text != ignored {
				return text
			}
		}
	}
	env := map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "3000"}
	pool := make(changingPool, 1)
	pool.set(supervisor.Starting, supervisor.Ready)
	m := newManager(func(name string) string { return env[name] }, os.Getpid(), &status.View{Pool: pool}, zerolog.Nop())
	end := make(chan struct{})
	ended := make(chan struct{})
	go func() { m.serve(end); close(ended) }() // ends with end
	if got := next("WATCHDOG=1"); !strings.HasPrefix(got, "STATUS=not ready: ") {
		t.Errorf("at first: %q", got)
	}
	pool.set(supervisor.Ready, supervisor.Ready)
	if got := next("WATCHDOG=1"); got != "READY=1\nSTATUS=2 of 2 workers ready" {
		t.Errorf("when it is ready: %q", got)
	}
	pool.set(supervisor.Ready, supervisor.Backoff)
	if got := next("WATCHDOG=1"); got != "STATUS=1 of 2 workers ready" {
		t.Errorf("when a worker ends: %q", got)
	}
	if got := next(""); got != "WATCHDOG=1" {
		t.Errorf("the watchdog: %q", got)
	}
	m.stop("SIGTERM")
	if got := next("WATCHDOG=1"); got != "STOPPING=1\nSTATUS=stopping: SIGTERM" {
		t.Errorf("at the stop: %q", got)
	}
	close(end)
	testkit.Wait(t, "it ends", ended)
}

func TestNoManager(t *testing.T) {
	for _, env := range []map[string]string{{}, {"WATCHDOG_USEC": "1000"}} {
		if m := newManager(func(name string) string { return env[name] }, 1, nil, zerolog.Nop()); m != nil {
			t.Errorf("%v: %+v", env, m)
		}
	}
	var none *manager
	none.serve(nil)
	none.stop("")
	for env, want := range map[[2]string]time.Duration{
		{"30000000", ""}: 10 * time.Second, {"30000000", "7"}: 10 * time.Second, {"30000000", "8"}: 0, {"x", ""}: 0, {"-1", ""}: 0, {"", ""}: 0,
		{"9223372036854775807", ""}: 8 * time.Hour, {"1", ""}: time.Millisecond,
	} {
		get := func(name string) string {
			return map[string]string{"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": env[0], "WATCHDOG_PID": env[1]}[name]
		}
		if m := newManager(get, 7, nil, zerolog.Nop()); m.watchdog != want {
			t.Errorf("%q: %v, want %v", env, m.watchdog, want)
		}
	}
}

// A manager that does not listen, or does not read, is not waited for.
func TestManagerIsNotWaitedFor(t *testing.T) {
	var log testkit.Output
	m := &manager{socket: "@poolinit-test/nobody", log: zerolog.New(&log)}
	for range 3 {
		m.stop("x")
	}
	if n := strings.Count(log.String(), "cannot notify the service manager"); n != 1 {
		t.Errorf("%d lines: %s", n, log.String())
	}
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.socket = path
	for range 5000 { // more than a queue holds
		m.stop("x")
	}
}
