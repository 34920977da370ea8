package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
	"github.com/poolinit/poolinit/ipc/netio"
)

// stopWithin drains and lingers as a stop does, and reports whether that took
// all the time there was.
func (w *world) stopWithin(t *testing.T, limit time.Duration) (all bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	w.src.Drain(ctx)
	w.Q.Close()
	w.src.Linger(ctx)
	return ctx.Err() != nil
}

// stopAfterAll is stopWithin after what is queued has been handled.
func (w *world) stopAfterAll(t *testing.T) (all bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), ipctest.Patience)
	defer cancel()
	w.src.Drain(ctx)
	select {
	case <-w.Q.Empty():
	case <-ctx.Done():
	}
	w.Q.Close()
	w.src.Linger(ctx)
	return ctx.Err() != nil
}

// isHeld reports whether a client has to read before more is done for it.
func (w *world) isHeld() bool {
	for _, c := range w.src.all() {
		c.mu.Lock()
		held := c.isHeld
		c.mu.Unlock()
		if held {
			return true
		}
	}
	return false
}

// megabyte is a worker's reply that takes room.
func megabyte([]byte) []byte { return frame.Append(nil, make([]byte, 1<<20)) }

// A client that has ended its side and never reads does not hold up a stop.
func TestStopDoesNotWaitForADeafClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?reply=always&idle=0s", nil)
	w.Worker(ipctest.Answering(megabyte))
	deaf := w.dial()
	for range 30 { // more than the kernel holds
		deaf.Send("x")
	}
	if err := deaf.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	ipctest.Eventually(t, "its messages wait", w.isHeld)
	if w.stopAfterAll(t) {
		t.Error("it took all the time there was")
	}
	if n := w.src.stats.Handled.Load(); n != 30 {
		t.Errorf("%d messages were handled", n)
	}
}

// Nor does one that goes on to send, and is not read any more because of that.
func TestStopDoesNotWaitForAnUnreadClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?reply=always&idle=0s", func(c *ipc.Config) { c.QueueMessages = 100 })
	w.Worker(ipctest.Answering(func([]byte) []byte { return frame.Append(nil, make([]byte, 64<<10)) }))
	deaf := w.dial()
	go func() { // ends when the connection is closed, at the latest by the deadline
		for {
			if _, err := deaf.Write(frame.Append(nil, []byte("more"))); err != nil {
				return
			}
		}
	}()
	ipctest.Eventually(t, "it is not read any more", w.isHeld)
	if w.stopAfterAll(t) {
		t.Error("it took all the time there was")
	}
}

// One that reads slowly is not deaf.
func TestStopWaitsForASlowClient(t *testing.T) {
	t.Parallel()
	for range 5 {
		longest, err := stopWithSlowClient(t)
		switch {
		case err == nil:
			return
		case longest < deafTime/2:
			t.Fatal(err)
		}
		t.Logf("the machine stood still for %s, so that the client was taken for a deaf one", longest)
	}
	t.Error("the machine is too slow for this test")
}

// stopWithSlowClient returns also how long the client was without reading.
func stopWithSlowClient(t *testing.T) (longest time.Duration, err error) {
	t.Helper()
	const n = 30
	w := newWorld(t, "?reply=always&idle=0s", nil)
	w.Worker(ipctest.Answering(megabyte))
	slow := w.dial()
	for range n {
		slow.Send("x")
	}
	if err := slow.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	ipctest.Eventually(t, "its messages wait", w.isHeld)
	stopped := make(chan bool, 1)
	last := time.Now()
	go func() { stopped <- w.stopAfterAll(t) }() // ends with the connection
	buf := make([]byte, 256<<10)
	for left := n * (frame.HeaderSize + 1<<20); left > 0; {
		longest = max(longest, time.Since(last))
		last = time.Now()
		got, err := slow.Read(buf)
		if left -= got; err != nil {
			return longest, fmt.Errorf("%d bytes are missing: %w", left, err)
		}
		time.Sleep(10 * time.Millisecond) // a slow client: all together longer than deafTime
	}
	if <-stopped {
		return longest, errors.New("it took all the time there was")
	}
	return longest, nil
}

// A connection that is just being accepted when the source is closed is closed
// as well, or has never been.
func TestCloseWhileAccepting(t *testing.T) {
	for range 50 {
		w := newWorld(t, "?reply=always", nil)
		w.src.accepts.door.Lock()
		c := w.dial() // Serve is at the door for it, or about to be
		closed := make(chan struct{})
		go func() { // ends when the source has
			w.src.Close()
			close(closed)
		}()
		w.src.accepts.door.Unlock()
		<-closed
		w.Ended.Wait()
		if n := w.src.stats.Connections.Load(); n != 0 || len(w.src.all()) > 0 {
			t.Fatalf("%d connections are open, %d are known", n, len(w.src.all()))
		}
		c.Close()
	}
}

