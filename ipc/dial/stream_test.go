package dial

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/fakepool"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A record is an Output that writes down what it is told.
type record struct {
	mu      sync.Mutex
	sent    []string // without what was not taken
	replies []string
	reports []string
}

func (r *record) Sending(m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, string(m.Body))
}

func (r *record) NotTaken(list []Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = r.sent[:len(r.sent)-len(list)]
}

func (r *record) Reply(body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replies = append(r.replies, string(body))
}

func (r *record) Failed(m Message, f *Failure) { r.report("%v: %v", m, f) }

func (r *record) Lost(l Loss) {
	r.report("%d lost from %v to %v: %v, heard %v", l.Count, l.First, l.Last, l.Err, l.Heard)
}

func (r *record) report(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports = append(r.reports, fmt.Sprintf(format, args...))
}

func (r *record) Flush() {}

// messages are numbered from 1.
func messages(bodies ...string) (list []Message) {
	for i, body := range bodies {
		list = append(list, Message{Number: i + 1, Body: []byte(body)})
	}
	return list
}

// input is all there is.
func input(bodies ...string) <-chan []Message {
	in := make(chan []Message, 1) // 1: it is all there is
	in <- messages(bodies...)
	close(in)
	return in
}

// connectTo connects to a fake pool.
func connectTo(p *fakepool.Pool) Connect {
	network, address, _ := strings.Cut(p.URL, "://")
	return Pool{Network: network, Address: address}.Connect
}

// unsent describes the end of a Stream.
func unsent(err error) string {
	var u *Unsent
	if !errors.As(err, &u) {
		return fmt.Sprint(err)
	}
	return fmt.Sprintf("%v, %d left, connected %v", err, len(u.Messages), u.Connected)
}

// What pools do, and what becomes of the messages a b c d e.
func TestStreamAndPools(t *testing.T) {
	const all = "a b c d e"
	always := Stream{Always: true, InFlight: 1024}
	for name, tt := range map[string]struct {
		how     Stream
		scripts []string
		got     string // what the pool read
		replies string
		report  string
		err     string // "": none
	}{
		"answers all":                  {Stream{}, []string{"5 echo eof"}, all, all, "", ""},
		"answers all, always":          {always, []string{"5 echo eof"}, all, all, "", ""},
		"one at a time":                {Stream{Always: true}, []string{"1 echo 1 echo 1 echo 1 echo 1 echo eof"}, all, all, "", ""},
		"answers some":                 {Stream{}, []string{"5 x y eof"}, all, "x y", "", ""},
		"answers nothing":              {Stream{}, []string{"5 eof"}, all, "", "", ""},
		"answers nothing, always":      {always, []string{"5 eof", "5 eof"}, all + " " + all, "", "", "the server does not answer every message, 5 left, connected true"},
		"killed before an answer":      {always, []string{"5 eof", "5 echo eof"}, all + " " + all, all, "", ""},
		"killed twice":                 {always, []string{"5 eof", "5 x eof", "4 eof", "4 echo eof"}, all + " " + all + " b c d e b c d e", "x b c d e", "", ""},
		"a failure":                    {Stream{}, []string{"5 x !given-up:why eof"}, all, "x", "a message: given-up: why", ""},
		"a failure, always":            {always, []string{"5 x !given-up:why x x x eof"}, all, "x x x x", "message 2: given-up: why", ""},
		"unknown code":                 {always, []string{"5 x x x x !new:why eof"}, all, "x x x x", "message 5: new: why", ""},
		"stopping":                     {Stream{}, []string{"5 x x !stopping: !stopping: !stopping: eof", "3 echo eof"}, all + " c d e", "x x c d e", "", ""},
		"stopping, always":             {always, []string{"5 x x !stopping: !stopping: !stopping: eof", "3 echo eof"}, all + " c d e", "x x c d e", "", ""},
		"stopping after silence":       {Stream{}, []string{"5 !stopping: !stopping: eof", "2 echo eof"}, all + " d e", "d e", "3 lost from message 1 to message 5: the server is stopping, heard true", ""},
		"stopping twice":               {Stream{}, []string{"5 x x x x !stopping: eof", "1 !stopping: eof", "1 echo eof"}, all + " e e", "x x x x e", "", ""},
		"always stopping":              {Stream{ConnectTimeout: 100 * time.Millisecond}, []string{"5 !stopping: !stopping: !stopping: !stopping: !stopping: eof"}, "", "", "", "the server accepts connections, but no messages, 5 left, connected true"},
		"interrupted is not stopping":  {always, []string{"5 x x x x !interrupted:y eof"}, all, "x x x x", "message 5: interrupted: y", ""},
		"breaks, always":               {always, []string{"3 x x reset", "3 echo eof"}, "a b c c d e", "x x c d e", "", ""},
		"ends early, always":           {always, []string{"5 x x reset", "3 echo eof"}, all + " c d e", "x x c d e", "", ""},
		"breaks":                       {Stream{}, []string{"3 x reset"}, "a b c", "x", "4 lost from message 1 to message 5: ", ""},
		"breaks after all its replies": {Stream{}, []string{"5 echo reset"}, all, all, "", ""},
		"never takes any":              {Stream{Always: true, InFlight: 9, ConnectTimeout: 100 * time.Millisecond}, []string{"reset"}, "", "", "", "no messages, 5 left, connected true"},
		"too many":                     {always, []string{"5 echo x eof"}, all, all, "", "the server sends more replies than there were messages, 0 left, connected true"},
		"too many, not always":         {Stream{}, []string{"5 echo x eof"}, all, all, "", "the server sends more replies than there were messages, 0 left, connected true"},
		"garbage":                      {Stream{Always: true, InFlight: 9, ConnectTimeout: 100 * time.Millisecond}, []string{"5 garbage eof"}, "", "", "", "5 left, connected true"},
		"silent":                       {Stream{Timeout: time.Second}, []string{"5 x hang"}, all, "x", "4 lost from message 1 to message 5: ", "nothing was heard within the timeout"},
		"once":                         {Stream{Once: true}, []string{"1 x", "1", "1 !refused:no", "1 y"}, all, "x y y", "message 3: refused: no", ""},
		"once, always":                 {Stream{Once: true, Always: true}, []string{"1 x", "1", "1 y"}, all, "x y y y", "1 lost from message 2 to message 2: the pool closed the connection without a reply, heard true", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := fakepool.Start(t, tt.scripts...)
			if tt.how.Connect = connectTo(p); tt.how.ConnectTimeout == 0 {
				tt.how.ConnectTimeout = enough
			}
			out := new(record)
			err := tt.how.Send(within(t), input("a", "b", "c", "d", "e"), out)
			if got := strings.Join(p.End(), " "); tt.got != "" && got != tt.got {
				t.Errorf("the pool got %q, want %q", got, tt.got)
			}
			if got := strings.Join(out.replies, " "); got != tt.replies {
				t.Errorf("replies %q, want %q", got, tt.replies)
			}
			if got := strings.Join(out.reports, "\n"); (got == "") != (tt.report == "") || !strings.Contains(got, tt.report) {
				t.Errorf("reports %q, want %q", got, tt.report)
			}
			if (err != nil) != (tt.err != "") || !strings.Contains(unsent(err), tt.err) {
				t.Errorf("%v, want %q", unsent(err), tt.err)
			}
			if err == nil && len(out.sent) != 5 {
				t.Errorf("%d messages are sent", len(out.sent))
			}
		})
	}
}

