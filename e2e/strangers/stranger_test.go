package strangers

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
)

// watchedDeed says that it is ready, and then again and again that it lives.
var watchedDeed = harness.Deed("watched", func([]string) int {
	if err := harness.SdNotify("READY=1\nSTATUS=its own"); err != nil {
		return harness.Failed(err)
	}
	for {
		if err := harness.SdNotify("WATCHDOG=1"); err != nil {
			return harness.Failed(err)
		}
		time.Sleep(200 * time.Millisecond) // well within the interval
	}
})

// strangerChild attacks the control socket and the notify socket of its arguments, for
// as long as it lives.
var strangerChild = harness.Child("stranger", func(args []string) int {
	control, notify := args[0], args[1]
	for range 200 {
		conn, err := net.Dial("unix", control)
		if err != nil {
			return harness.Failed(err)
		}
		defer conn.Close()
		attachLingering(func(rights []byte) error {
			_, _, err := conn.(*net.UnixConn).WriteMsgUnix([]byte("{"), rights, nil)
			return err
		})
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return harness.Failed(err)
	}
	to := &unix.SockaddrUnix{Name: notify}
	for range 3 {
		attachLingering(func(rights []byte) error { return unix.Sendmsg(fd, []byte("READY=1"), rights, to, 0) })
	}
	fmt.Println("attacking")
	for {
		if err := unix.Sendto(fd, []byte("STATUS=forged\nSTOPPING=1\nWATCHDOG=trigger"), 0, to); err != nil {
			time.Sleep(10 * time.Millisecond) // the worker's socket of that name is gone: there is nothing to do
		}
	}
})

// attachLingering sends a TCP socket whose close takes an hour, and has it no longer.
func attachLingering(send func(rights []byte) error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return
	}
	// The listener stays open: closing it would free the socket.
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)) // enough to fill it
	for err == nil {
		_, err = conn.Write(make([]byte, 1<<20))
	}
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		return
	}
	conn.Close()
	_ = unix.SetsockoptLinger(int(f.Fd()), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600})
	if send(unix.UnixRights(int(f.Fd()))) != nil { // refused
		_ = unix.SetsockoptLinger(int(f.Fd()), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	f.Close()
}

// attack starts a stranger: another user in another PID namespace of the same network
// namespace.
func attack(t *testing.T, p harness.Pool) {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.Self()))
	if err != nil {
		t.Fatal(err)
	}
	control := "@poolinit/" + strings.Trim(ns, "pid:[]") + "/1"
	notify := harness.Environ(p.TheChild().PID)["NOTIFY_SOCKET"]
	stranger := harness.Start(t, harness.Program{Child: harness.UserChild, Env: []string{"E2E_NEXT=" + strangerChild},
		Args: []string{harness.Self(t), "65534", "/proc/self/exe", control, notify}})
	stranger.Stdout.Expect(t, "attacking\n")
}

// Another user, or another container of the network namespace, does what it can to the
// sockets that it can find: the pool serves its owner all the same.
func TestStrangerHoldsNothingUp(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "--ready", "notify", "--watchdog", "5s", "--give-up", "0", "--", watchedDeed)
	p.AwaitPool()
	first := p.Worker(0)
	attack(t, p)
	for range 20 {
		p.Inside("health").Says(t, 0, "ok\n")
	}
	status := p.Inside("status", "--json").Stdout
	if !strings.Contains(status, `"status":"its own"`) || !strings.Contains(status, `"state":"ready"`) || p.Worker(0).PID != first.PID {
		t.Errorf("the worker: %s", status)
	}
	p.ExpectLog("control socket: access denied", func(r harness.Record) bool { return strings.Contains(r.Error, "uid 65534") })
	p.ExpectLog("ignoring invalid notify message", func(r harness.Record) bool { return strings.Contains(r.Error, "not of this worker") })
	p.Inside("reload", "--wait").Says(t, 0, "1 of 1 workers replaced")
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	if n := p.Count("ignoring invalid notify message"); n > 2 {
		t.Errorf("the stranger causes %d lines of log", n)
	}
}

// lyingDeed is a program of another user that has a pool's name, and answers what it
// likes.
var lyingDeed = harness.Deed("lying", func([]string) int {
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err == nil {
		err = syscall.Setuid(65534)
	}
	if err != nil {
		return harness.Failed(err)
	}
	ln, err := net.Listen("unix", fmt.Sprintf("@poolinit/%s/%d", strings.Trim(ns, "pid:[]"), os.Getpid()))
	if err != nil {
		return harness.Failed(err)
	}
	fmt.Println("lying")
	for {
		conn, err := ln.Accept()
		if err != nil {
			return harness.Failed(err)
		}
		_, _ = conn.Write([]byte(`{"live":true,"ready":true,"accepted":true}` + "\n"))
		conn.Close()
	}
})

// Root's commands do not take another user's process for a pool, unless it is named.
func TestLiarIsNotAsked(t *testing.T) {
	p := harness.StartRun(t, harness.Program{Under: true}, "--", lyingDeed)
	p.Stdout.Expect(t, "lying\n")
	liar := p.TheChild().Inside
	p.Inside("health", "--pid", fmt.Sprint(liar)).Says(t, 0, "ok\n") // it was named
	pool, _ := harness.ReadProc(p.Self())
	p.Inside("stop").Says(t, 0, fmt.Sprintf("process %d stops\n", pool.Inside)) // not the liar
	p.ExpectExit(0)
}
