package ipc_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

func TestEcho(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dial()
	c.Send("a", "", strings.Repeat("x", 100_000), "d")
	c.Want("a", "", strings.Repeat("x", 100_000), "d")
}

func TestReplyModes(t *testing.T) {
	answer := func(b []byte) []byte {
		switch string(b) {
		case "fail":
			return frame.AppendFailure(nil, frame.Refused, "no")
		case "empty":
			return frame.Append(nil, nil)
		}
		return ipctest.Echo(b)
	}
	for mode, want := range map[string][]string{
		"auto":   {"a", "!refused: no", "z", "error EOF"},
		"always": {"a", "", "!refused: no", "z", "error EOF"},
		"never":  {"error EOF"},
	} {
		w := newWorld(t, "?reply="+mode, nil)
		w.Worker(ipctest.Answering(answer))
		c := w.dial()
		c.Send("a", "empty", "fail", "z")
		c.Conn.(*net.TCPConn).CloseWrite()
		c.Want(want...)
	}
}

func TestOrderAcrossWorkers(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	for range 4 {
		w.Worker(ipctest.Answering(ipctest.Echo))
	}
	c := w.dial()
	const n = 5000
	go func() { // ends when all is written
		for i := range n {
			c.Write(frame.Append(nil, fmt.Append(nil, i)))
		}
	}()
	for i := range n {
		if got := c.Next(); got != fmt.Sprint(i) {
			t.Fatalf("reply %d is %q", i, got)
		}
	}
}

func TestWorkerDies(t *testing.T) {
	for attempts, want := range map[int]string{1: "!given-up: the worker died", 3: "b"} {
		w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Attempts = attempts })
		dying := make(chan *ipc.Channel, 1)
		first := w.Worker(func(sock net.Conn) {
			ipctest.ReadFrame(sock)
			(<-dying).Close("the worker died")
		})
		c := w.dial()
		c.Send("b")
		ipctest.Eventually(t, "the message is with the worker", func() bool { _, _, n := w.Q.Depth(); return n == 1 })
		dying <- first
		if attempts > 1 {
			w.Worker(ipctest.Answering(ipctest.Echo))
		}
		c.Want(want)
	}
}

// What the pool did to a worker is not an attempt of a message, unless there is only
// one: nothing says whether the worker had begun.
func TestPoolEndsTheWorker(t *testing.T) {
	for attempts, want := range map[int]string{2: "b", 1: "!given-up: a reload"} {
		w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Attempts = attempts })
		c := w.dial()
		c.Send("b")
		for range 3 {
			ipctest.Eventually(t, "the message waits", func() bool { n, _, _ := w.Q.Depth(); return n == 1 })
			worker := w.Worker(func(sock net.Conn) {
				ipctest.ReadFrame(sock)
				ipctest.ReadFrame(sock) // until the channel is closed
			})
			ipctest.Eventually(t, "the message is with the worker", func() bool { _, _, n := w.Q.Depth(); return n == 1 })
			worker.Finish()
			worker.Spare()
			worker.Close("a reload")
			if attempts == 1 {
				break
			}
		}
		w.Worker(ipctest.Answering(ipctest.Echo))
		c.Want(want)
	}
}

// The oldest unanswered message alone is charged with a worker's death.
func TestOnlyTheHeadIsCharged(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Attempts = 1; c.Window = 3 })
	dying := make(chan *ipc.Channel, 1)
	first := w.Worker(func(sock net.Conn) {
		for range 3 {
			ipctest.ReadFrame(sock)
		}
		(<-dying).Close("the worker died")
	})
	c := w.dial()
	c.Send("a", "b", "c")
	dying <- first
	c.Want("!given-up: the worker died")
	w.Worker(ipctest.Answering(ipctest.Echo))
	c.Want("b", "c")
}

