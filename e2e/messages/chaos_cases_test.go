package messages

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// A chaosCase is a pool, its clients, and what happens to them.
type chaosCase struct {
	name     string
	child    string // the worker; none: the Go SDK's, which keeps no book
	flags    []string
	attempts int
	free     int  // deliveries that need not be attempts
	tagged   bool // the clients use tagged frames
	kills    bool // workers are killed
	operated bool // the pool is paused, resumed, and scaled up and down
	strict   bool // no innocent message is given up
	mix      mix
}

// In the strict cases with kills a message that nothing is wrong with has 50
// attempts: each kill of a worker that has one message alone is one. In those with
// poison nobody else kills, and --give-up has its default.
var chaosCases = []chaosCase{
	{name: "attempts=1", child: chaosWorker, attempts: 1, kills: true, mix: mix{hang: 2000, fail: 105},
		flags: []string{"--message-timeout", "200ms", "--give-up", "0"}},
	{name: "attempts=3", child: chaosWorker, attempts: 3, kills: true, mix: mix{hang: 2000, fail: 105},
		flags: []string{"--message-timeout", "200ms", "--give-up", "0", "--retry-delay", "1ms", "--min-ready", "200ms"}},
	{name: "concurrent", child: chaosCrew, attempts: 50, free: 3, kills: true, operated: true, strict: true, mix: mix{fail: 300},
		flags: []string{"--deliver", "tagged", "--concurrency", "16", "--retry-delay", "1ms", "--retry-delay-max", "2ms", "--give-up", "0"}},
	{name: "concurrent, tagged clients", tagged: true, attempts: 50, kills: true, operated: true, strict: true, mix: mix{fail: 300},
		flags: []string{"--deliver", "tagged", "--concurrency", "16", "--retry-delay", "1ms", "--retry-delay-max", "2ms", "--give-up", "0"}},
	{name: "poison", child: chaosWorker, attempts: 3, operated: true, strict: true, mix: mix{crash: 300, fail: 300},
		flags: []string{"--retry-delay", "1ms"}},
	{name: "poison, concurrent", child: chaosCrew, attempts: 3, free: 3, operated: true, strict: true, mix: mix{hang: 10000, crash: 300, fail: 300},
		flags: []string{"--deliver", "tagged", "--concurrency", "16", "--retry-delay", "1ms", "--message-timeout", "1s", "--min-ready", "500ms"}},
	{name: "poison, concurrent, tagged clients", child: chaosCrew, tagged: true, attempts: 3, free: 3, operated: true, strict: true, mix: mix{hang: 10000, crash: 300, fail: 300},
		flags: []string{"--deliver", "tagged", "--concurrency", "16", "--retry-delay", "1ms", "--message-timeout", "1s", "--min-ready", "500ms"}},
}

// operations are what an operator does, again and again.
var operations = [][]string{{"pause"}, {"resume"}, {"scale", "8"}, {"pause"}, {"resume"}, {"scale", "1"}, {"scale", "4"}}

// A mix says which messages are not innocent: one of so many each. 0 is none.
type mix struct{ hang, crash, fail int }

// mood is what a message asks of its worker.
func (m mix) mood() string {
	switch {
	case m.hang > 0 && rand.IntN(m.hang) == 0:
		return "hang"
	case m.crash > 0 && rand.IntN(m.crash) == 0:
		return "crash"
	case m.fail > 0 && rand.IntN(m.fail) == 0:
		return "fail"
	}
	return "ok"
}

func moodOf(body string) string {
	mood, _, _ := strings.Cut(body, " ")
	return mood
}

// blamed judges the failure that a message was answered with.
func (y *tally) blamed(want, got string) {
	mood := moodOf(want)
	givenUp := strings.HasPrefix(got, fmt.Sprintf("given-up: after %d attempts: ", y.attempts))
	if y.strict && (mood == "ok" || !givenUp) {
		y.complain("%q was answered %q", want, got)
	}
	if mood == "crash" {
		y.poisons.Add(1)
		y.mu.Lock()
		y.bad[want] = true
		y.mu.Unlock()
	}
}

