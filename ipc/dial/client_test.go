package dial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
)

// enough is how long a test waits for what must happen.
const enough = 30 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	t.Cleanup(cancel)
	return ctx
}

func framed(body string) string { return string(frame.Append(nil, []byte(body))) }

func failure(body string) string {
	b := frame.Append(nil, []byte(body))
	frame.MarkFailure(b)
	return string(b)
}

// A served is a server's side of a connection.
type served struct {
	t testing.TB
	net.Conn
}

// takes reads a message, and answers it with these bytes.
func (s served) takes(body, answer string) {
	got, _, err := frame.Read(s, frame.MaxBody)
	if err != nil || string(got) != body {
		s.t.Errorf("the client sends %.100q, %v; want %.100q", got, err, body)
	}
	s.says(answer)
}

func (s served) says(answer string) { _, _ = io.WriteString(s, answer) }

// ends waits until the client closes.
func (s served) ends() {
	if n, err := s.Read(make([]byte, 1)); n > 0 || err == nil {
		s.t.Errorf("the client sends more")
	}
}

// serve is a server that deals with one connection after the other, as it is
// told, and then is gone.
func serve(t testing.TB, connectTimeout time.Duration, conns ...func(served)) *Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pool, err := Parse("tcp://" + ln.Addr().String() + "?reply=always")
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(pool.Connect, time.Minute, connectTimeout)
	var server sync.WaitGroup
	server.Go(func() {
		defer ln.Close()
		for _, deal := range conns {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			_ = nc.SetDeadline(time.Now().Add(enough))
			deal(served{t, nc})
			nc.Close()
		}
	})
	t.Cleanup(func() {
		c.Close()
		ln.Close()
		server.Wait()
	})
	return c
}

// said is what becomes of a message, in a line.
func said(reply Reply, err error) string {
	var f *Failure
	switch {
	case errors.As(err, &f):
		return fmt.Sprintf("failure %q %q", f.Code, f.Text)
	case err != nil:
		return err.Error()
	}
	return string(reply.Body)
}

// What becomes of a message is the client's to find out.
func TestSend(t *testing.T) {
	big := strings.Repeat("b", 3<<20)
	closes := func(served) {}
	tests := []struct {
		name  string
		sends string // messages, one after the other
		want  string
		conns []func(served)
	}{
		{"replies", "one,,three", "1||3", []func(served){func(s served) {
			s.takes("one", framed("1"))
			s.takes("", framed(""))
			s.takes("three", "\x00\x00")
			s.says("\x00\x013")
		}}},
		{"big", big, big, []func(served){func(s served) { s.takes(big, framed(big)) }}},
		{"failures", "a,b,c,d", `failure "interrupted" "x: y"|failure "" "what"|failure "refused" "no"|1`, []func(served){func(s served) {
			s.takes("a", failure("interrupted: x: y"))
			s.takes("b", failure("what"))
			s.takes("c", failure("refused: no"))
			s.takes("d", framed("1"))
		}}},
		{"stopping", "a,b", "1|2", []func(served){
			func(s served) { s.takes("a", framed("1")); s.takes("b", failure("stopping: bye")); s.ends() },
			func(s served) { s.takes("b", failure("stopping: bye")); s.ends() },
			func(s served) { s.takes("b", framed("2")) },
		}},
		{"too big", "a,b", `failure "too-big" "1 KiB"|2`, []func(served){
			func(s served) { s.takes("a", failure("too-big: 1 KiB")); s.ends() },
			func(s served) { s.takes("b", framed("2")) },
		}},
		{"broken", "a", "1", []func(served){
			closes,
			func(s served) { s.takes("a", "") },
			func(s served) { s.takes("a", "\x00\x00") },
			func(s served) { s.takes("a", "\x00\x00\x00\x05hal") },
			func(s served) { s.takes("a", framed("1")) },
		}},
		{"garbage", "a,b", "the server sent something that is not a reply|2", []func(served){
			func(s served) { s.takes("a", "HTTP/1.1 400 Bad Request\r\n") },
			func(s served) { s.takes("b", framed("2")) },
		}},
		{"oversize", "a,b", "the server sent something that is not a reply|2", []func(served){
			func(s served) { s.takes("a", "\x84\x00\x00\x01") },
			func(s served) { s.takes("b", framed("2")) },
		}},
		{"too many", "a,b", "1|2", []func(served){
			func(s served) { s.takes("a", framed("1")+framed("1")); s.ends() },
			func(s served) { s.takes("b", framed("2")) },
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, enough, tt.conns...)
			var got []string
			for _, body := range strings.Split(tt.sends, ",") {
				got = append(got, said(c.Send(within(t), []byte(body), nil)))
			}
			if got := strings.Join(got, "|"); got != tt.want {
				t.Errorf("%.1000s\nwant %.1000s", got, tt.want)
			}
		})
	}
}

