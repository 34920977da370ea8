package worker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/worker/internal/frame"
)

// enough is how long a test waits for what must happen.
const enough = 30 * time.Second

// A pool is the other end of a worker's socket.
type pool struct {
	t testing.TB
	*net.UnixConn
	r      *bufio.Reader
	notify *net.UnixConn
	result chan error // 1: the worker ends before anybody asks
}

// socketpair returns a connection, and a descriptor that is the worker's.
func socketpair(t testing.TB) (*net.UnixConn, int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "pool")
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc.(*net.UnixConn), fds[1]
}

func environ(t testing.TB, deliver string) *pool {
	t.Helper()
	nc, fd := socketpair(t)
	name := filepath.Join(t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { notify.Close() })
	for name, value := range map[string]string{
		"POOLINIT_FD": strconv.Itoa(fd), "POOLINIT_DELIVER": deliver, "NOTIFY_SOCKET": name,
		"POOLINIT_WORKER_ID": "3", "POOLINIT_WORKERS": "8", "POOLINIT_GENERATION": "2",
	} {
		t.Setenv(name, value)
	}
	for _, c := range []net.Conn{nc, notify} {
		if err := c.SetDeadline(time.Now().Add(enough)); err != nil {
			t.Fatal(err)
		}
	}
	return &pool{t: t, UnixConn: nc, r: bufio.NewReader(nc), notify: notify, result: make(chan error, 1)}
}

// start runs a worker with these handlers.
func start(t testing.TB, deliver string, h Handlers) *pool {
	t.Helper()
	return startCtx(t, context.Background(), deliver, h)
}

func startCtx(t testing.TB, ctx context.Context, deliver string, h Handlers) *pool {
	t.Helper()
	p := environ(t, deliver)
	go func() { p.result <- Run(ctx, h) }() // ends with the input, which the cleanup closes
	return p
}

func framed(body string) string { return string(frame.Append(nil, []byte(body))) }

func (p *pool) send(bytes ...string) {
	p.t.Helper()
	if _, err := io.WriteString(p, strings.Join(bytes, "")); err != nil {
		p.t.Fatal(err)
	}
}

// want reads replies; a failure is written with a ! before it.
func (p *pool) want(replies ...string) {
	p.t.Helper()
	for _, want := range replies {
		if got := p.next(); got != want {
			p.t.Errorf("reply %.200q, want %.200q", got, want)
		}
	}
}

func (p *pool) next() string {
	body, failed, err := frame.Read(p.r, frame.MaxBody)
	switch {
	case err != nil:
		return err.Error()
	case failed:
		return "!" + string(body)
	}
	return string(body)
}

func (p *pool) wantNotice(want string) {
	p.t.Helper()
	buf := make([]byte, 4096)
	n, err := p.notify.Read(buf)
	if got := string(buf[:n]); err != nil || got != want {
		p.t.Errorf("notice %q, %v; want %q", got, err, want)
	}
}

// end ends the input and returns what Run does.
func (p *pool) end() error {
	p.t.Helper()
	if err := p.CloseWrite(); err != nil {
		p.t.Fatal(err)
	}
	return p.ended()
}

func (p *pool) ended() error {
	p.t.Helper()
	select {
	case err := <-p.result:
		return err
	case <-time.After(enough):
		p.t.Fatal("the worker does not end")
		return nil
	}
}

func echo(_ context.Context, m *Message) ([]byte, error) { return m.Body, nil }