// What a worker answered before it died counts, even if it had not been read yet.
func TestAnswersOfTheDeadCount(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window = 4; c.Attempts = 1 })
	dying := make(chan *ipc.Channel, 1)
	first := w.Worker(func(sock net.Conn) {
		var out []byte
		for range 3 {
			body, _, _ := ipctest.ReadFrame(sock)
			out = frame.Append(out, body)
		}
		sock.Write(out[:len(out)-2]) // the third answer is cut off
		(<-dying).Close("the worker died")
	})
	c := w.dial()
	c.Send("a", "b", "c")
	dying <- first
	c.Want("a", "b", "!given-up: the worker died")
}

// What a worker failed is delivered again before what is newer, to that worker as well.
func TestFailureComesBackFirst(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window = 1 })
	c := w.dial()
	c.Send("a", "F", "b", "c")
	ipctest.Eventually(t, "all wait", func() bool { n, _, _ := w.Q.Depth(); return n == 4 })
	order, failed := "", 0
	w.Worker(ipctest.Answering(func(b []byte) []byte {
		order += string(b)
		if string(b) == "F" && failed < 2 {
			failed++
			return frame.AppendFailure(nil, "busy", "not yet")
		}
		return ipctest.Echo(b)
	}))
	c.Want("a", "F", "b", "c")
	if order != "aFFFbc" {
		t.Errorf("delivered in the order %s", order)
	}
}

func TestFailureOfTheWorker(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	tries := 0
	w.Worker(ipctest.Answering(func(b []byte) []byte {
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
		return ipctest.Echo(b)
	}))
	c := w.dial()
	c.Send("third time")
	c.Want("third time")
	c.Send("never")
	c.Want("!given-up: after 3 attempts: busy: not yet")
	c.Send("final")
	c.Want("!refused: not this one")
}

func TestRedeliveryGoesToAnotherWorker(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Attempts = 2 })
	w.Worker(ipctest.Answering(func([]byte) []byte { return frame.AppendFailure(nil, "broken", "this worker is ill") }))
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dial()
	for i := range 100 {
		c.Send(fmt.Sprint(i))
		c.Want(fmt.Sprint(i))
	}
}

func TestMessageTimeout(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Attempts = 1; c.MessageTimeout = 20 * time.Millisecond })
	hang := w.Worker(func(sock net.Conn) {
		ipctest.ReadFrame(sock)
		ipctest.ReadFrame(sock) // until the channel is closed
	})
	c := w.dial()
	c.Send("slow")
	select {
	case ask := <-hang.Asks():
		if ask != ipc.AskTimeout {
			t.Fatalf("asks for %s", ask)
		}
	case <-time.After(ipctest.Patience):
		t.Fatal("nobody noticed")
	}
	hang.Close("killed for it")
	c.Want("!given-up: no answer within 20ms")
}

// One that was late, and was answered before the worker's end, is not why the next one
// fails.
func TestLateAnswer(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Attempts = 1; c.Window = 2; c.MessageTimeout = 20 * time.Millisecond })
	late := make(chan bool)
	hang := w.Worker(func(sock net.Conn) {
		body, _, _ := ipctest.ReadFrame(sock)
		ipctest.ReadFrame(sock)
		<-late
		sock.Write(ipctest.Echo(body))
		ipctest.ReadFrame(sock) // until the channel is closed
	})
	c := w.dial()
	c.Send("slow", "next")
	select {
	case <-hang.Asks():
	case <-time.After(ipctest.Patience):
		t.Fatal("nobody noticed")
	}
	close(late)
	c.Want("slow")
	hang.Close("the worker died of SIGKILL")
	c.Want("!given-up: the worker died of SIGKILL")
}

