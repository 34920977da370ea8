package dial

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
)

var hello = string(frame.AppendControl(nil, frame.Control{Hello: 1}))

func tagged(tag uint64, body string) string {
	return string(frame.AppendTagged(nil, frame.Tagged{Tag: tag, Body: []byte(body)}))
}

func taggedFailure(tag uint64, code frame.Code, text string) string {
	return string(frame.AppendTaggedFailure(nil, tag, code, text))
}

// serveTagged is serve of a pool with tagged=true. Each connection begins with a
// client's hello, which is answered with these bytes.
func serveTagged(t testing.TB, answer string, conns ...func(served)) *Client {
	t.Helper()
	greeted := make([]func(served), len(conns))
	for i, deal := range conns {
		greeted[i] = func(s served) {
			if got := s.takesTagged(); got != `0  {"hello":1}` {
				t.Errorf("the client begins with %q", got)
			}
			s.says(answer)
			deal(s)
		}
	}
	c := serve(t, enough, greeted...)
	c.tagged = true
	return c
}

// drains reads all until the client closes.
func drains(s served) { _, _ = io.Copy(io.Discard, s) }

// takesTagged reads a frame: "TAG META BODY".
func (s served) takesTagged() string {
	f, err := frame.ReadTagged(s, frame.MaxTaggedBody)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s %s", f.Tag, f.Meta, f.Body)
}

// answers reads frames of messages, and answers all of them in reverse.
func (s served) answers(n int) {
	var all []frame.Tagged
	for range n {
		f, err := frame.ReadTagged(s, frame.MaxTaggedBody)
		if err != nil {
			s.t.Error(err)
			return
		}
		all = append(all, f)
	}
	for i := range all {
		f := all[n-1-i]
		s.says(string(frame.AppendTagged(nil, frame.Tagged{Tag: f.Tag, Meta: f.Meta, Body: append(f.Body, '!')})))
	}
}

