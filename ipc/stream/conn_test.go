package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/internal/testkit/strict"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// served checks that another client is served as if nothing were wrong.
func (w *world) served(t *testing.T) {
	t.Helper()
	c := w.dial()
	for range 20 {
		c.Send("fine")
		c.Want("fine")
	}
	c.Close()
}

// Each fault costs its own client only.
func TestClientFaults(t *testing.T) {
	header := func(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
	tooBig := "!too-big: the longest message here is 1000 bytes"
	for name, tt := range map[string]struct {
		bytes string
		want  []string
	}{
		"length 0":               {header(0), []string{"", "error EOF"}},
		"1 byte":                 {"\x00", []string{"error EOF"}},
		"3 bytes":                {"\x00\x00\x00", []string{"error EOF"}},
		"half a body":            {header(10) + "hello", []string{"error EOF"}},
		"a whole one and a half": {header(1) + "a" + header(10) + "hello", []string{"a", "error EOF"}},
		"just over the limit":    {header(1001) + strings.Repeat("x", 1001), []string{tooBig}},
		"0x7fffffff":             {header(0x7fffffff), []string{tooBig}},
		"0xffffffff":             {header(0xffffffff), []string{tooBig}},
		"after good ones":        {header(1) + "a" + header(0x7fffffff), []string{"a", tooBig}},
		"the limit":              {header(1000) + strings.Repeat("x", 1000), []string{strings.Repeat("x", 1000), "error EOF"}},
		"top bit of a client":    {header(0x80000001) + "a", []string{"a", "error EOF"}},
		"HTTP":                   {"GET / HTTP/1.1\r\n\r\n", []string{tooBig}},
		"nothing at all":         {"", []string{"error EOF"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.MaxMessage = 1000 })
			w.Worker(ipctest.Answering(ipctest.Echo))
			c := w.dial()
			fmt.Fprint(c, tt.bytes)
			c.Conn.(*net.TCPConn).CloseWrite()
			c.Want(tt.want...)
			w.served(t)
		})
	}
}

// A byte at a time is a frame all the same.
func TestByteByByte(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dial()
	_ = c.Conn.(*net.TCPConn).SetNoDelay(true)
	for _, b := range frame.Append(frame.Append(nil, []byte("hello")), []byte("world")) {
		c.Write([]byte{b})
	}
	c.Want("hello", "world")
}

func TestPartialFrameTimesOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?reply=always&partial=30ms&idle=1h", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dial()
	c.Send("a")
	c.Want("a")
	c.Write([]byte{0, 1, 0, 0})
	go func() { // ends when the connection is closed
		for {
			if _, err := c.Write([]byte{'x'}); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond) // a slow client: each byte in time, the frame not
		}
	}()
	w.served(t)
	if got := c.Next(); !strings.HasPrefix(got, "error") {
		t.Errorf("got %q", got)
	}
	if n := w.src.stats.FramesPartial.Load(); n != 1 {
		t.Errorf("%d partial frames counted", n)
	}
}

func TestIdleIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?reply=always&idle=400ms", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	var c *ipctest.Client
	ipctest.Undisturbed(t, 700*time.Millisecond, func() error {
		c = w.dial()
		for range 6 { // busy for longer than idle=
			if err := c.Try("a", "a"); err != nil {
				return err
			}
			time.Sleep(80 * time.Millisecond) // a client that thinks, for less than idle=
		}
		return nil
	})
	c.Want("error EOF")
}

// A client that waits for its reply is not idle.
func TestWaitingIsNotIdle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?reply=always&idle=100ms", nil)
	w.Worker(ipctest.Answering(func(b []byte) []byte {
		time.Sleep(500 * time.Millisecond) // a slow worker
		return ipctest.Echo(b)
	}))
	ipctest.Undisturbed(t, 600*time.Millisecond, func() error { return w.dial().Try("a", "a") })
}