func TestFrames(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for name, sizes := range map[string][]string{
		"one":     {"hello"},
		"empty":   {"", "", "x", ""},
		"1 MiB":   {big, "x", big},
		"8 MiB":   {strings.Repeat(big, 8), "x"},
		"bytes":   {"\x00\xff\n", "\x80\x00\x00\x00"},
		"many":    strings.Fields(strings.Repeat("a bb ccc dddd ", 5000)),
		"64 kiB":  {big[:1<<16-4], big[:1<<16-3], big[:1<<16-5], big[:1<<16]},
		"crowded": {big[:40000], big[:40000], big[:40000], "x", big[:40000]},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "frames", Handlers{Message: echo})
			go func() { // ends when all is written; the worker reads all
				for _, body := range sizes {
					p.send(framed(body))
				}
			}()
			p.want(sizes...)
			if err := p.end(); err != nil {
				t.Error(err)
			}
			p.want("EOF")
		})
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", 300_000)
	p := start(t, "lines", Handlers{Message: func(_ context.Context, m *Message) ([]byte, error) {
		return append([]byte("got "), m.Body...), nil
	}})
	go p.send("hel", "lo\n", "\n", "a\nb\n", long, "\n")
	for _, want := range []string{"hello", "", "a", "b", long} {
		if got, err := p.r.ReadString('\n'); err != nil || got != "got "+want+"\n" {
			t.Errorf("%.100q, %v; want %.100q", got, err, want)
		}
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

// Among lines a failure can only be told by ending.
func TestLinesFailure(t *testing.T) {
	for message, want := range map[string]string{"error": "bad luck", "newline": "end of line", "panic": "boom"} {
		t.Run(message, func(t *testing.T) {
			p := start(t, "lines", Handlers{Message: misbehave})
			p.send("fine\n", message+"\n", "never\n")
			if got, err := io.ReadAll(p.r); string(got) != "fine\n" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%q, %v", got, err)
			}
			if err := p.ended(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		})
	}
}

func misbehave(_ context.Context, m *Message) ([]byte, error) {
	switch body := string(m.Body); body {
	case "error":
		return []byte("dropped"), errors.New("bad luck")
	case "refuse":
		return nil, Refuse("not mine")
	case "wrapped":
		return nil, fmt.Errorf("in vain: %w", Refuse("not mine"))
	case "fake":
		return nil, errors.New("refused: not really")
	case "panic":
		panic("boom")
	case "index":
		return m.Body[:1<<20], nil
	case "long":
		return nil, errors.New(strings.Repeat("ä", 5000))
	case "latin1":
		return nil, errors.New("gr\xfc\xdfe")
	case "newline":
		return []byte("a\nb"), nil
	case "retry":
		return nil, Retry(90*time.Second, "later")
	case "wrapped retry":
		return nil, fmt.Errorf("in vain: %w", Retry(-time.Second, "at once"))
	case "long type":
		m.ReplyType = strings.Repeat("x", 5000)
	case "huge":
		return make([]byte, frame.MaxReply+1), nil
	}
	return m.Body, nil
}

func TestFailures(t *testing.T) {
	stderr := os.Stderr
	defer func() { os.Stderr = stderr }()
	var err error
	if os.Stderr, err = os.Create(filepath.Join(t.TempDir(), "stderr")); err != nil {
		t.Fatal(err)
	}
	p := start(t, "frames", Handlers{Message: misbehave})
	for _, tt := range [][2]string{
		{"error", "!error: bad luck"},
		{"refuse", "!refused: not mine"},
		{"wrapped", "!refused: in vain: not mine"},
		{"fake", "!error: refused: not really"},
		{"panic", "!panic: boom"},
		{"index", "!panic: runtime error: slice bounds out of range [:1048576] with capacity 5"},
		{"latin1", "!error: gr\uFFFDe"},
		{"long", "!error: " + strings.Repeat("ä", 2048)},
		{"huge", "!error: the reply has 67108865 bytes, and poolinit takes 67108864"},
		{"newline", "a\nb"},
		{"fine", "fine"},
	} {
		p.send(framed(tt[0]))
		p.want(tt[1])
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(os.Stderr.Name())
	if err != nil || !strings.Contains(string(text), "worker: panic: boom\n") || !strings.Contains(string(text), "worker_test.go:") {
		t.Errorf("stderr %q, %v: no stack", text, err)
	}
}

func TestStartAndStop(t *testing.T) {
	var log []string
	p := start(t, "frames", Handlers{
		Start: func(_ context.Context, w *Worker) error {
			log = append(log, fmt.Sprint("start ", w.ID, w.Workers, w.Generation))
			return w.Status("loading\nthings")
		},
		Message: func(_ context.Context, m *Message) ([]byte, error) {
			log = append(log, fmt.Sprint("message ", m.Worker.ID))
			return nil, nil
		},
		Stop: func(context.Context, *Worker) { log = append(log, "stop") },
	})
	p.wantNotice("STATUS=loading things")
	p.wantNotice("READY=1")
	p.send(framed("x"))
	p.want("")
	if err := p.end(); err != nil {
		t.Error(err)
	}
	if got := strings.Join(log, ", "); got != "start 3 8 2, message 3, stop" {
		t.Error(got)
	}
}

func TestStartFails(t *testing.T) {
	p := start(t, "frames", Handlers{
		Start:   func(context.Context, *Worker) error { return io.ErrNoProgress },
		Message: echo,
		Stop:    func(context.Context, *Worker) { t.Error("stopped") },
	})
	if err := p.ended(); !errors.Is(err, io.ErrNoProgress) {
		t.Error(err)
	}
}

func TestBrokenInput(t *testing.T) {
	for bytes, want := range map[string]error{
		"":                                   nil,
		"\x00":                               io.ErrUnexpectedEOF,
		"\x00\x00\x00\x05hell":               io.ErrUnexpectedEOF,
		"\x7f\xff\xff\xffx":                  io.ErrUnexpectedEOF,
		framed("whole") + "\x00\x00\x00\x01": io.ErrUnexpectedEOF,
	} {
		p := start(t, "frames", Handlers{Message: echo})
		p.send(bytes)
		if err := p.end(); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", bytes, err, want)
		}
	}
}

// A slow message does not hold the replies of those before it.
func TestSlowMessageInBatch(t *testing.T) {
	goOn := make(chan struct{})
	p := start(t, "frames", Handlers{Message: func(_ context.Context, m *Message) ([]byte, error) {
		if string(m.Body) == "slow" {
			<-goOn
		}
		return m.Body, nil
	}})
	for range 3 {
		p.send(framed("a"), framed("b"), framed("slow"), framed("c"))
		p.want("a", "b")
		goOn <- struct{}{}
		p.want("slow", "c")
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(enough); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", enough, what)
		}
	}
}

