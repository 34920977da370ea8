package messages

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/race"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// cageBytes is the memory that the pool of TestHostileClients has, workers and all:
// 64 MiB, and more if the workers, which are this binary, have the race detector.
var cageBytes = map[bool]int{false: 64 << 20, true: 128 << 20}[race.On]

// restBytes is what PID 1 may have when all is over.
const restBytes = 36 << 20

// hostileTime is how long each kind of hostile client has. POOLINIT_MEMORY sets
// another one.
const hostileTime = 400 * time.Millisecond

// sizedDeed answers each message with as many bytes as its body says, without
// memory for them.
var sizedDeed = harness.Deed("sized", func([]string) int {
	messages := os.NewFile(3, "messages")
	in := bufio.NewReaderSize(messages, 4<<10)
	piece := make([]byte, 64<<10)
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return 0
		}
		size := int(binary.BigEndian.Uint32(head[:]))
		text := make([]byte, min(size, 10))
		if _, err := io.ReadFull(in, text); err != nil {
			return 0
		}
		if _, err := in.Discard(size - len(text)); err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimLeft(string(text), "x"))
		if _, err := messages.Write(binary.BigEndian.AppendUint32(nil, uint32(n))); err != nil {
			return 0
		}
		for n > 0 {
			wrote, err := messages.Write(piece[:min(n, len(piece))])
			if n -= wrote; err != nil {
				return 0
			}
		}
	}
})

// A caged pool runs in a cgroup with little memory.
type caged struct {
	harness.Pool
	group              string // its directory
	v2                 bool
	plain, tls, tagged string // its addresses
}

// startCaged starts one, or skips the test where no cgroup can be made.
func startCaged(t *testing.T) *caged {
	t.Helper()
	c := &caged{plain: harness.FreePort(t), tls: harness.FreePort(t), tagged: harness.FreePort(t)}
	c.makeGroup(t)
	dir := t.TempDir()
	harness.IssueCertificate(t, filepath.Join(dir, "server"), "localhost")
	args := harness.RunArgs(t, "-n", "2",
		"--listen", "tcp://"+c.plain+"?reply=always",
		"--listen", "tcp://"+c.tls+"?reply=always&cert="+dir+"/server.crt&key="+dir+"/server.key",
		"--listen", "tcp://"+c.tagged+"?tagged=true", "--", sizedDeed)
	enter := `echo 0 > "$0" && exec "$@"`
	c.Pool = harness.PoolOf(harness.Start(t, harness.Program{
		Args: append([]string{"sh", "-c", enter, filepath.Join(c.group, "cgroup.procs")}, args...), Child: harness.WorkerChild,
		Env: []string{"GOMEMLIMIT="},
	}))
	c.ExpectLog("an eighth of the memory limit", nil)
	testkit.Eventually(t, "all sources are open", func() (any, bool) { return c.Stderr.String(), c.Count("accepting messages") == 3 })
	return c
}

func (c *caged) makeGroup(t *testing.T) {
	t.Helper()
	const root = "/sys/fs/cgroup"
	_, err := os.Stat(root + "/cgroup.controllers")
	c.v2 = err == nil
	parent, limit, swap := root+"/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	if c.v2 {
		parent, limit, swap = root, "memory.max", "memory.swap.max"
		_ = os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0) // fails in a container: the next one says so
	}
	c.group = filepath.Join(parent, fmt.Sprintf("poolinit-memory-%d", os.Getpid()))
	if err := os.Mkdir(c.group, 0o755); err != nil {
		strict.Skip(t, "cannot make a cgroup: %v", err)
	}
	t.Cleanup(func() {
		testkit.Eventually(t, "the cgroup is removed", func() (any, bool) {
			err := os.Remove(c.group)
			return err, err == nil
		})
	})
	if err := os.WriteFile(filepath.Join(c.group, limit), []byte(strconv.Itoa(cageBytes)), 0); err != nil {
		strict.Skip(t, "cannot limit a cgroup: %v", err)
	}
	_ = os.WriteFile(filepath.Join(c.group, swap), []byte(strconv.Itoa(cageBytes)), 0) // absent: there is no swap
}