// A client that never reads delays no other, and does not fill the memory.
func TestClientNeverReads(t *testing.T) {
	w := newWorld(t, "?reply=always&idle=0s", nil)
	w.Worker(ipctest.Answering(func(b []byte) []byte { return frame.Append(nil, make([]byte, 64<<10)) }))
	deaf := w.dial()
	go func() { // ends when the connection is closed, at the end
		for {
			if _, err := deaf.Write(frame.Append(nil, []byte("more"))); err != nil {
				return
			}
		}
	}()
	ipctest.Eventually(t, "its messages wait", w.isHeld)
	c := w.dial()
	for range 20 {
		c.Send("x")
		if got := c.Next(); len(got) != 64<<10 {
			t.Fatalf("%d bytes", len(got))
		}
	}
	deaf.Close()
}

func TestOnce(t *testing.T) {
	w := newWorld(t, "?once=true", nil)
	w.Worker(ipctest.Answering(func(b []byte) []byte {
		if string(b) == "bad" {
			return frame.AppendFailure(nil, frame.Refused, "no")
		}
		return ipctest.Echo(b)
	}))
	c := w.dial()
	c.Send("a", "b")
	if got := c.Next(); got != "a" {
		t.Errorf("got %q", got)
	}
	if got := c.Next(); !strings.HasPrefix(got, "error") {
		t.Errorf("then %q, want the end", got)
	}
	c = w.dial()
	c.Send("bad")
	c.Want("error EOF")
}

func TestConnectionLimit(t *testing.T) {
	w := newWorld(t, "?reply=always&connections=3", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	var kept []*ipctest.Client
	for range 3 {
		c := w.dial()
		c.Send("a")
		c.Want("a")
		kept = append(kept, c)
	}
	for range 50 {
		if got := w.dial().Next(); !strings.HasPrefix(got, "error") {
			t.Errorf("got %q", got)
		}
	}
	if n := strings.Count(w.Log.Text(), "connections rejected"); n < 1 || n > 5 { // one in ten seconds
		t.Errorf("%d log lines:\n%s", n, w.Log.Text())
	}
	for _, c := range kept {
		c.Send("b")
		c.Want("b")
	}
	kept[0].Close()
	ipctest.Eventually(t, "a place is free", func() bool { return w.src.stats.Connections.Load() == 2 })
	w.served(t)
}

func TestAllow(t *testing.T) {
	for params, want := range map[string]string{
		"?reply=always&allow=127.0.0.0/8":       "a",
		"?reply=always&allow=10.0.0.0/8,::1":    "error",
		"?reply=always&allow=127.0.0.1,1.2.3.4": "a",
	} {
		w := newWorld(t, params, nil)
		w.Worker(ipctest.Answering(ipctest.Echo))
		c := w.dial()
		c.Write(frame.Append(nil, []byte("a")))
		if got := c.Next(); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", params, got, want)
		}
	}
}

// A socket for both takes IPv4 clients under IPv6 addresses; allow= means them all the same.
func TestAllowBothFamilies(t *testing.T) {
	for _, tt := range []struct {
		allow  string
		v4, v6 bool // whether it is let in
	}{
		{"127.0.0.0/8", true, false},
		{"127.0.0.1", true, false},
		{"::1", false, true},
		{"127.0.0.1,::1", true, true},
		{"0.0.0.0/0", true, false},
		{"::/0", false, true},
		{"10.0.0.0/8,fd00::/8", false, false},
	} {
		w := newWorldOn(t, ":0", "?reply=always&allow="+tt.allow, nil)
		w.Worker(ipctest.Answering(ipctest.Echo))
		port := strconv.Itoa(w.src.Addr().(*net.TCPAddr).Port)
		for _, client := range []struct {
			host string
			in   bool
		}{{"127.0.0.1", tt.v4}, {"::1", tt.v6}} {
			t.Run(tt.allow+" "+client.host, func(t *testing.T) {
				if client.host == "::1" && !hasIPv6() {
					strict.Skip(t, "no IPv6 here")
				}
				c := w.dialTo(net.JoinHostPort(client.host, port))
				_, _ = c.Write(frame.Append(nil, []byte("a"))) // fails if it is turned away already
				if got := c.Next(); (got == "a") != client.in || !client.in && !strings.HasPrefix(got, "error") {
					t.Errorf("got %q, want it let in: %v", got, client.in)
				}
			})
		}
	}
}

// hasIPv6 reports whether this machine has an IPv6 loopback.
func hasIPv6() bool {
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	ln.Close()
	return true
}