// On SIGTERM the worker asks for no more, and serves what comes all the same.
func TestSIGTERM(t *testing.T) {
	hurried := make(chan struct{})
	p := start(t, "frames", Handlers{Message: func(ctx context.Context, m *Message) ([]byte, error) {
		if string(m.Body) == "slow" {
			<-ctx.Done()
			close(hurried)
		}
		return m.Body, ctx.Err()
	}})
	p.wantNotice("READY=1")
	p.send(framed("a"))
	p.want("a")
	term(t)
	p.wantNotice("STOPPING=1")
	p.send(framed("b"), framed("slow"))
	p.want("b")
	term(t)
	<-hurried
	p.want("!error: context canceled")
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

func term(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// The same for a context, which handlers do not get to feel.
func TestContextDone(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "value"))
	p := startCtx(t, ctx, "frames", Handlers{Message: func(ctx context.Context, m *Message) ([]byte, error) {
		return []byte(ctx.Value(key{}).(string)), ctx.Err()
	}})
	p.wantNotice("READY=1")
	cancel()
	p.wantNotice("STOPPING=1")
	p.send(framed("a"))
	p.want("value")
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

// If poolinit cannot be told, what is here is answered, and that is the end.
func TestStopUntold(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	in := make(chan struct{})
	p := startCtx(t, ctx, "frames", Handlers{Message: func(_ context.Context, m *Message) ([]byte, error) {
		if string(m.Body) == "first" {
			cancel()
			<-in
		}
		return m.Body, nil
	}})
	p.notify.Close()
	p.send(framed("first"))
	eventually(t, "the end of the worker's input", func() bool {
		_, err := p.Write([]byte(framed("x")))
		return err != nil
	})
	close(in)
	p.want("first")
	if err := p.ended(); err != nil {
		t.Error(err)
	}
}

func TestDetachInMessage(t *testing.T) {
	work := make(chan struct{})
	stopped := false
	p := start(t, "frames", Handlers{
		Message: func(_ context.Context, m *Message) ([]byte, error) {
			if string(m.Body) == "go" {
				if err := m.Detach([]byte("gone")); err != nil {
					t.Error(err)
				}
				<-work
			}
			return m.Body, nil
		},
		Stop: func(context.Context, *Worker) { stopped = true },
	})
	p.send(framed("a"), framed("go"), framed("never"))
	p.want("a", "gone")
	if got := p.next(); got == "never" || got == "go" {
		t.Errorf("%q after the end", got)
	}
	close(work)
	if err := p.ended(); err != nil || !stopped {
		t.Errorf("%v, stopped %v", err, stopped)
	}
}

func TestDetachIdle(t *testing.T) {
	worker := make(chan *Worker, 1) // 1: Start does not wait
	p := start(t, "frames", Handlers{
		Start:   func(_ context.Context, w *Worker) error { worker <- w; return nil },
		Message: echo,
	})
	p.wantNotice("READY=1")
	if err := (<-worker).Detach(); err != nil {
		t.Error(err)
	}
	p.want("EOF")
	if err := p.ended(); err != nil {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	_, fd := socketpair(t)
	defer syscall.Close(fd)
	sane := map[string]string{"POOLINIT_FD": strconv.Itoa(fd), "POOLINIT_DELIVER": "frames",
		"POOLINIT_WORKER_ID": "0", "POOLINIT_WORKERS": "1", "POOLINIT_GENERATION": "1"}
	for _, tt := range []struct{ name, value, want string }{
		{"POOLINIT_FD", "", "POOLINIT_FD is not set"},
		{"POOLINIT_FD", "three", `POOLINIT_FD is "three"`},
		{"POOLINIT_FD", "-1", `POOLINIT_FD is "-1"`},
		{"POOLINIT_FD", "0", "no socket"},
		{"POOLINIT_FD", "99999", "no socket"},
		{"POOLINIT_DELIVER", "exec", `POOLINIT_DELIVER is "exec"`},
		{"POOLINIT_DELIVER", "tagged", `POOLINIT_CONCURRENCY is ""`},
		{"POOLINIT_WORKER_ID", "", "POOLINIT_WORKER_ID"},
		{"POOLINIT_GENERATION", "x", "POOLINIT_GENERATION"},
		{"", "", ""},
	} {
		_, err := fromEnviron(func(name string) string {
			if name == tt.name {
				return tt.value
			}
			return sane[name]
		})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s=%s: %v, want %s", tt.name, tt.value, err, tt.want)
		}
	}
	t.Setenv("POOLINIT_FD", "")
	if err := Run(context.Background(), Handlers{Message: echo}); !errors.Is(err, ErrNoPool) {
		t.Error(err)
	}
	if err := Run(context.Background(), Handlers{}); err == nil {
		t.Error("no handler, no error")
	}
}

// An idle worker and one that goes on are alive; one that hangs says nothing.
func TestWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "20000")
	hang := make(chan struct{})
	p := start(t, "frames", Handlers{Message: func(_ context.Context, m *Message) ([]byte, error) {
		<-hang
		return nil, nil
	}})
	p.wantNotice("READY=1")
	p.wantNotice("WATCHDOG=1")
	p.wantNotice("WATCHDOG=1")
	p.send(framed("x"))
	eventually(t, "silence", func() bool {
		_ = p.notify.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := p.notify.Read(make([]byte, 64))
		return errors.Is(err, os.ErrDeadlineExceeded)
	})
	_ = p.notify.SetReadDeadline(time.Now().Add(enough))
	close(hang)
	p.want("")
	p.wantNotice("WATCHDOG=1")
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