// kills returns how many processes of the group the OOM killer has killed.
func (c *caged) kills(t *testing.T) string {
	t.Helper()
	file := "memory.oom_control"
	if c.v2 {
		file = "memory.events"
	}
	text, err := os.ReadFile(filepath.Join(c.group, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strings.TrimSpace(n)
		}
	}
	return "unknown"
}

// memory returns what PID 1 has, and the most that it had, in bytes.
func (c *caged) memory() (now, most int) {
	field := func(key string) int {
		n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(harness.StatusLine(c.Self(), key)), " kB"))
		return n << 10
	}
	return field("VmRSS"), field("VmHWM")
}

// PID 1 lives in 64 MiB, whatever its clients do, and serves those that are honest;
// and when it is over it gives the memory back.
func TestHostileClients(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < 8000 {
		strict.Skip(t, "%d open files are allowed, and the clients need 8000", files.Cur)
	}
	c := startCaged(t)
	long := hostileTime
	if d, err := time.ParseDuration(os.Getenv("POOLINIT_MEMORY")); err == nil {
		long = d
	}
	h := newHonest(t, c)
	for _, kind := range hostileKinds {
		c.under(t, h, kind.name, long, kind)
	}
	c.under(t, h, "all together", 4*long, hostileKinds...)
	testkit.Eventually(t, "the memory is given back", func() (any, bool) {
		now, _ := c.memory()
		return fmt.Sprintf("%d MiB", now>>20), now < restBytes
	})
	h.ask(t)
	c.Signal(syscall.SIGTERM)
	if code := c.Wait(); code != 0 {
		t.Errorf("exit code %d\n%s", code, c.Stderr.String())
	}
}

// under has hostile clients of these kinds at work, and honest ones beside them.
func (c *caged) under(t *testing.T, h *honest, name string, long time.Duration, kinds ...hostileKind) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	var all sync.WaitGroup
	for _, k := range kinds {
		for range k.clients {
			all.Go(func() {
				for ctx.Err() == nil {
					k.attack(ctx, c)
					pause(ctx, 5*time.Millisecond)
				}
			})
		}
	}
	served := 0
	for ctx.Err() == nil {
		h.ask(t)
		served++
		pause(ctx, 5*time.Millisecond)
	}
	h.ask(t)
	all.Wait()
	now, most := c.memory()
	t.Logf("%-14s PID 1 has %d MiB, at most %d; %d rounds of honest clients", name, now>>20, most>>20, served)
	if kills := c.kills(t); kills != "0" {
		t.Fatalf("%s: the OOM killer has killed %s\n%s", name, kills, c.Stderr.String())
	}
}

// pause waits, unless all is over.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// honest are two clients: one that is connected all the time, and one that connects
// anew for each message.
type honest struct {
	c    *caged
	kept net.Conn
}

func newHonest(t *testing.T, c *caged) *honest {
	t.Helper()
	nc, err := honestDialer.Dial("tcp", c.plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	h := &honest{c, nc}
	h.ask(t)
	return h
}

// honestDialer connects from an address that no hostile client has.
var honestDialer = net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}

// ask has both get an answer. The one that connects may have to try again: while a
// crowd makes room for others, it is one too many.
func (h *honest) ask(t *testing.T) {
	t.Helper()
	if err := request(h.kept); err != nil {
		t.Fatalf("the client that stays: %v\n%s", err, h.c.Stderr.String())
	}
	testkit.Eventually(t, "a new client is served", func() (any, bool) {
		nc, err := honestDialer.Dial("tcp", h.c.plain)
		if err != nil {
			return err, false
		}
		defer nc.Close()
		err = request(nc)
		return err, err == nil
	})
}

// request asks for 1000 bytes, in a message of 20 kB.
func request(nc net.Conn) error {
	_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
	if err := harness.WriteFrame(nc, fmt.Sprintf("xxxxxx1000%020000d", 0)); err != nil {
		return err
	}
	body, failed, err := harness.ReadFrame(nc)
	switch {
	case err != nil:
		return err
	case failed || len(body) != 1000:
		return fmt.Errorf("answer %.100q", body)
	}
	return nil
}