// What the ledger of a connection makes of its replies.
func TestLedger(t *testing.T) {
	for name, tt := range map[string]struct {
		sent, replies string // a reply is a code, or "-"
		clean         bool
		resend        string
		unknown       int
		why           string // from and to which message, and why
	}{
		"answered":                 {"a b", "- -", true, "", 0, ""},
		"fewer replies, clean":     {"a b c", "-", true, "", 0, ""},
		"fewer replies, broken":    {"a b c", "-", false, "", 2, "message 1 message 3 broken"},
		"stopping":                 {"a b c", "- stopping stopping", true, "b c", 0, ""},
		"stopping, out of time":    {"a b c", "stopping", true, "c", 2, "message 1 message 3 the server is stopping"},
		"too big":                  {"a xxx b c", "- too-big", true, "b c", 0, ""},
		"too big, the first":       {"xxx b xxx", "too-big", true, "b xxx", 0, ""},
		"too big, or another":      {"xxx b xxxx", "too-big", true, "", 2, "message 1 message 3 one of several"},
		"too big after others":     {"aaa b xxxx b xxxxx c", "- - too-big", true, "", 3, "message 3 message 6 one of several"},
		"too big after a reply":    {"a xx xxxx b", "- - too-big", true, "b", 0, ""},
		"too big while it stops":   {"a b xxx c", "- stopping too-big", true, "b c", 0, ""},
		"stops, one of two":        {"a b xxx c xxxx", "- stopping too-big", true, "", 3, "message 2 message 5 one of several"},
		"nothing is too big":       {"xxx b", "- too-big", true, "", 0, ""},
		"more replies":             {"a", "- -", true, "", 0, ""},
		"a reply after a too big":  {"a b", "too-big -", true, "b", 0, ""},
		"failures are replies too": {"a b", "refused given-up", false, "", 0, ""},
	} {
		l := ledger{pending: messages(strings.Fields(tt.sent)...)}
		for code := range strings.FieldsSeq(tt.replies) {
			_, _ = l.record(frame.Code(strings.Trim(code, "-"))) // what comes too often changes nothing
		}
		resend, unknown := l.uncounted(tt.clean)
		var bodies []string
		for _, m := range resend {
			bodies = append(bodies, string(m.Body))
		}
		if got := strings.Join(bodies, " "); got != tt.resend || unknown != tt.unknown {
			t.Errorf("%s: %q are sent again and %d unknown, want %q and %d", name, got, unknown, tt.resend, tt.unknown)
		}
		if unknown > 0 {
			first, last, err := l.doubt(errors.New("broken"))
			if got := fmt.Sprint(first, " ", last, " ", err); !strings.HasPrefix(got, tt.why) {
				t.Errorf("%s: %q, want %q", name, got, tt.why)
			}
		}
	}
}