// A limit that is switched off does not inherit the other's deadline. (A wait that is
// too short can only let a fault pass.)
func TestOneLimitAlone(t *testing.T) {
	t.Parallel()
	const limit, longer = "200ms", 300 * time.Millisecond
	for _, test := range []struct {
		params           string
		inFrame, between time.Duration
	}{
		{"&idle=0s&partial=" + limit, time.Millisecond, longer},
		{"&partial=0s&idle=" + limit, longer, 0},
	} {
		t.Run(test.params, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "?reply=always"+test.params, nil)
			w.Worker(ipctest.Answering(ipctest.Echo))
			whole := frame.Append(nil, []byte("x"))
			ipctest.Undisturbed(t, 2*(test.inFrame+test.between)+150*time.Millisecond, func() error {
				c := w.dial()
				defer c.Close()
				for range 2 {
					_, _ = c.Write(whole[:3]) // fails if it has been closed
					time.Sleep(test.inFrame)
					_, _ = c.Write(whole[3:])
					if got := c.Next(); got != "x" {
						return fmt.Errorf("reply %q", got)
					}
					time.Sleep(test.between)
				}
				return nil
			})
		})
	}
}

// At a drain what has arrived is handled, and what comes later is told so.
func TestDrain(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window = 1; c.QueueMessages = 2 })
	gate := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-gate; return ipctest.Echo(b) }))
	early, idle := w.dial(), w.dial()
	idle.Send("first")
	gate <- true
	idle.Want("first")
	const n = 200 // far more than the queue takes
	for i := range n {
		early.Send(fmt.Sprint(i))
	}
	backlog := w.dial() // connected, and perhaps not accepted yet
	backlog.Send("backlog")
	drained := make(chan bool)
	go func() { // ends with the drain
		w.src.Drain(context.Background())
		close(drained)
	}()
	ipctest.Eventually(t, "the drain has seen that nothing has come from idle", func() bool {
		return slices.ContainsFunc(w.src.all(), func(c *conn) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.replies.Len() == 0 && c.caughtUp.Load() // the others wait for replies
		})
	})
	idle.Send("late")
	idle.Want("!stopping: poolinit is stopping; send it again on a new connection")
	if _, err := net.Dial("tcp", w.src.Addr().String()); err == nil {
		t.Error("still connects")
	}
	close(gate)
	for i := range n {
		early.Want(fmt.Sprint(i))
	}
	backlog.Want("backlog")
	<-drained
	<-w.Q.Empty()
	early.Send("late")
	early.Want("!stopping: poolinit is stopping; send it again on a new connection")
}

// When time is up, every client that waits is told.
func TestQueueCloseTellsClients(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window = 1 })
	dying := make(chan *ipc.Channel, 1)
	only := w.Worker(func(sock net.Conn) {
		ipctest.ReadFrame(sock)
		(<-dying).Close("killed")
	})
	c := w.dial()
	c.Send("in hand", "waits")
	ipctest.Eventually(t, "both are there", func() bool { waiting, _, n := w.Q.Depth(); return waiting == 1 && n == 1 })
	w.Q.Close()
	dying <- only
	if got := c.Next(); !strings.HasPrefix(got, "!interrupted: ") {
		t.Errorf("got %q", got)
	}
	if got := c.Next(); !strings.HasPrefix(got, "!stopping: ") {
		t.Errorf("got %q", got)
	}
	if n := w.src.stats.Lost.Load(); n != 2 {
		t.Errorf("%d lost", n)
	}
}

func TestUnix(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pool.sock")
	q := ipc.NewQueue(ipctest.Config(nil), zerolog.Nop())
	listen := func(path, params string) (ipc.Source, error) {
		u, err := parseURL("unix://" + path + params)
		if err != nil {
			t.Fatal(err)
		}
		return u.open(q, zerolog.Nop())
	}
	// A file that a crash left behind is replaced.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	src, err := listen(path, "?mode=0600")
	if err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", fi.Mode().Perm())
	}
	if _, err := listen(path, ""); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("a live socket: %v", err)
	}
	src.Close()
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is still there")
	}
	if _, err := listen(dir, ""); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := listen(filepath.Join(dir, "absent", "x.sock"), ""); err == nil {
		t.Error("an absent directory is fine")
	}
}

