package e2e

import (
	"bufio"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A stop waits for clients that go on to send, until somebody asks a second time.
func TestSecondStopDoesNotWaitForClients(t *testing.T) {
	for range 5 {
		if secondStop(t) {
			return
		}
		t.Log("the machine stood still for so long that the client was taken for a silent one")
	}
	t.Error("the stop never waits for the client")
}

// secondStop reports whether the pool was there to be asked a second time.
func secondStop(t *testing.T) bool {
	url := unixURL(t, "?reply=always")
	p := runPool{startSDK(t, url, "--stop-timeout", "10m")}
	var stopping atomic.Int64
	over := make(chan struct{})
	go func() { // ends with the connection
		defer close(over)
		nc := dialURL(t, url)
		in := bufio.NewReader(nc)
		for {
			if writeFrame(nc, "more") != nil {
				return
			}
			reply, failed, err := readFrame(in)
			if err != nil {
				return
			}
			if failed && strings.HasPrefix(string(reply), "stopping: ") {
				stopping.Add(1)
			}
			time.Sleep(10 * time.Millisecond) // between two messages
		}
	}()
	p.stdout.expect(t, "message: more\n")
	p.signal(syscall.SIGTERM)
	p.expectLog("worker ended", nil)
	ended := stopping.Load()
	eventually(t, "the client is still served, or gone", func() (any, bool) {
		return stopping.Load(), stopping.Load() > ended+10 || isDone(over)
	})
	if isDone(over) {
		return false
	}
	_ = syscall.Kill(p.pid, syscall.SIGTERM) // gone meanwhile: the log shows it
	p.expectExit(0)
	<-over
	return p.count("asked to stop again: not waiting for clients any longer") == 1
}

// A client that does not read its replies, and has said that it sends no more,
// does not hold a stop up.
func TestStopDoesNotWaitForDeafClients(t *testing.T) {
	url := unixURL(t, "?reply=always")
	p := runPool{startSource(t, program{child: chaosWorker}, url, "--stop-timeout", "10m", "--", self(t), os.DevNull)}
	nc := dialURL(t, url)
	body := strings.Repeat("x", 100_000)
	for range 8 { // more than the socket holds, and less than would make poolinit stop reading
		if err := writeFrame(nc, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.expectExit(0)
	if handled, _, _ := p.totals(); handled != 8 {
		t.Errorf("handled %d of 8", handled)
	}
}
