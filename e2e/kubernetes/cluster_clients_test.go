//go:build k8s

package kubernetes

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// A tally is what became of the messages of clients of a kind.
type tally struct {
	mu         sync.Mutex
	kind       string
	answered   int
	again      int // answered "stopping", and sent again
	refused    int // no connection: nothing was sent
	unanswered int // sent, and the connection ended without an answer
	failed     map[string]int
	slowest    time.Duration
	pods       map[string]int
	newest     map[string]time.Time // by pod: when it last answered the first message of a connection
}

func newTally(kind string) *tally {
	return &tally{kind: kind, failed: map[string]int{}, pods: map[string]int{}, newest: map[string]time.Time{}}
}

func (y *tally) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()
	return fmt.Sprintf("%-28s answered %6d, stopping (sent again) %4d, not connected %4d, unanswered %3d, failed %v, slowest %3d ms, pods %d",
		y.kind, y.answered, y.again, y.refused, y.unanswered, y.failed, y.slowest.Milliseconds(), len(y.pods))
}

// reply counts an answer. It returns false if the message is to be sent again.
func (y *tally) reply(body []byte, failure, first bool, message string, began time.Time) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	if took := time.Since(began); took > y.slowest {
		y.slowest = took
	}
	if failure {
		code, _, _ := strings.Cut(string(body), ":")
		if code == "stopping" {
			y.again++
			return false
		}
		y.failed[code]++
		return true
	}
	pod, rest, _ := strings.Cut(string(body), " ")
	if rest != message {
		y.failed["another's reply"]++
		return true
	}
	y.answered++
	y.pods[pod]++
	if first {
		y.newest[pod] = time.Now()
	}
	return true
}

func (y *tally) count(n *int, by int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	*n += by
}

func appendFrame(b []byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

func readFrame(r io.Reader) (body []byte, failure bool, err error) {
	var header [4]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, false, err
	}
	n := binary.BigEndian.Uint32(header[:])
	body = make([]byte, n&^(1<<31))
	_, err = io.ReadFull(r, body)
	return body, n>>31 == 1, err
}

const (
	dialTime  = 5 * time.Second
	replyTime = time.Minute
)

func dial(address string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", address, dialTime)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(replyTime))
	}
	return conn, err
}

// A load is clients that send until it is ended.
type load struct {
	stop    chan struct{}
	clients sync.WaitGroup
	tallies []*tally
}

// start begins a load of clients with one connection for many messages, some of
// which are on the way at a time; with one that is mostly silent; and with a
// connection for each message.
func start(t *testing.T, address string) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	kept, seldom, single := newTally("one connection"), newTally("one connection, seldom"), newTally("a connection a message")
	l.tallies = []*tally{kept, seldom, single}
	for i := range 4 {
		l.clients.Go(func() { l.keep(kept, address, i, 8, 10*time.Millisecond) })
		l.clients.Go(func() { l.keep(seldom, address, i, 1, 700*time.Millisecond) })
		l.clients.Go(func() { l.single(single, address, i, 10*time.Millisecond) })
	}
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) end() {
	if !l.isOver() {
		close(l.stop)
	}
	l.clients.Wait()
}

func (l *load) isOver() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// pause returns false when the load ends.
func (l *load) pause(d time.Duration) bool {
	select {
	case <-l.stop:
		return false
	case <-time.After(d):
		return true
	}
}

// keep sends messages over one connection, so many at a time, and connects again
// when that is at its end.
func (l *load) keep(y *tally, address string, client, batch int, pace time.Duration) {
	var todo []string
	n := 0
	for l.pause(pace) {
		conn, err := dial(address)
		if err != nil {
			y.count(&y.refused, 1)
			continue
		}
		in := bufio.NewReader(conn)
		for first, over := true, false; !over; first = false {
			for len(todo) < batch {
				todo = append(todo, fmt.Sprintf("%d-%d", client, n))
				n++
			}
			todo, over = exchange(y, conn, in, todo, first)
			if batch == 1 { // it looks what comes while it is silent
				over = over || hasEnded(conn, in, pace) || l.isOver()
			} else {
				over = over || !l.pause(pace)
			}
		}
		conn.Close()
	}
}

// hasEnded waits, and looks whether the server ends the connection meanwhile, as
// a client that is silent for long should.
func hasEnded(conn net.Conn, in *bufio.Reader, wait time.Duration) bool {
	_ = conn.SetReadDeadline(time.Now().Add(wait))
	_, err := in.Peek(1)
	_ = conn.SetDeadline(time.Now().Add(replyTime))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// exchange sends messages and reads their answers. It returns those that are to
// be sent again, and whether that needs another connection.
func exchange(y *tally, conn net.Conn, in io.Reader, messages []string, first bool) (again []string, over bool) {
	began := time.Now()
	_ = conn.SetDeadline(began.Add(replyTime))
	var out []byte
	for _, m := range messages {
		out = appendFrame(out, m)
	}
	if _, err := conn.Write(out); err != nil {
		y.count(&y.unanswered, len(messages))
		return nil, true
	}
	for i, m := range messages {
		body, failure, err := readFrame(in)
		if err != nil {
			y.count(&y.unanswered, len(messages)-i)
			return again, true
		}
		if !y.reply(body, failure, first && i == 0, m, began) {
			again = append(again, m)
		}
	}
	return again, len(again) > 0
}

// single sends each message over a connection of its own.
func (l *load) single(y *tally, address string, client int, pace time.Duration) {
	for n := 0; l.pause(pace); n++ {
		for again := []string{fmt.Sprintf("%d-%d", client, n)}; len(again) > 0; {
			conn, err := dial(address)
			if err != nil {
				y.count(&y.refused, 1)
				if !l.pause(pace) {
					return
				}
				continue
			}
			again, _ = exchange(y, conn, conn, again, true)
			conn.Close()
		}
	}
}

// A sender is poolinit send, with lines that come one after the other.
type sender struct {
	t      *testing.T
	cmd    *exec.Cmd
	stop   chan struct{}
	feed   sync.WaitGroup
	sent   int
	out    bytes.Buffer
	stderr bytes.Buffer
}

func startSend(t *testing.T, address string) *sender {
	t.Helper()
	s := &sender{t: t, stop: make(chan struct{}), cmd: exec.Command(program, "send", "--reply", "tcp://"+address)}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.stderr
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.feed.Go(func() {
		defer in.Close()
		for {
			select {
			case <-s.stop:
				return
			case <-time.After(5 * time.Millisecond):
				if _, err := fmt.Fprintf(in, "line %d\n", s.sent); err != nil {
					return
				}
				s.sent++
			}
		}
	})
	return s
}

// end checks that every line has had its reply.
func (s *sender) end() {
	s.t.Helper()
	close(s.stop)
	s.feed.Wait()
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("poolinit send: %v\n%s", err, s.stderr.String())
	}
	n := 0
	for line := range strings.Lines(s.out.String()) {
		if _, rest, _ := strings.Cut(line, " "); rest != fmt.Sprintf("line %d\n", n) {
			s.t.Errorf("reply %d is %q", n, line)
		}
		n++
	}
	s.t.Logf("poolinit send --reply: %d lines, %d replies; stderr %q", s.sent, n, s.stderr.String())
	if n != s.sent {
		s.t.Errorf("%d lines, %d replies", s.sent, n)
	}
}