func TestPortTaken(t *testing.T) {
	w := newWorld(t, "", nil)
	u, _ := parseURL("tcp://" + w.src.Addr().String())
	if _, err := u.open(w.Q, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("%v", err)
	}
}

// A stop leaves connections open until their clients know: one that has been
// silent is closed, one that still sends is told.
func TestLinger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?reply=always", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	silent, busy := w.dial(), w.dial()
	silent.Send("a")
	silent.Want("a")
	busy.Send("a")
	busy.Want("a")
	w.src.Drain(context.Background())
	w.Q.Close()
	lingered := make(chan bool)
	go func() { // ends when both are closed
		w.src.Linger(context.Background())
		close(lingered)
	}()
	last := time.Now() // the server has heard of the client after that
	for range 100 {
		began := time.Now()
		err := busy.Try("b", "!stopping: poolinit is stopping; send it again on a new connection")
		if err != nil && time.Since(last) < quietTime {
			t.Fatal(err)
		}
		last = began
	}
	silent.Want("error EOF")
	busy.Close()
	<-lingered
}

// The failure frame for a message over the limit arrives, whatever the client
// goes on to send.
func TestTooBigIsHeard(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.MaxMessage = 1000 })
	w.Worker(ipctest.Answering(ipctest.Echo))
	ipctest.Undisturbed(t, discardTime*3/4, func() error {
		c := w.dial()
		defer c.Close()
		c.Write(frame.Append(nil, make([]byte, 1<<20)))
		c.Write(make([]byte, 1<<20))
		if got := c.Next(); got != "!too-big: the longest message here is 1000 bytes" {
			return fmt.Errorf("reply %q", got)
		}
		return nil
	})
	w.served(t)
}

func TestOnceDuringDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?once=true", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dial()
	ipctest.Eventually(t, "it is accepted", func() bool { return len(w.src.all()) == 1 })
	go w.src.Drain(context.Background()) // ends when c has been read
	ipctest.Eventually(t, "the drain began", w.src.isDraining)
	ipctest.Eventually(t, "it was marked", func() bool {
		all := w.src.all()
		return len(all) == 1 && all[0].caughtUp.Load()
	})
	c.Send("late")
	c.Want("error EOF")
}

// A client that always has another frame begun is not slow: each is in time.
func TestPartialIsAFrames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?reply=always&partial=400ms", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	frame := frame.Append(nil, []byte("hello"))
	ipctest.Undisturbed(t, 1000*time.Millisecond, func() error {
		c := w.dial()
		c.Write(frame[:3])
		for range 12 {
			time.Sleep(60 * time.Millisecond) // less than partial=, all together more
			c.Write(append(frame[3:len(frame):len(frame)], frame[:3]...))
			if got := c.Next(); got != "hello" {
				return fmt.Errorf("reply %q", got)
			}
		}
		return nil
	})
}

// Replies that wait behind a slow message count as the client's: it is not read
// for ever meanwhile.
func TestRepliesBehindASlowOne(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window = 1 })
	gate := make(chan bool)
	for range 2 {
		w.Worker(ipctest.Answering(func(b []byte) []byte {
			if string(b) == "slow" {
				<-gate
			}
			return ipctest.Echo(b)
		}))
	}
	c := w.dial()
	c.Send("slow")
	const n = 50_000
	go func() { // ends when all is written
		for range n {
			c.Write(frame.Append(nil, []byte("fast")))
		}
	}()
	ipctest.Eventually(t, "the client is not read any more", func() bool {
		cs := w.src.all()
		if len(cs) == 0 {
			return false // not accepted yet
		}
		cs[0].mu.Lock()
		defer cs[0].mu.Unlock()
		return cs[0].drained != nil
	})
	if got := w.src.stats.Received.Load(); got > n/2 {
		t.Errorf("%d messages were read meanwhile", got)
	}
	close(gate)
	c.Want("slow")
	for range n {
		if got := c.Next(); got != "fast" {
			t.Fatalf("got %q", got)
		}
	}
}
