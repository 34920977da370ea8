package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// startEcho starts a pool whose workers answer each message with itself.
func startEcho(t *testing.T, flags ...string) (p harness.Pool, url string) {
	t.Helper()
	url = harness.UnixURL(t, "?reply=always")
	p = harness.PoolOf(harness.StartSDK(t, url, flags...))
	p.AwaitPool()
	return p, url
}

// send writes messages in the background. The channel yields the error.
func send(nc net.Conn, from, to int) <-chan error {
	sent := make(chan error, 1) // 1: the test may have ended
	go func() {                 // ends with the connection
		for i := from; i < to; i++ {
			if err := harness.WriteFrame(nc, fmt.Sprint("m", i)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	return sent
}

// expectReplies reads the replies of messages that workers answer with themselves.
func expectReplies(t *testing.T, nc net.Conn, in io.Reader, from, to int) {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(testkit.Patience)) // otherwise the read fails
	for i := from; i < to; i++ {
		reply, failed, err := harness.ReadFrame(in)
		if want := fmt.Sprint("m", i); err != nil || failed || string(reply) != want {
			t.Fatalf("reply %d is %q, failed %v, %v", i, reply, failed, err)
		}
	}
}

func awaitQueue(p harness.Pool, messages int) {
	p.T.Helper()
	p.AwaitDocument(fmt.Sprintf("%d messages wait", messages), func(d *harness.Document) bool { return d.Queue.Messages == messages })
}

// The way to replace a program: pause, deploy, reload, resume. A client sends all the
// time, also more than the queue holds, and gets each reply once, in order.
func TestPauseDeployResume(t *testing.T) {
	const room, all = 16, 400
	p, url := startEcho(t, "-n", "2", "--queue-messages", fmt.Sprint(room), "--http", "127.0.0.1:0")
	nc := harness.Dial(t, url)
	in := bufio.NewReader(nc)
	sent := send(nc, 0, 50)
	expectReplies(t, nc, in, 0, 50)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}

	p.Inside("pause").Says(t, 0, "process 1 is paused\n")
	p.ExpectLog("paused, handing out no messages", func(r harness.Record) bool { return strings.HasPrefix(r.Why, "poolinit pause (uid 0, pid ") })
	p.Inside("pause").Says(t, 0, "process 1 is paused\n") // twice is no error
	sent = send(nc, 50, all)
	awaitQueue(p, room)
	p.Inside("health", "--ready").Says(t, 1, "poolinit: not ready: the pool is paused\n")
	p.Inside("health").Says(t, 0, "ok\n")
	web := harness.HTTPAddress(p.Process)
	wantPage(t, web+"/readyz", http.StatusServiceUnavailable, "the pool is paused\n")
	wantPage(t, web+"/livez", http.StatusOK, "ok\n")
	wantPage(t, web+"/metrics", http.StatusOK, "\npoolinit_paused 1\n")
	p.Inside("status").Says(t, 0, "not ready: the pool is paused", "queue: 16 of 16 messages", "; in flight 0; paused\n")

	p.Inside("reload", "--wait").Says(t, 0, "reload done in ")
	if d := p.Document(); !d.Queue.Paused || d.Queue.Messages != room || d.Ready {
		t.Errorf("a reload ends the pause: %+v", d)
	}

	p.Inside("resume").Says(t, 0, "process 1 hands out messages\n")
	p.ExpectLog("resumed, handing out messages", func(r harness.Record) bool { return strings.HasPrefix(r.Why, "poolinit resume (uid 0, pid ") })
	expectReplies(t, nc, in, 50, all)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	p.Inside("health", "--ready").Says(t, 0, "ok\n")
	nc.Close()
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	if handled, spooled, lost := p.Totals(); handled != all || spooled != 0 || lost != 0 {
		t.Errorf("handled %d of %d, spooled %d, lost %d", handled, all, spooled, lost)
	}
}

func wantPage(t *testing.T, url string, code int, words string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != code || !strings.Contains(string(text), words) {
		t.Errorf("%s: %d, %v, %.500s", url, resp.StatusCode, err, text)
	}
}

// A stop ends a pause: its drain delivers what waits. A pool that stops is not paused
// any more.
func TestStopEndsAPause(t *testing.T) {
	p, url := startEcho(t)
	p.Inside("pause").Says(t, 0, "process 1 is paused\n")
	nc := harness.Dial(t, url)
	sent := send(nc, 0, 20)
	awaitQueue(p, 20)
	p.Signal(syscall.SIGTERM)
	expectReplies(t, nc, nc, 0, 20)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	// Stopped already, or about to be: no pause either way.
	if got := p.Inside("pause"); got.Code == 0 {
		t.Errorf("%+v", got)
	}
	nc.Close()
	p.ExpectExit(0)
	if handled, spooled, lost := p.Totals(); handled != 20 || spooled != 0 || lost != 0 {
		t.Errorf("handled %d, spooled %d, lost %d", handled, spooled, lost)
	}
}

// What waits is listed without its body, and can be given up.
func TestQueueCommand(t *testing.T) {
	p, url := startEcho(t)
	p.Inside("queue").Says(t, 0, "no message waits\n")
	p.Inside("pause").Says(t, 0, "process 1 is paused\n")
	nc := harness.Dial(t, url)
	<-send(nc, 0, 3)
	awaitQueue(p, 3)

	table := p.Inside("queue")
	table.Says(t, 0, "ID  SOURCE", "ATTEMPTS  DUE\n", " unix://", "  now\n")
	if strings.Contains(table.Stdout, "m1") || strings.Count(table.Stdout, "\n") != 4 {
		t.Errorf("%s", table.Stdout)
	}
	p.Inside("queue", "list", "--limit", "1").Says(t, 0, "\n... and 2 more\n")
	var list struct {
		Messages []struct{ ID, Bytes int }
		More     int
	}
	raw := p.Inside("queue", "--json").Stdout
	if err := json.Unmarshal([]byte(raw), &list); err != nil || len(list.Messages) != 3 || list.Messages[1].Bytes != 2 {
		t.Fatalf("%v: %s", err, raw)
	}

	second := fmt.Sprint(list.Messages[1].ID)
	p.Inside("queue", "drop", second).Says(t, 0, "dropped 1 of 1 messages\n")
	p.ExpectLog("waiting messages dropped", func(r harness.Record) bool { return strings.HasPrefix(r.Why, "poolinit queue drop (uid 0, pid ") })
	p.ExpectLog("message given up", func(r harness.Record) bool { return r.Why == "dropped by an operator" })
	p.Inside("queue", "drop", second, fmt.Sprint(list.Messages[2].ID)).Says(t, 1, "dropped 1 of 2 messages\n", "poolinit: 1 of these messages do not wait: ")
	awaitQueue(p, 1)

	p.Inside("resume").Says(t, 0, "process 1 hands out messages\n")
	expectReplies(t, nc, nc, 0, 1)
	for range 2 {
		if reply, failed, err := harness.ReadFrame(nc); err != nil || !failed || string(reply) != "given-up: dropped by an operator" {
			t.Errorf("%q, failed %v, %v", reply, failed, err)
		}
	}
	p.Inside("queue", "drop", fmt.Sprint(list.Messages[0].ID)).Says(t, 1, "dropped 0 of 1 messages\n")
}

// Where workers get no messages there is nothing to pause.
func TestPauseWithoutMessages(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "--", "obey")
	p.AwaitWorkers(1)
	for _, command := range [][]string{{"pause"}, {"resume"}, {"queue"}, {"queue", "drop", "7"}} {
		p.Inside(command...).Says(t, 1, "poolinit: the pool refuses: the workers get no messages: there is no --listen\n")
	}
}