func TestSendTagged(t *testing.T) {
	big := strings.Repeat("b", 3<<20)
	for _, tt := range []struct {
		name  string
		sends string // messages, one after the other
		want  string
		hello string
		conns []func(served)
	}{
		{"replies", "one,,three", "one!|!|three!", hello, []func(served){func(s served) { s.answers(1); s.answers(1); s.answers(1) }}},
		{"big", big, big + "!", hello, []func(served){func(s served) { s.answers(1) }}},
		{"failures", "a,b", `failure "refused" "no"|failure "retry" "30s: later"`, hello, []func(served){func(s served) {
			s.takesTagged()
			s.says(taggedFailure(1, frame.Refused, "no"))
			s.takesTagged()
			s.says(taggedFailure(2, frame.Retry, "30s: later"))
		}}},
		{"stopping", "a,b", "a!|b!", hello, []func(served){
			func(s served) {
				s.answers(1)
				s.takesTagged()
				s.says(taggedFailure(2, frame.Stopping, "bye"))
				s.ends()
			},
			func(s served) { s.takesTagged(); s.says(taggedFailure(1, frame.Stopping, "bye")); s.ends() },
			func(s served) { s.answers(1) },
		}},
		{"too big", "a,b", `failure "too-big" "1 KiB"|b!`, hello, []func(served){
			func(s served) { s.takesTagged(); s.says(taggedFailure(1, frame.TooBig, "1 KiB")); s.ends() },
			func(s served) { s.answers(1) },
		}},
		{"broken", "a", "a!", hello, []func(served){
			func(served) {},
			func(s served) { s.takesTagged() },
			func(s served) { s.takesTagged(); s.says(tagged(1, "half")[:13]) },
			func(s served) { s.answers(1) },
		}},
		{"another control frame", "a", "a!", hello + tagged(0, `{"new":1}`), []func(served){func(s served) { s.answers(1) }}},
		{"not tagged", "a", `failure "not-tagged" "why"`, failure("not-tagged: why"), []func(served){drains}},
		{"a rule broken", "a", `failure "not-tagged" "open"`, hello, []func(served){func(s served) {
			s.takesTagged()
			s.says(taggedFailure(0, frame.NotTagged, "open"))
			s.ends()
		}}},
		{"a plain pool", "a", errPlain.Error(), framed("pong"), []func(served){drains}},
		{"a plain pool that says more", "a", errPlain.Error(), framed("a longer answer"), []func(served){drains}},
		{"another version", "a", errPlain.Error(), tagged(0, `{"hello":2}`), []func(served){drains}},
		{"garbage", "a,b", "the server sent something that is not a reply|b!", hello, []func(served){
			func(s served) { s.takesTagged(); s.says("HTTP/1.1 400 Bad Request\r\n") },
			func(s served) { s.answers(1) },
		}},
		{"an unknown tag", "a,b", "the server sent something that is not a reply|b!", hello, []func(served){
			func(s served) { s.takesTagged(); s.says(tagged(2, "x")) },
			func(s served) { s.answers(1) },
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serveTagged(t, tt.hello, tt.conns...)
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

// Answers come in any order, each with its meta.
func TestSendTaggedInParallel(t *testing.T) {
	const all = 200
	c := serveTagged(t, hello, func(s served) { s.answers(all); s.ends() })
	var senders sync.WaitGroup
	for i := range all {
		senders.Go(func() {
			body, meta := fmt.Sprint("message ", i), fmt.Sprintf(`{"key":"%d"}`, i)
			reply, err := c.Send(within(t), []byte(body), []byte(meta))
			if err != nil || string(reply.Body) != body+"!" || string(reply.Meta) != meta {
				t.Errorf("%s gets %q, %q, %v", body, reply.Body, reply.Meta, err)
			}
		})
	}
	senders.Wait()
}

// What a stopping pool did not take goes to another one; answers that were due
// before still come.
func TestSendTaggedAcrossStop(t *testing.T) {
	c := serveTagged(t, hello,
		func(s served) {
			first, second := s.takesTagged(), s.takesTagged()
			s.says(taggedFailure(2, frame.Stopping, "bye"))
			s.says(tagged(1, strings.TrimPrefix(first, "1  ")+" of the first pool"))
			_ = second
			s.ends()
		},
		func(s served) {
			body := s.takesTagged()
			s.says(tagged(1, strings.TrimPrefix(body, "1  ")+" of the second pool"))
		})
	got := make(map[string]int)
	var mu sync.Mutex
	var senders sync.WaitGroup
	for range 2 {
		senders.Go(func() {
			answer := said(c.Send(within(t), []byte("x"), nil))
			mu.Lock()
			defer mu.Unlock()
			got[answer]++
		})
	}
	senders.Wait()
	if got["x of the first pool"] != 1 || got["x of the second pool"] != 1 {
		t.Errorf("%v", got)
	}
}

// What cannot be sent is an error at once.
func TestSendTaggedRefused(t *testing.T) {
	never := func(served) { t.Error("the client connects") }
	if _, err := serveTagged(t, hello, never).Send(within(t), nil, make([]byte, frame.MaxMeta+1)); err != errTagged {
		t.Error(err)
	}
	if _, err := serve(t, enough, never).Send(within(t), nil, []byte("{}")); err != errMeta {
		t.Error(err)
	}
}

func TestParseTagged(t *testing.T) {
	for text, want := range map[string]bool{
		"tcp://x:1": false, "tcp://x:1?tagged=true": true, "unix:///x?tagged=1": true, "unix:///x?tagged=false": false,
		"tcp://x:1?tagged=true&reply=always": true,
	} {
		pool, err := Parse(text)
		if err != nil || pool.Tagged != want {
			t.Errorf("%s: %+v, %v", text, pool, err)
		}
	}
}

func TestAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{"retry: 30s: later": 30 * time.Second, "retry: 500ms: ": 500 * time.Millisecond,
		"retry: later": 0, "retry: -1s: x": 0, "refused: 30s: no": 0, "retry: 1m0s": time.Minute} {
		if got := parseFailure([]byte(text)).After(); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

// serveStream is a server of one connection after the other, for a Stream.
func serveStream(t testing.TB, conns ...func(served)) Stream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var server sync.WaitGroup
	server.Go(func() {
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
		ln.Close()
		server.Wait()
	})
	return Stream{Connect: Pool{Network: "tcp", Address: ln.Addr().String()}.Connect,
		Always: true, Tagged: true, InFlight: 1024, ConnectTimeout: enough}
}

// A message that takes longer than attempts to connect may is sent again all the
// same when its pool is killed: that time does not count.
func TestStreamKilledLate(t *testing.T) {
	const short = 100 * time.Millisecond
	s := serveStream(t,
		func(s served) { s.takesTagged(); s.says(hello); s.takesTagged(); <-time.After(5 * short) },
		func(s served) { s.takesTagged(); s.says(hello); s.answers(1); drains(s) })
	s.ConnectTimeout, s.InFlight = short, 1
	out := new(record)
	if err := s.Send(within(t), input("a"), out); err != nil || strings.Join(out.replies, " ") != "a!" {
		t.Errorf("%v, replies %q", err, out.replies)
	}
}

// A Stream has its replies in the order of the messages, and sends again what has
// none, and nothing else.
func TestStreamTagged(t *testing.T) {
	greet := func(s served) {
		if got := s.takesTagged(); got != `0  {"hello":1}` {
			t.Errorf("the client begins with %q", got)
		}
		s.says(hello)
	}
	takes := func(s served, want ...string) {
		for i, body := range want {
			if got := s.takesTagged(); got != fmt.Sprint(i+1, "  ", body) {
				t.Errorf("%q, want %q", got, body)
			}
		}
	}
	for name, tt := range map[string]struct {
		conns                []func(served)
		replies, report, err string
	}{
		"in reverse": {[]func(served){func(s served) { greet(s); s.answers(5); drains(s) }}, "a! b! c! d! e!", "", ""},
		"a failure": {[]func(served){func(s served) {
			greet(s)
			takes(s, "a", "b", "c", "d", "e")
			s.says(tagged(5, "5") + taggedFailure(2, frame.Refused, "no") + tagged(1, "1") + tagged(4, "4") + tagged(3, "3"))
			drains(s)
		}}, "1 3 4 5", "message 2: refused: no", ""},
		"stopping": {[]func(served){func(s served) {
			greet(s)
			takes(s, "a", "b", "c", "d", "e")
			s.says(taggedFailure(4, frame.Stopping, "") + taggedFailure(5, frame.Stopping, "") + tagged(2, "2") + tagged(1, "1") + tagged(3, "3"))
			drains(s)
		}, func(s served) { greet(s); s.answers(2); drains(s) }}, "1 2 3 d! e!", "", ""},
		"breaks with gaps": {[]func(served){func(s served) {
			greet(s)
			takes(s, "a", "b", "c", "d", "e")
			s.says(tagged(2, "2") + tagged(4, "4"))
			_ = s.Conn.(*net.TCPConn).CloseWrite()
			drains(s)
		}, func(s served) { greet(s); s.answers(3); drains(s) }}, "2 4 a! c! e!", "", ""},
		"not tagged":          {[]func(served){func(s served) { s.says(failure("not-tagged: why")); drains(s) }}, "", "", "not-tagged: why"},
		"a plain pool":        {[]func(served){func(s served) { s.says(framed("what")); drains(s) }}, "", "", errPlain.Error()},
		"an answer twice":     {[]func(served){func(s served) { greet(s); s.says(tagged(1, "1") + tagged(1, "1")); drains(s) }}, "1", "", errGarbage.Error()},
		"one answer too many": {[]func(served){func(s served) { greet(s); s.answers(5); s.says(tagged(3, "3")); drains(s) }}, "a! b! c! d! e!", "", errGarbage.Error()},
		"an unknown tag":      {[]func(served){func(s served) { greet(s); s.says(tagged(9, "1")); drains(s) }}, "", "", errGarbage.Error()},
		"too big, in turn": {[]func(served){func(s served) {
			greet(s)
			takes(s, "a", "b", "c", "d", "e")
			s.says(tagged(2, "2") + tagged(1, "1") + taggedFailure(3, frame.TooBig, "no"))
			drains(s)
		}, func(s served) { greet(s); s.answers(2); drains(s) }}, "1 2 d! e!", "message 3: too-big: no", ""},
	} {
		t.Run(name, func(t *testing.T) {
			out := new(record)
			err := serveStream(t, tt.conns...).Send(within(t), input("a", "b", "c", "d", "e"), out)
			if got := strings.Join(out.replies, " "); got != tt.replies {
				t.Errorf("replies %q, want %q", got, tt.replies)
			}
			if got := strings.Join(out.reports, "|"); got != tt.report {
				t.Errorf("reports %q, want %q", got, tt.report)
			}
			if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("%v, want %q", err, tt.err)
			}
		})
	}
}
