package ipc

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
)

func TestEcho(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	w.worker(answering(echo))
	c := w.dial()
	c.send("a", "", strings.Repeat("x", 100_000), "d")
	c.want("a", "", strings.Repeat("x", 100_000), "d")
}

func TestReplyModes(t *testing.T) {
	answer := func(b []byte) []byte {
		switch string(b) {
		case "fail":
			return frame.AppendFailure(nil, frame.Refused, "no")
		case "empty":
			return frame.Append(nil, nil)
		}
		return echo(b)
	}
	for mode, want := range map[string][]string{
		"auto":   {"a", "!refused: no", "z", "error EOF"},
		"always": {"a", "", "!refused: no", "z", "error EOF"},
		"never":  {"error EOF"},
	} {
		w := newWorld(t, "?reply="+mode, nil)
		w.worker(answering(answer))
		c := w.dial()
		c.send("a", "empty", "fail", "z")
		c.Conn.(*net.TCPConn).CloseWrite()
		c.want(want...)
	}
}

func TestOrderAcrossWorkers(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	for range 4 {
		w.worker(answering(echo))
	}
	c := w.dial()
	const n = 5000
	go func() { // ends when all is written
		for i := range n {
			c.Write(frame.Append(nil, fmt.Append(nil, i)))
		}
	}()
	for i := range n {
		if got := c.next(); got != fmt.Sprint(i) {
			t.Fatalf("reply %d is %q", i, got)
		}
	}
}

func TestWorkerDies(t *testing.T) {
	for attempts, want := range map[int]string{1: "!given-up: the worker died", 3: "b"} {
		w := newWorld(t, "?reply=always", func(c *Config) { c.Attempts = attempts })
		dying := make(chan *Channel, 1)
		first := w.worker(func(sock net.Conn) {
			readFrame(sock)
			(<-dying).Close("the worker died")
		})
		c := w.dial()
		c.send("b")
		eventually(t, "the message is with the worker", func() bool { _, _, n := w.q.Depth(); return n == 1 })
		dying <- first
		if attempts > 1 {
			w.worker(answering(echo))
		}
		c.want(want)
	}
}

// What the pool did to a worker is no attempt of a message's, but where there is only
// one: whether the worker had begun, nobody knows.
func TestPoolEndsTheWorker(t *testing.T) {
	for attempts, want := range map[int]string{2: "b", 1: "!given-up: a reload"} {
		w := newWorld(t, "?reply=always", func(c *Config) { c.Attempts = attempts })
		c := w.dial()
		c.send("b")
		for range 3 {
			eventually(t, "the message waits", func() bool { n, _, _ := w.q.Depth(); return n == 1 })
			worker := w.worker(func(sock net.Conn) {
				readFrame(sock)
				readFrame(sock) // until the channel is closed
			})
			eventually(t, "the message is with the worker", func() bool { _, _, n := w.q.Depth(); return n == 1 })
			worker.Finish()
			worker.Spare()
			worker.Close("a reload")
			if attempts == 1 {
				break
			}
		}
		w.worker(answering(echo))
		c.want(want)
	}
}

// The oldest unanswered message alone is charged with a worker's death.
func TestOnlyTheHeadIsCharged(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Attempts = 1; c.Window = 3 })
	dying := make(chan *Channel, 1)
	first := w.worker(func(sock net.Conn) {
		for range 3 {
			readFrame(sock)
		}
		(<-dying).Close("the worker died")
	})
	c := w.dial()
	c.send("a", "b", "c")
	dying <- first
	c.wantNext(t, "!given-up: the worker died")
	w.worker(answering(echo))
	c.want("b", "c")
}

func (c *client) wantNext(t *testing.T, want string) {
	t.Helper()
	if got := c.next(); got != want {
		t.Errorf("reply %q, want %q", got, want)
	}
}

// What a worker answered before it died counts, even if nobody had read it yet.
func TestAnswersOfTheDeadCount(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Window = 4; c.Attempts = 1 })
	dying := make(chan *Channel, 1)
	first := w.worker(func(sock net.Conn) {
		var out []byte
		for range 3 {
			body, _, _ := readFrame(sock)
			out = frame.Append(out, body)
		}
		sock.Write(out[:len(out)-2]) // the third answer is cut off
		(<-dying).Close("the worker died")
	})
	c := w.dial()
	c.send("a", "b", "c")
	dying <- first
	c.want("a", "b", "!given-up: the worker died")
}

// What a worker failed is delivered again before what is newer, to that worker as well.
func TestFailureComesBackFirst(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Window = 1 })
	c := w.dial()
	c.send("a", "F", "b", "c")
	eventually(t, "all wait", func() bool { n, _, _ := w.q.Depth(); return n == 4 })
	order, failed := "", 0
	w.worker(answering(func(b []byte) []byte {
		order += string(b)
		if string(b) == "F" && failed < 2 {
			failed++
			return frame.AppendFailure(nil, "busy", "not yet")
		}
		return echo(b)
	}))
	c.want("a", "F", "b", "c")
	if order != "aFFFbc" {
		t.Errorf("delivered in the order %s", order)
	}
}

