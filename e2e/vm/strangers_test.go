package vm

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// This kernel is older than SO_PASSRIGHTS, so that every unix socket takes files. Whatever
// the sender, and whatever close(2) waits for: the pool answers messages, its operator and a
// reload, and stops.
func testStrangers(t *testing.T) {
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		t.Logf("Linux %s", unix.ByteSliceToString(name.Release[:]))
	}
	addr, sock := harness.FreePort(t), t.TempDir()+"/sock"
	p := harness.PoolOf(harness.StartSource(t, harness.Program{Child: lingeringWorker}, "tcp://"+addr+"?reply=always", "--listen", "unix://"+sock+"?reply=always",
		"-n", "2", "--ready", "started", "--min-ready", "0s", "--stop-timeout", "10s", "--log-format", "json", "--", "/init"))
	alive := func(after string) {
		t.Helper()
		for n := range 20 { // the workers attach files to every answer
			ask(t, dial(t, addr), fmt.Sprint("after ", after, n))
		}
		p.Inside("health").Says(t, 0)
		p.Inside("reload", "--wait").Says(t, 0)
		harness.RunClient(t, nil, "/poolinit", "health").Says(t, 0) // the machine's init
	}
	alive("answers with files")
	for _, kind := range []string{"source", "notify", "control"} {
		a := harness.Start(t, harness.Program{Child: attacker, Args: []string{"/init", kind, sock}})
		testkit.Eventually(t, "the "+kind+" is attacked", func() (any, bool) {
			return a.Stdout.String() + a.Stderr.String(), strings.Contains(a.Stdout.String(), "done")
		})
		alive(kind)
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// lingeringWorker attaches sockets to each answer that close(2) waits for, and tells
// NOTIFY_SOCKET about them.
var lingeringWorker = harness.Child("lingeringWorker", func([]string) int {
	in := bufio.NewReader(os.NewFile(3, "messages"))
	for {
		body, _, err := harness.ReadFrame(in)
		if err != nil {
			return 0
		}
		attach(connect("unixgram", os.Getenv("NOTIFY_SOCKET")), []byte("STATUS=lingering"))
		attach(3, append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	}
})

// attacker is another user's process in a PID namespace of its own. It attaches sockets that
// close(2) waits for to what it sends, to the unix:// source, all notify or all control sockets of
// the network namespace.
var attacker = harness.Child("attacker", func(args []string) int {
	kind, sock := args[0], args[1]
	targets := []string{sock}
	if kind != "source" {
		table, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			return harness.Failed(err)
		}
		targets = targetsIn(string(table), kind)
	}
	for _, set := range []func(int) error{syscall.Setgid, syscall.Setuid} {
		if err := set(65534); err != nil {
			return harness.Failed(err)
		}
	}
	for _, to := range targets {
		for range 60 {
			network, text := "unix", []byte("\x00\x00\x00\x04file")
			if kind == "notify" {
				network, text = "unixgram", []byte("X=1")
			}
			attach(connect(network, to), text)
		}
	}
	fmt.Println("done", len(targets))
	return harness.Forever() // its end would end the lingering
})

// targetsIn returns the names of sockets in /proc/net/unix: poolinit/INODE/PID is a control socket, and
// poolinit/LETTERS a notify socket.
func targetsIn(table, kind string) (names []string) {
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		name := fields[len(fields)-1]
		if strings.HasPrefix(name, "@poolinit/") && (strings.Count(name, "/") == 2) == (kind == "control") {
			names = append(names, name)
		}
	}
	return names
}

// attach sends a lingering socket with the text, on a socket of this process. No other descriptor of it is left.
func attach(to int, text []byte) {
	fd, err := lingering()
	if err != nil {
		harness.Failed(err)
		return
	}
	if unix.Sendmsg(to, text, unix.UnixRights(fd), nil, 0) != nil { // the receiver has gone, or has no room
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
	}
	unix.Close(fd) // not the last descriptor of the socket, so it does not wait
}

// listener accepts what the lingering sockets connect to. Nothing reads from it.
var listener net.Listener

// lingering returns a socket with unsent data that close(2) waits an hour for.
func lingering() (fd int, err error) {
	if listener == nil {
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return -1, err
		}
	}
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	to := &unix.SockaddrInet4{Port: listener.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	if err := unix.Connect(fd, to); err != nil {
		return -1, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, err
	}
	for block := make([]byte, 64<<10); err == nil; {
		_, err = unix.Write(fd, block)
	}
	return fd, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600})
}

// connect returns a socket that is connected to another one. It stays open.
func connect(network, name string) (fd int) {
	kind := unix.SOCK_STREAM
	if network == "unixgram" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
	}
	if err != nil {
		harness.Failed(fmt.Errorf("%s: %w", name, err))
	}
	return fd
}