func TestWorkerMisbehaves(t *testing.T) {
	for name, tt := range map[string]struct {
		answer []byte
		ask    ipc.Ask
	}{
		"too often":  {frame.Append(frame.Append(nil, []byte("one")), []byte("two")), ipc.AskBroken},
		"too big":    {[]byte{0x7f, 0xff, 0xff, 0xff}, ipc.AskBroken},
		"garbage":    {[]byte("PHP Warning: something\n"), ipc.AskBroken},
		"half, gone": {[]byte{0, 0, 0, 9, 'h'}, ipc.AskDetach},
		"gone":       {nil, ipc.AskDetach},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Attempts = 2 })
			bad := w.Worker(func(sock net.Conn) {
				ipctest.ReadFrame(sock)
				sock.Write(tt.answer)
				if tt.ask == ipc.AskBroken {
					ipctest.ReadFrame(sock) // until it is closed
				}
			})
			c := w.dial()
			c.Send("hello")
			select {
			case ask := <-bad.Asks():
				if ask != tt.ask {
					t.Errorf("asks for %s, want %s", ask, tt.ask)
				}
			case <-time.After(ipctest.Patience):
				t.Fatal("nobody noticed")
			}
			bad.Close("stopped for it")
			if name == "too often" {
				c.Want("one")
				return
			}
			w.Worker(ipctest.Answering(ipctest.Echo))
			c.Want("hello")
		})
	}
}

// A worker that answers before it was asked anything.
func TestWorkerAnswersUnasked(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	bad := w.Worker(func(sock net.Conn) {
		sock.Write(frame.Append(nil, []byte("hello")))
		ipctest.ReadFrame(sock)
	})
	if ask := <-bad.Asks(); ask != ipc.AskBroken {
		t.Errorf("asks for %s", ask)
	}
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dial()
	c.Send("x")
	c.Want("x")
}

func TestRecycling(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.MaxMessages = 100 })
	first := w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dial()
	for n := 1; ; n++ {
		c.Send("x")
		c.Want("x")
		if n > 112 {
			t.Fatal("never due")
		}
		select {
		case <-first.Asks():
			if n < 90 {
				t.Errorf("due after %d", n)
			}
			c.Send("y") // it is fed until its successor is ready
			c.Want("y")
			w.Worker(ipctest.Answering(ipctest.Echo))
			<-first.Finish()
			c.Send("z")
			c.Want("z")
			return
		default:
		}
	}
}

// Finish waits for what is in hand, and then ends the worker's input.
func TestFinish(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	release, eof := make(chan bool), make(chan error, 1)
	first := w.Worker(func(sock net.Conn) {
		body, _, _ := ipctest.ReadFrame(sock)
		<-release
		sock.Write(frame.Append(nil, body))
		_, _, err := ipctest.ReadFrame(sock)
		eof <- err
	})
	c := w.dial()
	c.Send("a")
	ipctest.Eventually(t, "in hand", func() bool { _, _, n := w.Q.Depth(); return n == 1 })
	done := first.Finish()
	c.Send("b") // for the next worker
	if ipctest.IsClosed(done) {
		t.Error("finished with a message in hand")
	}
	release <- true
	<-done
	if err := <-eof; err != io.EOF {
		t.Errorf("worker's input ends with %v", err)
	}
	c.Want("a")
	w.Worker(ipctest.Answering(ipctest.Echo))
	c.Want("b")
}

func TestLines(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Format = ipc.Lines })
	w.Worker(func(sock net.Conn) {
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
	c.Send("a", "", "b\nc", strings.Repeat("l", 200_000))
	c.Want("got a", "got ", "!not-a-line: the message has an end of line in it, and the workers get one message a line",
		"got "+strings.Repeat("l", 200_000))
}

// With room for few messages a fast sender has to wait, and loses none.
func TestBackPressure(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.QueueMessages = 3; c.Window = 1 })
	gate := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-gate; return ipctest.Echo(b) }))
	c := w.dial()
	const n = 500
	go func() { // ends when all is written
		for i := range n {
			c.Write(frame.Append(nil, fmt.Append(nil, i)))
		}
	}()
	ipctest.Eventually(t, "the queue is full", func() bool { waiting, _, _ := w.Q.Depth(); return waiting == 3 })
	close(gate)
	for i := range n {
		if waiting, _, _ := w.Q.Depth(); waiting > 3 {
			t.Fatalf("%d messages wait", waiting)
		}
		c.Want(fmt.Sprint(i))
	}
}