func TestFailureOfTheWorker(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	tries := 0
	w.worker(answering(func(b []byte) []byte {
		tries++
		switch string(b) {
		case "final":
			return frame.AppendFailure(nil, frame.Refused, "not this one")
		case "third time":
			if tries%3 != 0 {
				return frame.AppendFailure(nil, "busy", "not yet")
			}
		case "never":
			return frame.AppendFailure(nil, "busy", "not yet")
		}
		return echo(b)
	}))
	c := w.dial()
	c.send("third time")
	c.want("third time")
	c.send("never")
	c.want("!given-up: after 3 attempts: busy: not yet")
	c.send("final")
	c.want("!refused: not this one")
}

func TestRedeliveryGoesToAnotherWorker(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Attempts = 2 })
	w.worker(answering(func([]byte) []byte { return frame.AppendFailure(nil, "broken", "this worker is ill") }))
	w.worker(answering(echo))
	c := w.dial()
	for i := range 100 {
		c.send(fmt.Sprint(i))
		c.want(fmt.Sprint(i))
	}
}

func TestMessageTimeout(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Attempts = 1; c.Timeout = 20 * time.Millisecond })
	hang := w.worker(func(sock net.Conn) {
		readFrame(sock)
		readFrame(sock) // until the channel is closed
	})
	c := w.dial()
	c.send("slow")
	select {
	case ask := <-hang.Asks():
		if ask != AskTimeout {
			t.Fatalf("asks for %s", ask)
		}
	case <-time.After(patience):
		t.Fatal("nobody noticed")
	}
	hang.Close("killed for it")
	c.want("!given-up: no answer within 20ms")
}

// One that was late, and was answered before the worker's end, is not why the next one
// fails.
func TestLateAnswer(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Attempts = 1; c.Window = 2; c.Timeout = 20 * time.Millisecond })
	late := make(chan bool)
	hang := w.worker(func(sock net.Conn) {
		body, _, _ := readFrame(sock)
		readFrame(sock)
		<-late
		sock.Write(echo(body))
		readFrame(sock) // until the channel is closed
	})
	c := w.dial()
	c.send("slow", "next")
	select {
	case <-hang.Asks():
	case <-time.After(patience):
		t.Fatal("nobody noticed")
	}
	close(late)
	c.want("slow")
	hang.Close("the worker died of SIGKILL")
	c.want("!given-up: the worker died of SIGKILL")
}

func TestWorkerMisbehaves(t *testing.T) {
	for name, tt := range map[string]struct {
		answer []byte
		ask    Ask
	}{
		"too often":  {frame.Append(frame.Append(nil, []byte("one")), []byte("two")), AskBroken},
		"too big":    {[]byte{0x7f, 0xff, 0xff, 0xff}, AskBroken},
		"garbage":    {[]byte("PHP Warning: something\n"), AskBroken},
		"half, gone": {[]byte{0, 0, 0, 9, 'h'}, AskDetach},
		"gone":       {nil, AskDetach},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "?reply=always", func(c *Config) { c.Attempts = 2 })
			bad := w.worker(func(sock net.Conn) {
				readFrame(sock)
				sock.Write(tt.answer)
				if tt.ask == AskBroken {
					readFrame(sock) // until it is closed
				}
			})
			c := w.dial()
			c.send("hello")
			select {
			case ask := <-bad.Asks():
				if ask != tt.ask {
					t.Errorf("asks for %s, want %s", ask, tt.ask)
				}
			case <-time.After(patience):
				t.Fatal("nobody noticed")
			}
			bad.Close("stopped for it")
			if name == "too often" {
				c.want("one")
				return
			}
			w.worker(answering(echo))
			c.want("hello")
		})
	}
}

// A worker that answers before it was asked anything.
func TestWorkerAnswersUnasked(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	bad := w.worker(func(sock net.Conn) {
		sock.Write(frame.Append(nil, []byte("hello")))
		readFrame(sock)
	})
	if ask := <-bad.Asks(); ask != AskBroken {
		t.Errorf("asks for %s", ask)
	}
	w.worker(answering(echo))
	c := w.dial()
	c.send("x")
	c.want("x")
}

func TestRecycling(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Recycle = 100 })
	first := w.worker(answering(echo))
	c := w.dial()
	for n := 1; ; n++ {
		c.send("x")
		c.want("x")
		if n > 112 {
			t.Fatal("never due")
		}
		select {
		case <-first.Asks():
			if n < 90 {
				t.Errorf("due after %d", n)
			}
			c.send("y") // it is fed until its successor is ready
			c.want("y")
			w.worker(answering(echo))
			<-first.Finish()
			c.send("z")
			c.want("z")
			return
		default:
		}
	}
}