// Where replies are not counted a connection gets only so much; all is sent all
// the same.
func TestStreamRounds(t *testing.T) {
	p := fakepool.Start(t, "all")
	in := make(chan []Message)
	go func() { // ends with the input, which the stream reads to its end
		defer close(in)
		for n := range roundMessages*2 + 5 {
			in <- []Message{{Number: n + 1, Body: fmt.Append(nil, n)}}
		}
	}()
	out := new(record)
	connections := 0
	connect := connectTo(p)
	s := Stream{ConnectTimeout: enough, Connect: func(ctx context.Context) (Conn, error) {
		connections++
		return connect(ctx)
	}}
	if err := s.Send(within(t), in, out); err != nil {
		t.Error(err)
	}
	if got := p.End(); len(got) != len(out.replies) || len(got) != roundMessages*2+5 || got[len(got)-1] != fmt.Sprint(len(got)-1) || connections != 3 {
		t.Errorf("%d messages and %d replies over %d connections", len(got), len(out.replies), connections)
	}
}

// Where there has never been a connection nobody waits for one.
func TestStreamWithoutPool(t *testing.T) {
	s := Stream{Connect: Pool{Network: "unix", Address: t.TempDir() + "/none"}.Connect, ConnectTimeout: time.Hour}
	err := s.Send(within(t), input("a", "b"), new(record))
	if got := unsent(err); !strings.HasPrefix(got, "dial unix ") || !strings.HasSuffix(got, ", 2 left, connected false") {
		t.Error(got)
	}
}

// A context ends the waiting for input, for replies, and for a pool.
func TestStreamContext(t *testing.T) {
	for _, tt := range []struct {
		script string
		in     <-chan []Message
	}{{"", make(chan []Message)}, {"1 hang", input("a")}, {"1 !stopping:", input("a")}} {
		p := fakepool.Start(t, tt.script)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := Stream{Connect: connectTo(p), Always: true, ConnectTimeout: time.Hour}.Send(ctx, tt.in, new(record))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: %v", tt.script, err)
		}
		p.End()
	}
}

// A pool that closes at once has taken nothing, even if its end is read before
// the reset that tells so. Here that never comes: its socket drops what arrives.
func TestStreamToAPoolThatClosesAtOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	out := new(record)
	err = Stream{ConnectTimeout: enough, Connect: func(context.Context) (Conn, error) {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, err
		}
		server, err := ln.Accept()
		if err != nil {
			return nil, err
		}
		dropAll(t, server.(*net.TCPConn))
		server.Close()
		return nc.(Conn), nil
	}}.Send(within(t), input("a", "b"), out)
	if got := strings.Join(out.reports, "\n"); err != nil || !strings.HasPrefix(got, "2 lost from message 1 to message 2: ") {
		t.Errorf("%v, %q", err, got)
	}
}

// dropAll lets the kernel drop what arrives at a socket.
func dropAll(t *testing.T, nc *net.TCPConn) {
	t.Helper()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

// With once=true a pool closes without a byte when a message failed. It may do so
// while the next one is awaited: that is no reason to send it again.
func TestStreamOnceWithoutReply(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = t.TempDir() + "/s"
		}
		ln, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		in := make(chan []Message)
		got := make(chan string, 1) // 1: the server ends before it is asked
		go func() {                 // ends with the input, or with its listener
			defer close(in)
			defer ln.Close()
			var bodies string
			defer func() { got <- bodies }()
			for _, body := range []string{"a", "b", "c"} {
				select {
				case in <- messages(body):
				case <-time.After(enough): // the stream does not ask for it
					return
				}
				server, err := ln.Accept()
				if err != nil {
					return
				}
				r := bufio.NewReader(server)
				body, _, _ := frame.Read(r, frame.MaxBody)
				bodies += string(body)
				_ = server.(Conn).CloseWrite()
				_, _ = io.Copy(io.Discard, r) // until the client has ended as well
				server.Close()
			}
		}()
		out := new(record)
		err = Stream{Once: true, ConnectTimeout: enough, Connect: Pool{Network: network, Address: ln.Addr().String()}.Connect}.Send(within(t), in, out)
		if all := <-got; err != nil || len(out.reports) > 0 || all != "abc" {
			t.Errorf("%s: %v, %q, got %q", network, err, out.reports, all)
		}
	}
}

func FuzzReplies(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02ok\x80\x00\x00\x09refused: "))
	f.Add([]byte("\x7f\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := bufio.NewReader(bytes.NewReader(data))
		rest := len(data)
		for {
			body, _, err := readReply(b)
			if err != nil {
				if (err == io.EOF) != (rest == 0) {
					t.Fatalf("%v with %d bytes left", err, rest)
				}
				return
			}
			rest -= frame.HeaderSize + len(body)
		}
	})
}
