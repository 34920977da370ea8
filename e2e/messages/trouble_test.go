package messages

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// troubleWorker does what the words of a message say: "sleep=300ms", "die", "fail",
// "exit". Worker 0 fails everything if E2E_BROKEN is set. With tagged frames it
// handles messages at the same time.
var troubleWorker = harness.Child("troubleWorker", func([]string) int {
	fd, err := strconv.Atoi(os.Getenv("POOLINIT_FD"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var (
		messages = os.NewFile(uintptr(fd), "messages")
		in       = bufio.NewReaderSize(messages, 16) // it reads no more ahead than it must
		tagged   = os.Getenv("POOLINIT_DELIVER") == "tagged"
		broken   = os.Getenv("E2E_BROKEN") != "" && os.Getenv("POOLINIT_WORKER_ID") == "0"
		mu       sync.Mutex
	)
	for {
		var tag []byte
		body, err := readTrouble(in)
		if err != nil {
			return 0
		}
		if tagged {
			if tag, body = cutTag(body); binary.BigEndian.Uint64(tag) == 0 {
				continue
			}
		}
		handle := func() {
			answer := append(tag, troubled(string(body), broken)...)
			mu.Lock()
			defer mu.Unlock()
			n := uint32(len(answer))
			if strings.HasPrefix(string(answer[len(tag):]), "error: ") {
				n |= 1 << 31
			}
			_, _ = messages.Write(append(binary.BigEndian.AppendUint32(nil, n), answer...))
			if strings.Contains(string(body), "exit") {
				os.Exit(0)
			}
		}
		if tagged {
			go handle()
		} else {
			handle()
		}
	}
})

// readTrouble reads what follows the length of a frame, tagged or not.
func readTrouble(r io.Reader) ([]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(h[:])&^(3<<30))
	_, err := io.ReadFull(r, b)
	return b, err
}

// cutTag takes what follows the length of a tagged frame apart. All but control has
// meta.
func cutTag(b []byte) (tag, body []byte) {
	tag, b = b[:8:8], b[8:]
	if binary.BigEndian.Uint64(tag) == 0 {
		return tag, b
	}
	meta := binary.BigEndian.Uint32(b)
	return tag, b[4+meta:]
}

func troubled(body string, broken bool) string {
	for _, word := range strings.Fields(body) {
		switch d, _ := time.ParseDuration(strings.TrimPrefix(word, "sleep=")); {
		case broken, word == "fail":
			return "error: on purpose"
		case d > 0:
			time.Sleep(d)
		case word == "die":
			time.Sleep(50 * time.Millisecond) // the others are in hand by then
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	return body
}

// A troublePool is a pool of such workers, and its first client.
type troublePool struct {
	addr string
	troubleClient
}

type troubleClient struct {
	t  testing.TB
	nc net.Conn
	in *bufio.Reader
}

func startTrouble(t *testing.T, env []string, flags ...string) *troublePool {
	t.Helper()
	p := &troublePool{addr: harness.FreePort(t)}
	harness.StartSource(t, harness.Program{Child: troubleWorker, Env: env}, "tcp://"+p.addr+"?reply=always", append(flags, "--", harness.Self(t))...)
	p.t = t
	p.troubleClient = p.dial()
	return p
}

func (p *troublePool) dial() troubleClient {
	p.t.Helper()
	nc, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
	return troubleClient{p.t, nc, bufio.NewReader(nc)}
}

// ask sends messages, all at once, and returns the answers; a failure with a "!".
func (c troubleClient) ask(bodies ...string) (answers []string) {
	c.t.Helper()
	c.send(bodies...)
	for range bodies {
		answers = append(answers, c.next())
	}
	return answers
}

func (c troubleClient) send(bodies ...string) {
	c.t.Helper()
	var all strings.Builder
	for _, body := range bodies {
		_ = harness.WriteFrame(&all, body)
	}
	if _, err := io.WriteString(c.nc, all.String()); err != nil {
		c.t.Fatal(err)
	}
}

func (c troubleClient) next() string {
	c.t.Helper()
	body, failed, err := harness.ReadFrame(c.in)
	if err != nil {
		c.t.Fatal(err)
	}
	if failed {
		return "!" + string(body)
	}
	return string(body)
}

// numbered returns n messages with these words.
func numbered(n int, words string) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint(words, " ", i))
	}
	return all
}

