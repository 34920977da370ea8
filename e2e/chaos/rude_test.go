package chaos

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
)

// rude has clients that do what no client should, each on its own connection. They
// hang up at the end.
func rude(r *round, rng *rand.Rand) (undo func()) {
	l := r.life()
	addrs := []string{"127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"}
	manner := manners[rng.IntN(len(manners))]
	var open []net.Conn
	for range 1 + rng.IntN(40) {
		nc, err := l.dial("tcp", addrs[rng.IntN(len(addrs))])
		if err != nil {
			break
		}
		_ = nc.SetDeadline(time.Now().Add(100 * time.Millisecond)) // the others wait for their turn
		manner(nc, rng)
		open = append(open, nc)
	}
	return func() {
		for _, nc := range open {
			if tcp, ok := nc.(*net.TCPConn); ok && rng.IntN(2) == 0 {
				_ = tcp.SetLinger(0) // a reset
			}
			nc.Close()
		}
	}
}

// rudeMessages numbers the messages of rude clients.
var rudeMessages atomic.Int64

var manners = []func(net.Conn, *rand.Rand){
	func(nc net.Conn, _ *rand.Rand) {}, // silent
	func(nc net.Conn, _ *rand.Rand) { // announces 2 MiB and falls silent
		_, _ = nc.Write([]byte{0, 0x1f, 0xff, 0xff})
	},
	func(nc net.Conn, _ *rand.Rand) { // announces more than there may be
		_, _ = nc.Write([]byte{0x7f, 0xff, 0xff, 0xff, 'x'})
	},
	func(nc net.Conn, rng *rand.Rand) { // noise
		b := make([]byte, 1+rng.IntN(3000))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		_, _ = nc.Write(b)
	},
	func(nc net.Conn, _ *rand.Rand) { // half a message
		_, _ = nc.Write([]byte("\x00\x00\x00\x64half of it"))
	},
	func(nc net.Conn, _ *rand.Rand) { // asks for much, and reads nothing
		for range 20 {
			body := fmt.Sprintf("slow rude-%d %s", rudeMessages.Add(1), strings.Repeat("x", 50_000))
			if _, err := nc.Write(frame{body: body}.bytes(false)); err != nil {
				return
			}
		}
	},
	func(nc net.Conn, _ *rand.Rand) { // tags that are none
		_, _ = nc.Write(frame{body: `{"hello":1}`}.bytes(true))
		for _, tag := range []uint64{7, 7, 1 << 60} {
			_, _ = nc.Write(frame{tag: tag, body: fmt.Sprintf("ok rude-%d", rudeMessages.Add(1))}.bytes(true))
		}
	},
	func(nc net.Conn, _ *rand.Rand) { // slow headers
		_, _ = nc.Write([]byte("GET /metrics HTTP/1.1\r\nHost: "))
	},
}

// strangers are another user's process that uses every abstract socket of the pool's network
// namespace.
func strangers(r *round, _ *rand.Rand) (undo func()) {
	p := harness.Start(r.t, harness.Program{Host: true, Child: strangerChild, Args: []string{harness.Self(r.t), r.life().netns}})
	return func() { _ = p.Cmd.Process.Kill() }
}

// strangerChild writes to every abstract socket, with descriptors that linger, and holds connections.
var strangerChild = harness.Child("chaosStranger", func(args []string) int {
	runtime.LockOSThread()
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(fd, unix.CLONE_NEWNET)
	}
	if err != nil {
		return harness.Failed(err)
	}
	table, err := os.ReadFile("/proc/thread-self/net/unix")
	if err == nil {
		err = syscall.Setgroups(nil)
	}
	for _, set := range []func(int) error{syscall.Setgid, syscall.Setuid} {
		if err == nil {
			err = set(65534)
		}
	}
	if err != nil {
		return harness.Failed(err)
	}
	lingering := lingeringSockets(3)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		name := fields[len(fields)-1]
		if !strings.HasPrefix(name, "@") {
			continue
		}
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			for range 20 {
				molest(kind, name, lingering)
			}
		}
	}
	return harness.Forever()
})

// molest sends noise and descriptors to a socket. The connection stays.
func molest(kind int, name string, fds []int) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	if unix.Connect(fd, &unix.SockaddrUnix{Name: name}) != nil {
		unix.Close(fd)
		return
	}
	_ = unix.Sendmsg(fd, []byte("STOPPING=1\nSTATUS=stranger\n{\"noise\""), unix.UnixRights(fds...), nil, 0)
	_, _ = unix.Write(fd, []byte("stop\n"))
}

// lingeringSockets are connections that close(2) waits for.
func lingeringSockets(n int) (fds []int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil
	}
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fds
		}
		to := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
		if unix.Connect(fd, to) != nil || unix.SetNonblock(fd, true) != nil {
			return fds
		}
		for block := make([]byte, 64<<10); ; {
			if _, err := unix.Write(fd, block); err != nil {
				break
			}
		}
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600})
		fds = append(fds, fd)
	}
	return fds
}