// A hostileKind is what a hostile client does with one connection, again and again.
type hostileKind struct {
	name    string
	clients int
	attack  func(ctx context.Context, c *caged)
}

var hostileKinds = []hostileKind{
	{"does not read", 20, func(ctx context.Context, c *caged) {
		attack(ctx, c.plain, strings.Repeat("\x00\x00\x00\x071000000", 100), nil)
	}},
	{"asks for much", 4, func(ctx context.Context, c *caged) {
		attack(ctx, c.plain, strings.Repeat("\x00\x00\x00\x0840000000", 3), nil)
	}},
	{"announces", 300, func(ctx context.Context, c *caged) {
		attack(ctx, c.plain, "\x00\x1f\xff\xf0"+strings.Repeat("x", 17_000), nil)
	}},
	{"drips", 300, func(ctx context.Context, c *caged) {
		attack(ctx, c.plain, "\x00\x00\x3f\xf0"+strings.Repeat("x", 12_000), func(nc net.Conn) error {
			pause(ctx, 50*time.Millisecond)
			_, err := nc.Write([]byte{'x'})
			return err
		})
	}},
	{"connects", 1500, func(ctx context.Context, c *caged) { attack(ctx, c.plain, "", nil) }},
	{"huge messages", 12, func(ctx context.Context, c *caged) {
		huge := "\x00\x1f\xff\xf0" + "xxxxxxxxx1" + strings.Repeat("x", 2<<20-26)
		attack(ctx, c.plain, huge, func(nc net.Conn) error { _, err := io.WriteString(nc, huge); return err })
	}},
	{"tiny messages", 12, func(ctx context.Context, c *caged) {
		tiny := strings.Repeat("\x00\x00\x00\x0210", 5_000)
		attack(ctx, c.plain, tiny, func(nc net.Conn) error { _, err := io.WriteString(nc, tiny); return err })
	}},
	{"half of TLS", 1200, func(ctx context.Context, c *caged) {
		attack(ctx, c.tls, "\x16\x03\x01\x40\x00"+strings.Repeat("x", 16_000), nil)
	}},
	{"TLS, silent", 300, silentTLS},
	{"tagged liar", 60, func(ctx context.Context, c *caged) {
		const hello = "\x00\x00\x00\x13\x00\x00\x00\x00\x00\x00\x00\x00" + `{"hello":1}`
		tags.Add(1)
		attack(ctx, c.tagged, hello, func(nc net.Conn) error {
			var b []byte
			for i := range 2000 { // answers that nothing reads, and then meta that does not come
				b = binary.BigEndian.AppendUint32(b, 8+4)
				b = binary.BigEndian.AppendUint64(b, uint64(i+1)+uint64(tags.Add(1))<<20)
				b = append(b, "9999"...)
			}
			b = append(b, 0x40, 0x1f, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0xff, 0xff)
			_, err := nc.Write(append(b, make([]byte, 30_000)...))
			return err
		})
	}},
}

var tags atomic.Uint64

// attack connects, sends something, and goes on with more, or holds the connection,
// until it is closed or all is over. It never reads.
func attack(ctx context.Context, addr, first string, more func(net.Conn) error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = nc.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err = io.WriteString(nc, first); err != nil {
		return
	}
	for more != nil && ctx.Err() == nil {
		if more(nc) != nil {
			return
		}
	}
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	for ctx.Err() == nil && isOpen(raw) {
		pause(ctx, 20*time.Millisecond)
	}
}

// isOpen reports whether the peer has not closed the connection, without reading.
func isOpen(raw syscall.RawConn) (open bool) {
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = n > 0 || err == syscall.EAGAIN
	})
	return open
}

// silentTLS makes the whole handshake and falls silent.
func silentTLS(ctx context.Context, c *caged) {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	nc, err := d.DialContext(ctx, "tcp", c.tls)
	if err != nil {
		return
	}
	defer nc.Close()
	_, _ = io.WriteString(nc, "\x00\x00\x3f\xf0"+strings.Repeat("x", 10_000))
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_, _ = nc.Read(make([]byte, 1))
}