// A message that waits for room in the queue is what a drain waits for, though
// its connection takes no other.
func TestDrainWaitsForRoom(t *testing.T) {
	w := newWorld(t, "?once=true", func(c *ipc.Config) { c.QueueMessages, c.Window = 1, 1 })
	gate := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-gate; return ipctest.Echo(b) }))
	var clients []*ipctest.Client
	for i := range 3 { // one with the worker, one in the queue, one for which there is no room
		c := w.dial()
		c.Send(fmt.Sprint(i))
		clients = append(clients, c)
		ipctest.Eventually(t, "it is received", func() bool { return w.src.stats.Received.Load() == uint64(i+1) })
	}
	drained := make(chan struct{})
	go func() { // ends with the drain
		w.src.Drain(context.Background())
		close(drained)
	}()
	ipctest.Eventually(t, "the drain began", w.src.isDraining)
	for range 20 {
		if ipctest.IsClosed(drained) {
			t.Fatal("it does not wait")
		}
		time.Sleep(drainTick) // what is to be seen is that nothing happens
	}
	close(gate)
	<-drained
	for i, c := range clients {
		c.Want(fmt.Sprint(i))
	}
}

// socketPair returns two connected sockets.
func socketPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// killed returns a connection that was killed before anybody has waited for it.
func killed(t *testing.T, l *listener, file *os.File, nc netio.Socket) *conn {
	t.Helper()
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	l.stats.Connections.Add(1)
	c := newConn(l, nc, raw, raw, nil)
	l.add(c)
	c.kill()
	return c
}

// The deadline that kill sets is not replaced by that of a handshake.
func TestKilledStaysKilled(t *testing.T) {
	w, _ := tlsWorld(t, "&partial=1h&idle=1h", nil)
	file, _ := socketPair(t)
	raw, err := file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	below := &tlsSocket{File: file, raw: raw, addr: w.src.addr}
	nc := &tlsConn{tls.Server(below, w.src.certs.forServer()), below}
	c := killed(t, w.src, file, nc)
	done := make(chan error, 1) // 1: the result, should the test have ended
	go func() { done <- c.shakeHands(nc) }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("nothing is wrong")
		}
	case <-time.After(ipctest.Patience):
		t.Fatal("it waits for its client")
	}
	c.end(nil)
}

// A stop in the middle of a pipeline: what is turned away is told so after the replies
// of what came before it. Else a client would take those for the answers to others.
func TestStopKeepsTheOrder(t *testing.T) {
	for range 20 {
		w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.QueueMessages = 16 })
		stopping := make(chan bool)
		w.Worker(ipctest.Answering(func(b []byte) []byte { <-stopping; return ipctest.Echo(b) }))
		c := w.dial()
		go func() { // ends when the connection is closed
			for i := 0; ; i += 50 {
				var b []byte
				for k := range 50 {
					b = frame.Append(b, fmt.Append(nil, i+k))
				}
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}()
		ipctest.Eventually(t, "the queue is full", func() bool { n, _, _ := w.Q.Depth(); return n == 16 })
		stopped := make(chan bool)
		go func() { // ends with the drain
			w.stopWithin(t, ipctest.Patience)
			close(stopped)
		}()
		ipctest.Eventually(t, "the stop has begun", w.src.isDraining)
		close(stopping)
		turnedAway := 0
		for i := 0; turnedAway < 200; i++ { // more than come at a time
			got := c.Next()
			if strings.HasPrefix(got, "!stopping") {
				turnedAway++
			} else if got != fmt.Sprint(i) || turnedAway > 0 {
				t.Fatalf("reply %d is %q, after %d messages were turned away", i, got, turnedAway)
			}
		}
		c.Close()
		<-stopped
	}
}

// One that sends on behind a slow message, and is turned away, is not read for ever.
func TestStopHoldsFewRefusals(t *testing.T) {
	w := newWorld(t, "?reply=always&idle=0s", nil)
	slow := make(chan bool)
	release := sync.OnceFunc(func() { close(slow) })
	defer release() // before the world ends
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-slow; return ipctest.Echo(b) }))
	c := w.dial()
	c.Send("slow")
	ipctest.Eventually(t, "the worker has it", func() bool { _, _, n := w.Q.Depth(); return n == 1 })
	stopped := make(chan bool)
	go func() { // ends with the drain
		w.stopWithin(t, ipctest.Patience)
		close(stopped)
	}()
	ipctest.Eventually(t, "the stop has begun", w.src.isDraining)
	go func() { // ends when the connection is closed
		frames := make([]byte, 64<<10) // empty messages
		for {
			if _, err := c.Write(frames); err != nil {
				return
			}
		}
	}()
	ipctest.Eventually(t, "it is not read any more", func() bool {
		all := w.src.all()
		if len(all) != 1 {
			t.Fatalf("%d connections", len(all))
		}
		all[0].mu.Lock()
		defer all[0].mu.Unlock()
		return all[0].drained != nil
	})
	release()
	c.Close()
	<-stopped
}