func (c troubleClient) wantEcho(bodies []string) {
	c.t.Helper()
	for i, answer := range c.ask(bodies...) {
		if answer != bodies[i] {
			c.t.Errorf("%q was answered %q", bodies[i], answer)
		}
	}
}

// A worker that lives for one message leaves the next one unread, which is not an
// attempt: with --attempts 1, too, all are handled.
func TestTroubleWorkersOfOneMessage(t *testing.T) {
	for _, n := range []string{"1", "3"} {
		p := startTrouble(t, nil, "-n", n, "--attempts", "1", "--restart-delay", "1ms")
		p.wantEcho(numbered(30, "exit"))
	}
}

// One of four workers fails at once: what it fails goes to the others.
func TestTroubleBrokenWorker(t *testing.T) {
	p := startTrouble(t, []string{"E2E_BROKEN=1"}, "-n", "4")
	p.wantEcho(numbered(200, "sleep=2ms"))
}

// One poison among messages that the same worker has in hand: these are handled,
// and the poison alone is given up.
func TestTroublePoisonAmongInnocents(t *testing.T) {
	p := startTrouble(t, nil, "--deliver", "tagged", "--concurrency", "16", "--attempts", "2", "--restart-delay", "1ms", "--give-up", "0")
	bodies := append(numbered(4, "sleep=150ms"), append([]string{"die"}, numbered(4, "sleep=140ms")...)...)
	for i, answer := range p.ask(bodies...) {
		if isPoison := bodies[i] == "die"; isPoison != strings.HasPrefix(answer, "!given-up: after 2 attempts: ") || !isPoison && answer != bodies[i] {
			t.Errorf("%q was answered %q", bodies[i], answer)
		}
	}
}

// A worker that handles ten at a time needs not much longer than the slow ones take.
func TestTroubleConcurrency(t *testing.T) {
	p := startTrouble(t, nil, "--deliver", "tagged", "--concurrency", "10")
	p.wantEcho([]string{"warm"})
	began := time.Now()
	var all []string
	for i := range 100 {
		words := "sleep=1ms"
		if i%5 == 0 {
			words = "sleep=200ms"
		}
		all = append(all, fmt.Sprint(words, " ", i))
	}
	p.wantEcho(all)
	if took := time.Since(began); took > 2*time.Second { // one by one it would be 4 s
		t.Errorf("it took %s", took)
	}
}

// Nothing goes behind a message that has been in hand for long, however fast the
// worker was before.
func TestTroubleStalledWorker(t *testing.T) {
	p := startTrouble(t, nil, "-n", "2")
	for range 50 {
		p.wantEcho(numbered(200, ""))
	}
	slow := p.dial()
	slow.send("sleep=4s")
	sent := time.Now()
	testkit.Eventually(t, "the slow message has been in hand for a while", func() (any, bool) { return nil, time.Since(sent) > 100*time.Millisecond })
	began := time.Now()
	var clients sync.WaitGroup
	for range 20 {
		c := p.dial()
		clients.Go(func() {
			for i := range 10 {
				if got := c.ask(fmt.Sprint(i)); got[0] != fmt.Sprint(i) {
					t.Errorf("answered %q", got)
				}
			}
		})
	}
	clients.Wait()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the others took %s", took)
	}
	if got := slow.next(); got != "sleep=4s" {
		t.Errorf("answered %q", got)
	}
}

// Beside a client that fills the queue another one waits for a few messages, not for
// all.
func TestTroubleFlood(t *testing.T) {
	p := startTrouble(t, nil, "-n", "2", "--queue-messages", "200")
	began := time.Now()
	flood := p.dial()
	ended := make(chan bool)
	go func() { // ends with the connection
		defer close(ended)
		flood.send(numbered(2000, "sleep=5ms")...)
	}()
	testkit.Eventually(t, "the queue is full", func() (any, bool) {
		got := p.ask("")
		return got, time.Since(began) > 100*time.Millisecond
	})
	for range 5 {
		began := time.Now()
		p.ask("sleep=5ms")
		if took := time.Since(began); took > 400*time.Millisecond { // 200 messages of 5 ms by two workers are 500 ms
			t.Errorf("it took %s", took)
		}
	}
	flood.nc.Close()
	<-ended
}