// Only the pool's user and root may.
func TestPauseByAStranger(t *testing.T) {
	p, _ := startEcho(t)
	for _, command := range [][]string{{"pause"}, {"scale", "2"}, {"queue"}, {"queue", "drop", "1"}} {
		p.InsideAs(65534, command...).Says(t, 1, "only that one and root may ask it")
	}
	if d := p.Document(); d.Queue.Paused {
		t.Error("it is paused")
	}
}

// scale starts and stops workers while a client sends, and loses nothing.
func TestScaleCommand(t *testing.T) {
	p, url := startEcho(t, "-n", "2")
	nc := harness.Dial(t, url)
	in := bufio.NewReader(nc)
	const each = 100
	for round, n := range []int{4, 1, 3} {
		sent := send(nc, round*each, (round+1)*each)
		p.Inside("scale", fmt.Sprint(n)).Says(t, 0, fmt.Sprintf("process 1 scales to %d workers\n", n))
		expectReplies(t, nc, in, round*each, (round+1)*each)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		p.AwaitDocument(fmt.Sprintf("%d workers are ready", n), func(d *harness.Document) bool {
			return d.Ready && d.Wanted == n && len(d.Workers) == n && d.Workers[n-1].State == "ready"
		})
	}
	p.ExpectLog("number of workers set", func(r harness.Record) bool { return strings.HasPrefix(r.Why, "poolinit scale (uid 0, pid ") })
	p.Inside("reload", "--wait").Says(t, 0, "3 of 3 workers replaced\n")
	nc.Close()
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	if handled, spooled, lost := p.Totals(); handled != 3*each || spooled != 0 || lost != 0 {
		t.Errorf("handled %d, spooled %d, lost %d", handled, spooled, lost)
	}
}
