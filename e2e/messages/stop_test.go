package messages

import (
	"bufio"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// A stop waits for clients that go on to send, until it is hurried.
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
	url := harness.UnixURL(t, "?reply=always")
	p := harness.PoolOf(harness.StartSDK(t, url, "--stop-timeout", "10m"))
	var stopping atomic.Int64
	over := make(chan struct{})
	go func() { // ends with the connection
		defer close(over)
		nc := harness.Dial(t, url)
		in := bufio.NewReader(nc)
		for {
			if harness.WriteFrame(nc, "more") != nil {
				return
			}
			reply, failed, err := harness.ReadFrame(in)
			if err != nil {
				return
			}
			if failed && strings.HasPrefix(string(reply), "stopping: ") {
				stopping.Add(1)
			}
			time.Sleep(10 * time.Millisecond) // between two messages
		}
	}()
	p.Stdout.Expect(t, "message: more\n")
	p.Signal(syscall.SIGTERM)
	p.ExpectLog("worker exited", nil)
	ended := stopping.Load()
	testkit.Eventually(t, "the client is still served, or gone", func() (any, bool) {
		return stopping.Load(), stopping.Load() > ended+10 || testkit.IsDone(over)
	})
	if testkit.IsDone(over) {
		return false
	}
	p.StopNow()
	p.ExpectExit(0)
	<-over
	return p.Count("no longer waiting for clients") == 1
}

// A client that does not read its replies, and has said that it sends no more,
// does not hold a stop up.
func TestStopDoesNotWaitForDeafClients(t *testing.T) {
	t.Parallel()
	url := harness.UnixURL(t, "?reply=always")
	p := harness.PoolOf(harness.StartSource(t, harness.Program{Child: chaosWorker}, url, "--stop-timeout", "10m", "--", harness.Self(t), os.DevNull))
	nc := harness.Dial(t, url)
	body := strings.Repeat("x", 100_000)
	for range 8 { // more than the socket holds, and less than would make poolinit stop reading
		if err := harness.WriteFrame(nc, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	if handled, _, _ := p.Totals(); handled != 8 {
		t.Errorf("handled %d of 8", handled)
	}
}