// Whatever way the bytes come in, the same messages come out.
func FuzzReader(f *testing.F) {
	f.Add([]byte(framed("hello")+framed("")+"\x00\x00\x00\x09part"), false, uint8(1))
	f.Add([]byte("one\n\ntwo\npart"), true, uint8(2))
	f.Add([]byte("\xff\xff\xff\xffx"), false, uint8(3))
	f.Add([]byte("\x7f\xff\xff\xff"+"a few"), false, uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, lines bool, step uint8) {
		want := plain(data, lines)
		r := reader{src: &dribble{data, int(step)}, format: map[bool]format{true: formatLines, false: formatFrames}[lines]}
		rest := len(data)
		for {
			for {
				more := r.more()
				i, ok := r.next()
				body := i.body
				if ok != more {
					t.Fatal("more and next do not agree")
				}
				if !ok {
					break
				}
				if len(want) == 0 || !bytes.Equal(body, want[0]) {
					t.Fatalf("%q, want %q", body, want)
				}
				want, rest = want[1:], rest-len(body)-map[bool]int{true: 1, false: frame.HeaderSize}[lines]
			}
			err := r.fill()
			if len(r.buf) > keepBuffer+2*len(data) {
				t.Fatalf("a buffer of %d bytes for %d", len(r.buf), len(data))
			}
			if err != nil {
				if len(want) > 0 || (err == io.EOF) != (rest == 0) {
					t.Fatalf("%v with %d messages missing and %d bytes left", err, len(want), rest)
				}
				return
			}
		}
	})
}

// plain cuts messages in the simplest way.
func plain(data []byte, lines bool) (list [][]byte) {
	for {
		if lines {
			line, rest, ok := bytes.Cut(data, []byte{'\n'})
			if !ok {
				return list
			}
			list, data = append(list, line), rest
			continue
		}
		whole, _, err := frame.Cut(data, frame.MaxBody)
		if whole == nil || err != nil {
			return list
		}
		list, data = append(list, frame.Body(whole)), data[len(whole):]
	}
}

type dribble struct {
	data []byte
	step int
}

func (d *dribble) Read(b []byte) (int, error) {
	if len(d.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), max(d.step, 1))], d.data)
	d.data = d.data[n:]
	return n, nil
}

// What an echo costs, with as many messages on the way.
func BenchmarkEcho(b *testing.B) {
	for _, window := range []int{1, 8, 64} {
		b.Run(fmt.Sprint("window=", window), func(b *testing.B) {
			p := start(b, "frames", Handlers{Message: echo})
			_ = p.SetDeadline(time.Time{})
			batch := []byte(strings.Repeat(framed(strings.Repeat("x", 100)), window))
			back := make([]byte, len(batch))
			b.ReportAllocs()
			for n := 0; n < b.N; n += window {
				if _, err := p.Write(batch); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(p.r, back); err != nil {
					b.Fatal(err)
				}
			}
			if err := p.end(); err != nil {
				b.Error(err)
			}
		})
	}
}