// Each process has a share of its own, so that workers that began together are
// not replaced together.
func TestRecyclingIsSpread(t *testing.T) {
	const draws = 200
	w := newWorld(t, "", func(c *Config) { c.Recycle = 1000 })
	shares := map[string][]int{}
	for range draws {
		shares["around"] = append(shares["around"], around(1000))
		c, file, err := w.q.NewChannel(0)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		shares["channel"] = append(shares["channel"], c.due)
		c.Close("the test is over")
	}
	for name, got := range shares {
		slices.Sort(got)
		lowest, highest, different := got[0], got[draws-1], len(slices.Compact(slices.Clone(got)))
		if lowest < 900 || highest > 1100 || lowest > 950 || highest < 1050 || different < draws/4 {
			t.Errorf("%s: from %d to %d, %d different ones of %d", name, lowest, highest, different, draws)
		}
	}
	for n, want := range map[int]int{0: 0, 1: 1, 2: 2} { // off stays off, and few stay what they are
		if got := around(n); got != want {
			t.Errorf("around(%d) = %d, want %d", n, got, want)
		}
	}
}

// Finish waits for what is in hand, and then ends the worker's input.
func TestFinish(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	release, eof := make(chan bool), make(chan error, 1)
	first := w.worker(func(sock net.Conn) {
		body, _, _ := readFrame(sock)
		<-release
		sock.Write(frame.Append(nil, body))
		_, _, err := readFrame(sock)
		eof <- err
	})
	c := w.dial()
	c.send("a")
	eventually(t, "in hand", func() bool { _, _, n := w.q.Depth(); return n == 1 })
	done := first.Finish()
	c.send("b") // for the next worker
	if isClosed(done) {
		t.Error("finished with a message in hand")
	}
	release <- true
	<-done
	if err := <-eof; err != io.EOF {
		t.Errorf("worker's input ends with %v", err)
	}
	c.want("a")
	w.worker(answering(echo))
	c.want("b")
}

func TestLines(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Lines = true })
	w.worker(func(sock net.Conn) {
		r := bufio.NewReader(sock)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			fmt.Fprintf(sock, "got %s", line)
		}
	})
	c := w.dial()
	c.send("a", "", "b\nc", strings.Repeat("l", 200_000))
	c.want("got a", "got ", "!not-a-line: the message has an end of line in it, and the workers get one message a line",
		"got "+strings.Repeat("l", 200_000))
}

// With room for few messages a fast sender has to wait, and loses none.
func TestBackPressure(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Messages = 3; c.Window = 1 })
	gate := make(chan bool)
	w.worker(answering(func(b []byte) []byte { <-gate; return echo(b) }))
	c := w.dial()
	const n = 500
	go func() { // ends when all is written
		for i := range n {
			c.Write(frame.Append(nil, fmt.Append(nil, i)))
		}
	}()
	eventually(t, "the queue is full", func() bool { waiting, _, _ := w.q.Depth(); return waiting == 3 })
	close(gate)
	for i := range n {
		if waiting, _, _ := w.q.Depth(); waiting > 3 {
			t.Fatalf("%d messages wait", waiting)
		}
		c.want(fmt.Sprint(i))
	}
}

// Replies that were cut off the buffer stay what they are when the next one
// needs a larger buffer.
func TestBufferGrowsUnderReplies(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Window = 4 })
	large := strings.Repeat("L", 100_000)
	first := make(chan bool)
	w.worker(func(sock net.Conn) {
		for range 2 {
			readFrame(sock)
		}
		<-first
		// A whole reply, and the beginning of one that is larger than the reader's buffer.
		out := frame.Append(frame.Append(nil, []byte("reply-one")), []byte(large))
		sock.Write(out[:replyBuffer/2])
		readFrame(sock) // the message that the first reply made room for
		sock.Write(out[replyBuffer/2:])
		answering(echo)(sock)
	})
	c := w.dial()
	c.send("one", "two")
	eventually(t, "both are with the worker", func() bool { _, _, n := w.q.Depth(); return n == 2 })
	close(first)
	other := w.dial()
	for range 8 {
		other.send(strings.Repeat("SECRET", 15_000))
	}
	c.want("reply-one", large)
}

// A worker that closes its channel with a message unread is noticed as well.
func TestDetachWithMessagesUnread(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *Config) { c.Window = 8 })
	begun := make(chan bool)
	leaving := w.worker(func(sock net.Conn) {
		readFrame(sock)
		<-begun
	})
	c := w.dial()
	c.send("a", "b", "c")
	eventually(t, "all are on the way", func() bool { _, _, n := w.q.Depth(); return n == 3 })
	close(begun)
	select {
	case ask := <-leaving.Asks():
		if ask != AskDetach {
			t.Errorf("asks for %s", ask)
		}
	case <-time.After(patience):
		t.Fatal("nobody noticed")
	}
	w.worker(answering(echo))
	c.want("a", "b", "c")
}
