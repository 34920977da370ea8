package stream

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
	"github.com/poolinit/poolinit/ratelog"
)

// A tape is a socket by which a client has sent some bytes, in pieces, and ended.
// What is written to it is kept.
type tape struct {
	sent  []byte
	piece int

	mu      sync.Mutex
	written bytes.Buffer
}

func (s *tape) Read(p []byte) (int, error) {
	if len(s.sent) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.sent[:min(len(s.sent), s.piece)])
	s.sent = s.sent[n:]
	return n, nil
}

func (s *tape) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written.Write(p)
}

func (s *tape) Close() error                     { return nil }
func (s *tape) SetReadDeadline(time.Time) error  { return nil }
func (s *tape) SetWriteDeadline(time.Time) error { return nil }

// noRaw is the RawConn of a tape.
type noRaw struct{ syscall.RawConn }

func (noRaw) Control(func(fd uintptr)) error { return os.ErrInvalid }

// play has a connection read what a client has sent, and returns what it wrote and
// how many messages were taken. The queue is closed: each is answered "stopping".
func play(t *testing.T, params string, sent []byte, piece int) (written []byte, received int) {
	cfg := ipctest.Config(func(c *ipc.Config) { c.MaxMessage, c.QueueBytes, c.ReplyBytes = 100_000, 200_000, 200_000 })
	q := ipc.NewQueue(cfg, zerolog.Nop())
	q.Close()
	quiet := ratelog.New(zerolog.Nop())
	l := &listener{
		url: parsed(t, "tcp://x:1"+params), queue: q, complain: quiet, evicted: quiet, tagFault: quiet, cutOff: quiet,
		conns: make(map[*conn]struct{}),
	}
	l.lane = ipc.Lane{Source: &l.stats}
	s := &tape{sent: sent, piece: max(1, piece, len(sent)/1000)}
	c := newConn(l, s, nil, noRaw{}, nil)
	l.stats.Connections.Add(1)
	l.add(c)
	c.serve()
	ipctest.Eventually(t, "it is closed", func() bool { return len(l.all()) == 0 })
	if used, _ := q.Budget().Depth(); used != 0 || q.Debts().Total() != 0 {
		t.Errorf("%d bytes are claimed, %d owed", used, q.Debts().Total())
	}
	return s.written.Bytes(), int(l.stats.Received.Load())
}

// Whatever a client sends, in whatever pieces, each whole message is answered, and
// nothing is left.
func FuzzClient(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02ok\x80\x00\x00\x09refused: "), 3)
	f.Add([]byte("\x00\x00\x00\x00\x00\x00"), 1)
	f.Add([]byte("\x00\x01\x86\xa1x"), 100)
	f.Add(frame.Append(nil, make([]byte, 70_000)), 20_000)
	f.Add(append(frame.Append(nil, make([]byte, 99_999)), "\x00\x00\x00\x01ab"...), 1<<20)
	f.Fuzz(func(t *testing.T, sent []byte, piece int) {
		want, rest := 0, sent
		for {
			whole, _, err := frame.Cut(rest, 100_000)
			if err != nil || whole == nil {
				break
			}
			want++
			rest = rest[len(whole):]
		}
		written, received := play(t, "?reply=always", sent, piece)
		if received != want {
			t.Errorf("%d messages, want %d", received, want)
		}
		answers := 0
		for r := bytes.NewReader(written); ; answers++ {
			body, failed, err := frame.Read(r, frame.MaxReply)
			if err == io.EOF {
				break
			}
			if err != nil || !failed {
				t.Fatalf("answer %d is %q, %v, %v", answers, body, failed, err)
			}
		}
		if answers != want && answers != want+1 { // one for a message that is too long
			t.Errorf("%d answers, want %d", answers, want)
		}
	})
}

// Whatever a client with tags sends, each tag has one answer at most, and nothing is
// left.
func FuzzTaggedClient(f *testing.F) {
	f.Add(hello+string(frame.AppendTagged(nil, frame.Tagged{Tag: 3, Meta: []byte(`{"key":"k"}`), Body: []byte("b")})), 5)
	f.Add(hello+string(frame.AppendTagged(nil, frame.Tagged{Tag: 3, Body: make([]byte, 50_000)}))+hello, 1<<20)
	f.Add(hello+"\x7f\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\xff\xff", 100)
	f.Add(hello+"\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01", 1)
	f.Add("GET / HTTP/1.1\r\n\r\n", 100)
	f.Fuzz(func(t *testing.T, sent string, piece int) {
		written, received := play(t, "?tagged=true", []byte(sent), piece)
		if !strings.HasPrefix(sent, hello) && received > 0 && len(sent) < 12 {
			t.Errorf("%d messages without a hello", received)
		}
		answers := 0
		for r := bytes.NewReader(written); r.Len() > 0; {
			head := len(written) - r.Len()
			if size, failed := frame.Header(written[head:]); failed && size == len(written)-head-frame.HeaderSize && answers == 0 && received == 0 {
				return // the plain failure of a client that does not know tags
			}
			a, err := frame.ReadTagged(r, frame.MaxReply)
			if err != nil {
				t.Fatalf("%q is not made of tagged frames: %v", written, err)
			}
			if a.Tag > 0 {
				answers++
			}
		}
		if answers < received {
			t.Errorf("%d answers to %d messages", answers, received)
		}
	})
}

// An address of --listen or --share is refused, or is one that means the same when
// it is read again.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"tcp://0.0.0.0:8089?reply=always&allow=10.0.0.0/8,::ffff:1.2.3.4/120", "unix:///run/x?mode=0600&once=true",
		"tcp://[::1]:1?tagged=true&priority=9&expires=1s", "unix:///x?name=web&mode=660", "tcp://:0?cert=a&key=b&client-ca=c", "tcp://x:1?allow=fe80::1%25eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := parseURL(s); err == nil {
			again, err := parseURL(s)
			if err != nil || again.Name != c.Name || c.connections < 1 || c.idle < 0 || c.partial < 0 || c.priority < 0 || c.priority > ipc.MaxPriority {
				t.Errorf("%q: %+v, then %+v, %v", s, c, again, err)
			}
			for _, p := range c.allow {
				if !p.IsValid() || !c.allows(p.Addr()) || p != p.Masked() {
					t.Errorf("%q: network %s", s, p)
				}
			}
		}
		if share, err := ParseShare(s); err == nil && (share.Name == "" || strings.ContainsAny(share.Name, ":\n")) {
			t.Errorf("%q: the shared socket has the name %q", s, share.Name)
		}
	})
}