// chaosCrew is chaosWorker for tagged frames: it handles messages at the same
// time, for up to 2 ms each, and one that hangs for ever.
var chaosCrew = harness.Child("chaosCrew", func(args []string) int {
	book, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	messages := os.NewFile(3, "messages")
	in := bufio.NewReader(messages)
	for {
		b, err := readTrouble(in)
		if err != nil {
			return 0
		}
		tag, body := cutTag(b)
		if binary.BigEndian.Uint64(tag) == 0 {
			continue
		}
		go func() { // ends with its answer, or with the process
			fmt.Fprintf(book, "%s\n", body)
			time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
			switch moodOf(string(body)) {
			case "crash":
				os.Exit(3)
			case "hang":
			case "fail":
				_, _ = messages.Write(taggedFrame(1<<31, tag, "broken: on purpose"))
			default:
				_, _ = messages.Write(taggedFrame(0, tag, string(body)))
			}
		}()
	}
})

func taggedFrame(bits uint32, tag []byte, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, bits|uint32(len(tag)+len(body)))
	return append(append(b, tag...), body...)
}

// A taggedChaos is a client with tagged frames. It keeps some messages open on one
// connection, until the pool stops.
type taggedChaos struct {
	*tally
	id              int
	nc              net.Conn
	room            chan struct{} // holds one for each open message: as many as may be open
	ended           chan struct{} // closed when there are no more answers
	stopped, silent atomic.Bool

	mu   sync.Mutex
	open map[uint64]string
}

// taggedClient is client with tagged frames: answers come in any order.
func (y *tally) taggedClient(t *testing.T, addr string, id int) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		y.complain("client %d: %v", id, err)
		return
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(chaosTime(t) + 2*testkit.Patience))
	c := &taggedChaos{tally: y, id: id, nc: nc, room: make(chan struct{}, 32), ended: make(chan struct{}), open: make(map[uint64]string)}
	var writer sync.WaitGroup
	writer.Go(c.send)
	err = c.receive()
	close(c.ended)
	c.stopped.Store(true)
	writer.Wait()
	switch n := len(c.open); {
	case c.silent.Load():
		y.late.Add(int64(n))
	case n > 0 || !errors.Is(err, io.EOF):
		y.unanswered.Add(int64(n))
		y.complain("client %d: %d are not answered: %v", id, n, err)
	}
}

func (c *taggedChaos) send() {
	defer func() { _ = c.nc.(*net.TCPConn).CloseWrite() }()
	_, _ = c.nc.Write(taggedFrame(0, make([]byte, 8), `{"hello":1}`)) // an error is the next write's, too
	last := time.Now()
	for tag := uint64(1); !c.stopped.Load(); tag++ {
		select {
		case c.room <- struct{}{}:
		case <-c.ended:
			return
		}
		body := fmt.Sprintf("%s %d-%d", c.mix.mood(), c.id, tag)
		c.mu.Lock()
		c.open[tag] = body
		c.mu.Unlock()
		c.sent.Add(1)
		if c.stop.Load() && time.Since(last) > 200*time.Millisecond { // as in client
			c.silent.Store(true)
		}
		last = time.Now()
		if _, err := c.nc.Write(taggedFrame(0, binary.BigEndian.AppendUint64(nil, tag), body)); err != nil {
			return
		}
	}
}

// receive reads answers until the connection ends.
func (c *taggedChaos) receive() error {
	in := bufio.NewReader(c.nc)
	for hello := true; ; hello = false {
		head, err := in.Peek(4)
		if err != nil {
			return err
		}
		failed := head[0]>>7 == 1
		b, err := readTrouble(in)
		if err != nil {
			return err
		}
		tag := binary.BigEndian.Uint64(b)
		if hello && tag == 0 && !failed {
			continue
		}
		if want, ok := c.take(tag); ok {
			c.answered(want, string(b[8:]), failed, &c.stopped)
		} else {
			c.complain("tag %d, which is not open, was answered %q", tag, b[8:])
		}
	}
}

// take removes an open message. If it is not there, the answer is one too many.
func (c *taggedChaos) take(tag uint64) (body string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if body, ok = c.open[tag]; ok {
		delete(c.open, tag)
		<-c.room
	}
	return body, ok
}