// Messages of many goroutines are on the way together, and each gets its own
// reply; also those behind one that a stopping pool did not take.
func TestSendInParallel(t *testing.T) {
	const all = 200
	echo := func(s served, n, taken int) {
		bodies := make([]string, n)
		for i := range bodies { // none is answered before all are there
			body, _, err := frame.Read(s, frame.MaxBody)
			if err != nil {
				t.Error(err)
			}
			bodies[i] = string(body)
		}
		for i, body := range bodies {
			if i < taken {
				s.says(framed(strings.ToUpper(body)))
			} else {
				s.says(failure("stopping: bye"))
			}
		}
	}
	c := serve(t, enough,
		func(s served) { echo(s, all, all/2); s.ends() },
		func(s served) { echo(s, all/2, all/2) },
	)
	var senders sync.WaitGroup
	for i := range all {
		senders.Go(func() {
			body := fmt.Sprint("message ", i, " ", strings.Repeat("x", i*300))
			if got := said(c.Send(within(t), []byte(body), nil)); got != strings.ToUpper(body) {
				t.Errorf("%.50q gets %.100q", body, got)
			}
		})
	}
	senders.Wait()
}

// A message that is given up costs the others nothing.
func TestContext(t *testing.T) {
	first, gone := make(chan struct{}), make(chan struct{})
	c := serve(t, 10*time.Second, func(s served) {
		s.takes("one", "")
		close(first)
		<-gone
		s.takes("two", framed("1")+framed("2"))
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // ends with the first message's arrival, or the server's end
		<-first
		cancel()
	}()
	if _, err := c.Send(ctx, []byte("one"), nil); err != context.Canceled && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := c.Send(ctx, []byte("none"), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(gone)
	if got := said(c.Send(within(t), []byte("two"), nil)); got != "2" {
		t.Error(got)
	}
}

// A server that does not read makes the messages wait, and their contexts count.
func TestSendWaits(t *testing.T) {
	over := make(chan struct{})
	c := serve(t, 10*time.Second, func(served) { <-over })
	body := bytes.Repeat([]byte("x"), maxWaiting)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var senders sync.WaitGroup
	for range 40 {
		senders.Go(func() {
			if _, err := c.Send(ctx, body, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	senders.Wait()
	c.mu.Lock()
	l := c.current
	c.mu.Unlock()
	l.mu.Lock()
	if n := len(l.waiting); n > 2*maxWaiting+frame.HeaderSize {
		t.Errorf("%d bytes wait", n)
	}
	l.mu.Unlock()
	c.Close()
	close(over)
}

func TestClose(t *testing.T) {
	there := make(chan struct{})
	c := serve(t, 10*time.Second, func(s served) { s.takes("one", ""); close(there); s.ends() })
	go func() { // ends with the client
		<-there
		c.Close()
	}()
	for range 2 {
		if _, err := c.Send(within(t), []byte("one"), nil); err != ErrClosed {
			t.Error(err)
		}
	}
	c.Close()
}

// Where there has never been a connection nobody waits for one.
func TestNoServer(t *testing.T) {
	c := serve(t, time.Hour)
	if _, err := c.Send(within(t), nil, nil); err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "dial tcp ") {
		t.Error(err)
	}
}

// pipes makes a client that a server in the same bubble of time deals with.
func pipes(t *testing.T, deal func(n int, s served)) *Client {
	n := 0
	return NewClient(func(context.Context) (Conn, error) {
		ours, theirs := net.Pipe()
		n++
		go deal(n, served{t, theirs}) // ends with the connection
		return pipe{ours}, nil
	}, time.Minute, 10*time.Second)
}

// A pipe has no half to close: a Client never does.
type pipe struct{ net.Conn }

func (pipe) CloseWrite() error { return errors.ErrUnsupported }

func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipes(t, func(n int, s served) {
			if n == 1 {
				s.takes("one", framed("1"))
				s.takes("two", "")
				time.Sleep(59 * time.Second)
				s.says("\x00")
				s.ends()
			} else {
				s.takes("three", "")
				time.Sleep(59 * time.Second)
				s.says(framed("3"))
				s.ends()
			}
			s.Close()
		})
		start := time.Now()
		if got := said(c.Send(t.Context(), []byte("one"), nil)); got != "1" {
			t.Error(got)
		}
		time.Sleep(time.Hour) // nothing is owed
		_, err := c.Send(t.Context(), []byte("two"), nil)
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "nothing was heard within 1m0s") || took != time.Hour+119*time.Second {
			t.Error(err, took)
		}
		if got := said(c.Send(t.Context(), []byte("three"), nil)); got != "3" {
			t.Error(got)
		}
		c.Close()
	})
}

func TestPatienceEnds(t *testing.T) {
	stops := func(_ int, s served) { s.takes("one", failure("stopping: bye")); s.Close() }
	breaks := func(n int, s served) {
		if s.takes("one", ""); n > 1 {
			s.says(failure("stopping: bye"))
		}
		s.Close()
	}
	for _, tt := range []struct {
		name    string
		timeout time.Duration // of the context
		deal    func(int, served)
		want    string
		least   time.Duration
	}{
		{"stopping", time.Hour, stops, `failure "stopping" "bye"`, 10 * time.Second},
		{"in doubt", time.Hour, breaks, "the pool closed the connection without a reply", 10 * time.Second},
		{"context", 5 * time.Second, stops, "context deadline exceeded; before that: stopping: bye", 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := pipes(t, tt.deal)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
				defer cancel()
				got := said(c.Send(ctx, []byte("one"), nil))
				if took := time.Since(start); got != tt.want || took < tt.least || took > tt.least+maxPause {
					t.Error(got, took)
				}
				c.Close()
			})
		})
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"tcp://127.0.0.1:8089":               "tcp 127.0.0.1:8089",
		"tcp://[::1]:8089?reply=always":      "tcp [::1]:8089",
		"tcp://pool:8089?once=false":         "tcp pool:8089",
		"unix:///run/a%20b.sock?reply=auto":  "unix /run/a b.sock",
		"":                                   "no address",
		"127.0.0.1:8089":                     "no address",
		"http://127.0.0.1:8089":              "no address",
		"tcp://127.0.0.1":                    "no address",
		"tcp://:8089":                        "no address",
		"tcp://127.0.0.1:x":                  "no address",
		"tcp://127.0.0.1:99999":              "no address",
		"tcp://127.0.0.1:8089/x":             "no address",
		"unix://run/pool.sock":               "no address",
		"sysv://0x7000001":                   "no address",
		"tcp://127.0.0.1:1?once=true":        "once=true",
		"tcp://127.0.0.1:1?reply=never":      "has no replies",
		"unix:///run/pool.sock?once=1&x=%zz": "once=true",
	} {
		pool, err := Parse(text)
		got := pool.Network + " " + pool.Address
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != want || !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