// Replies that were cut off the buffer stay what they are when the next one
// needs a larger buffer.
func TestBufferGrowsUnderReplies(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window = 4 })
	large := strings.Repeat("L", 100_000)
	first := make(chan bool)
	w.Worker(func(sock net.Conn) {
		for range 2 {
			ipctest.ReadFrame(sock)
		}
		<-first
		// A whole reply, and the beginning of one that is larger than the reader's buffer.
		out := frame.Append(frame.Append(nil, []byte("reply-one")), []byte(large))
		sock.Write(out[:ipc.ReplyBuffer/2])
		ipctest.ReadFrame(sock) // the message that the first reply made room for
		sock.Write(out[ipc.ReplyBuffer/2:])
		ipctest.Answering(ipctest.Echo)(sock)
	})
	c := w.dial()
	c.Send("one", "two")
	ipctest.Eventually(t, "both are with the worker", func() bool { _, _, n := w.Q.Depth(); return n == 2 })
	close(first)
	other := w.dial()
	for range 8 {
		other.Send(strings.Repeat("SECRET", 15_000))
	}
	c.Want("reply-one", large)
}

// A worker that closes its channel with a message unread is noticed as well.
func TestDetachWithMessagesUnread(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window = 8 })
	begun := make(chan bool)
	leaving := w.Worker(func(sock net.Conn) {
		ipctest.ReadFrame(sock)
		<-begun
	})
	c := w.dial()
	c.Send("a", "b", "c")
	ipctest.Eventually(t, "all are on the way", func() bool { _, _, n := w.Q.Depth(); return n == 3 })
	close(begun)
	select {
	case ask := <-leaving.Asks():
		if ask != ipc.AskDetach {
			t.Errorf("asks for %s", ask)
		}
	case <-time.After(ipctest.Patience):
		t.Fatal("nobody noticed")
	}
	w.Worker(ipctest.Answering(ipctest.Echo))
	c.Want("a", "b", "c")
}

// A worker's window follows what it does: fast ones open it, a slow one closes it.
func TestWindowOfAWorker(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	slow := make(chan bool)
	w.Worker(ipctest.Answering(func(b []byte) []byte {
		if string(b) == "slow" {
			<-slow
		}
		return ipctest.Echo(b)
	}))
	size := func() int { return w.Q.Stats(1).Workers[0].Window }
	if n := size(); n != 1 {
		t.Errorf("at first: %d", n)
	}
	c := w.dial()
	ipctest.Eventually(t, "fast messages open the window", func() bool { // one may be slow for want of a CPU
		c.Send("fast")
		c.Want("fast")
		return size() > 1
	})
	c.Send("slow")
	ipctest.Eventually(t, "held for longer than is put ahead", func() bool { return w.Q.Stats(1).Workers[0].Held > 2*ipc.AutoAhead })
	slow <- true
	c.Want("slow")
	if n := size(); n != 1 {
		t.Errorf("after a slow one: %d", n)
	}
}

// Nothing is left of a channel that was closed.
func TestCloseStopsTheTimer(t *testing.T) {
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.MessageTimeout, c.Attempts = time.Hour, 1 })
	c := w.Worker(func(sock net.Conn) {
		ipctest.ReadFrame(sock)
		ipctest.ReadFrame(sock) // until the channel is closed
	})
	client := w.dial()
	client.Send("a")
	ipctest.Eventually(t, "the timer runs", func() bool { return c.HasTimer() })
	c.Close("killed")
	client.Want("!given-up: killed")
	if c.HasTimer() {
		t.Error("it runs on")
	}
}
