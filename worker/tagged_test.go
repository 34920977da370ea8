package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/poolinit/poolinit/worker/internal/frame"
)

// startTagged runs a worker of a pool with --deliver tagged.
func startTagged(t testing.TB, concurrency string, h Handlers) *pool {
	t.Helper()
	t.Setenv("POOLINIT_CONCURRENCY", concurrency)
	return start(t, "tagged", h)
}

func tagged(tag uint64, body string) string { return taggedMeta(tag, "", body) }

func taggedMeta(tag uint64, meta, body string) string {
	return string(frame.AppendTagged(nil, frame.Tagged{Tag: tag, Meta: []byte(meta), Body: []byte(body)}))
}

var drain = string(frame.AppendControl(nil, frame.Control{Drain: true}))

// nextTagged reads an answer: "TAG META BODY", with a ! before the body of a
// failure.
func (p *pool) nextTagged() string {
	f, err := frame.ReadTagged(p.r, frame.MaxTaggedBody)
	if err != nil {
		return err.Error()
	}
	s := fmt.Sprint(f.Tag, " ")
	if f.Meta != nil {
		s += string(f.Meta) + " "
	}
	if f.Failed {
		s += "!"
	}
	return s + string(f.Body)
}

func (p *pool) wantTagged(answers ...string) {
	p.t.Helper()
	for _, want := range answers {
		if got := p.nextTagged(); got != want {
			p.t.Errorf("answer %.200q, want %.200q", got, want)
		}
	}
}

// wantAnyOrder reads as many answers.
func (p *pool) wantAnyOrder(answers ...string) {
	p.t.Helper()
	var got []string
	for range answers {
		got = append(got, p.nextTagged())
	}
	slices.Sort(got)
	slices.Sort(answers)
	if !slices.Equal(got, answers) {
		p.t.Errorf("answers %.500q, want %.500q", got, answers)
	}
}

// both runs a test with messages one after the other, and at the same time.
func both(t *testing.T, test func(t *testing.T, concurrency int)) {
	t.Helper()
	for _, n := range []int{1, 4} {
		t.Run(fmt.Sprint("concurrency ", n), func(t *testing.T) { test(t, n) })
	}
}

func TestTagged(t *testing.T) {
	both(t, func(t *testing.T, n int) {
		p := startTagged(t, fmt.Sprint(n), Handlers{Message: echo, Concurrency: n})
		big := strings.Repeat("0123456789abcdef", 1<<16)
		var want []string
		go func() { // ends when all is written; the worker reads all
			for i, body := range []string{"hello", "", big, "x", big, big[:40000]} {
				p.send(tagged(uint64(i+1), body))
			}
			for i := range 5000 {
				p.send(tagged(uint64(i+100), fmt.Sprint(i)))
			}
			p.send(drain)
		}()
		for i, body := range []string{"hello", "", big, "x", big, big[:40000]} {
			want = append(want, fmt.Sprint(i+1, " ", body))
		}
		for i := range 5000 {
			want = append(want, fmt.Sprint(i+100, " ", i))
		}
		p.wantAnyOrder(want...)
		if err := p.end(); err != nil {
			t.Error(err)
		}
		p.wantTagged("EOF")
	})
}

func TestTaggedMeta(t *testing.T) {
	both(t, func(t *testing.T, n int) {
		p := startTagged(t, fmt.Sprint(n), Handlers{Concurrency: n, Message: func(_ context.Context, m *Message) ([]byte, error) {
			if string(m.Body) == "type" {
				m.ReplyType = `text/"plain"`
			}
			meta := m.Meta()
			return fmt.Append(nil, meta.ID, " ", meta.Attempt, " ", meta.Source, " ", meta.Key, " ", meta.Time.Unix(), " ", meta.Headers), nil
		}})
		p.send(taggedMeta(1, `{"id":"17","attempt":2,"source":"tcp://x:1","key":"k","time":"2026-11-30T20:00:00Z","headers":{"a":"b"},"new":[]}`, "x"))
		p.wantTagged("1 17 2 tcp://x:1 k 1796068800 map[a:b]")
		p.send(tagged(2, "type"))
		p.wantTagged(`2 {"type":"text/\"plain\""}  0   -62135596800 map[]`)
		p.send(tagged(3, "x")) // a type is one reply's
		p.wantTagged(`3  0   -62135596800 map[]`)
		if err := p.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestTaggedFailures(t *testing.T) {
	stderr := os.Stderr
	defer func() { os.Stderr = stderr }()
	var err error
	if os.Stderr, err = os.Create(t.TempDir() + "/stderr"); err != nil {
		t.Fatal(err)
	}
	both(t, func(t *testing.T, n int) {
		p := startTagged(t, fmt.Sprint(n), Handlers{Message: misbehave, Concurrency: n})
		for i, tt := range [][2]string{
			{"error", "!error: bad luck"},
			{"refuse", "!refused: not mine"},
			{"retry", "!retry: 1m30s: later"},
			{"wrapped retry", "!retry: 0s: in vain: at once"},
			{"panic", "!panic: boom"},
			{"huge", "!error: the reply has 67108865 bytes, and poolinit takes 67108864"},
			{"newline", "a\nb"},
			{"long type", "!error: the type of the reply has 5000 bytes, and the limit is 4096"},
			{"fine", "fine"},
		} {
			p.send(tagged(uint64(i+1), tt[0]))
			p.wantTagged(fmt.Sprint(i+1, " ", tt[1]))
		}
		if err := p.end(); err != nil {
			t.Error(err)
		}
	})
}

// Plain frames have Retry as well.
func TestRetry(t *testing.T) {
	p := start(t, "frames", Handlers{Message: misbehave})
	p.send(framed("retry"))
	p.want("!retry: 1m30s: later")
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

func TestTouch(t *testing.T) {
	both(t, func(t *testing.T, n int) {
		goOn := make(chan struct{})
		p := startTagged(t, fmt.Sprint(n), Handlers{Concurrency: n, Message: func(_ context.Context, m *Message) ([]byte, error) {
			if err := m.Touch(); err != nil {
				return nil, err
			}
			<-goOn
			return m.Body, m.Touch()
		}})
		p.send(tagged(9, "slow"))
		p.wantTagged(`0 {"touch":9}`)
		close(goOn)
		p.wantTagged(`0 {"touch":9}`, "9 slow")
		if err := p.end(); err != nil {
			t.Error(err)
		}
	})
	p := start(t, "frames", Handlers{Message: func(_ context.Context, m *Message) ([]byte, error) { return nil, m.Touch() }})
	p.send(framed("x"))
	p.want("!error: " + ErrNoTouch.Error())
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

// As many are handled at the same time as both the pool and the program say, and
// no more.
func TestConcurrency(t *testing.T) {
	for _, tt := range []struct {
		pool  string
		own   int
		most  int32
		plain bool
	}{
		{"4", 4, 4, false}, {"4", 16, 4, false}, {"16", 3, 3, false}, {"5", -1, 5, false}, {"8", 0, 1, false}, {"1", 8, 1, false},
		{"8", 8, 1, true},
	} {
		t.Run(fmt.Sprintf("%s and %d, plain %v", tt.pool, tt.own, tt.plain), func(t *testing.T) {
			var now, most atomic.Int32
			goOn := make(chan struct{})
			t.Setenv("POOLINIT_CONCURRENCY", tt.pool)
			deliver := "tagged"
			if tt.plain {
				deliver = "frames"
			}
			p := start(t, deliver, Handlers{Concurrency: tt.own, Message: func(_ context.Context, m *Message) ([]byte, error) {
				n := now.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				<-goOn
				now.Add(-1)
				return m.Body, nil
			}})
			for i := range uint64(20) {
				if tt.plain {
					p.send(framed("x"))
				} else {
					p.send(tagged(i+1, "x"))
				}
			}
			eventually(t, "as many as may be are in hand", func() bool { return now.Load() == tt.most })
			close(goOn)
			for range 20 {
				if tt.plain {
					p.want("x")
				} else {
					p.nextTagged()
				}
			}
			if err := p.end(); err != nil || most.Load() != tt.most {
				t.Errorf("%v, %d at the same time, want %d", err, most.Load(), tt.most)
			}
		})
	}
}

// A slow message holds up no other one, and a panic is one message's alone.
func TestConcurrentAnyOrder(t *testing.T) {
	stderr := os.Stderr
	defer func() { os.Stderr = stderr }()
	var err error
	if os.Stderr, err = os.Create(t.TempDir() + "/stderr"); err != nil {
		t.Fatal(err)
	}
	goOn := make(chan struct{})
	p := startTagged(t, "4", Handlers{Concurrency: 4, Message: func(_ context.Context, m *Message) ([]byte, error) {
		switch string(m.Body) {
		case "slow":
			<-goOn
		case "panic":
			panic("boom")
		}
		return m.Body, nil
	}})
	p.send(tagged(1, "slow"), tagged(2, "panic"), tagged(3, "a"), tagged(4, "b"))
	p.wantAnyOrder("2 !panic: boom", "3 a", "4 b")
	for i := range uint64(100) {
		p.send(tagged(i+5, "fast"))
		p.wantTagged(fmt.Sprint(i+5, " fast"))
	}
	p.send(drain)
	if err := p.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	p.wantTagged("1 slow", "EOF")
	if err := p.ended(); err != nil {
		t.Error(err)
	}
}

// Each handler has bytes of its own.
func TestConcurrentBodies(t *testing.T) {
	p := startTagged(t, "8", Handlers{Concurrency: 8, Message: func(_ context.Context, m *Message) ([]byte, error) {
		want := m.Meta().Key
		for range 20 {
			time.Sleep(50 * time.Microsecond) // others come meanwhile
			if string(m.Body) != want {
				return nil, fmt.Errorf("%q is %q now", want, m.Body)
			}
		}
		return append(m.Body, m.Meta().Key...), nil
	}})
	var want []string
	go func() { // ends when all is written
		for i := range uint64(400) {
			p.send(taggedMeta(i+1, fmt.Sprintf(`{"key":"%d"}`, i), fmt.Sprint(i)))
		}
	}()
	for i := range 400 {
		want = append(want, fmt.Sprint(i+1, " ", i, i))
	}
	for i := range want {
		want[i] = fmt.Sprintf("%d %d%d", i+1, i, i)
	}
	p.wantAnyOrder(want...)
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

func TestTaggedDetach(t *testing.T) {
	both(t, func(t *testing.T, n int) {
		var others sync.WaitGroup
		work := make(chan struct{})
		stopped := false
		p := startTagged(t, fmt.Sprint(n), Handlers{
			Concurrency: n,
			Message: func(_ context.Context, m *Message) ([]byte, error) {
				switch string(m.Body) {
				case "go":
					others.Wait()
					if err := m.Detach([]byte("gone")); err != nil {
						t.Error(err)
					}
				case "other":
					others.Done()
					<-work
				}
				return m.Body, nil
			},
			Stop: func(context.Context, *Worker) { stopped = true },
		})
		p.send(tagged(1, "a"))
		p.wantTagged("1 a")
		if n > 1 {
			others.Add(1)
			p.send(tagged(2, "other"))
		}
		p.send(tagged(3, "go"), tagged(4, "x"))
		if got := p.nextTagged(); got == "4 x" {
			p.wantTagged("3 gone")
		} else if got != "3 gone" {
			t.Errorf("%q", got)
		}
		if got := p.nextTagged(); n > 1 && got == "2 other" || got == "3 go" {
			t.Errorf("%q after the end", got)
		}
		close(work)
		if err := p.ended(); err != nil || !stopped {
			t.Errorf("%v, stopped %v", err, stopped)
		}
	})
}

func TestTaggedBrokenInput(t *testing.T) {
	both(t, func(t *testing.T, n int) {
		for bytes, want := range map[string]error{
			"":                      nil,
			drain:                   nil,
			"\x00":                  io.ErrUnexpectedEOF,
			tagged(1, "hello")[:13]: io.ErrUnexpectedEOF,
			"\x00\x00\x00\x05hello": frame.ErrNoTag,
			"\x00\x00\x00\x08\xff\xff\xff\xff\xff\xff\xff\xff": frame.ErrBadTag,
		} {
			p := startTagged(t, fmt.Sprint(n), Handlers{Message: echo, Concurrency: n})
			p.send(bytes)
			if err := p.end(); !errors.Is(err, want) {
				t.Errorf("%q: %v, want %v", bytes, err, want)
			}
		}
	})
}

func TestConcurrentWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "20000")
	hang := make(chan struct{})
	p := startTagged(t, "2", Handlers{Concurrency: 2, Message: func(_ context.Context, m *Message) ([]byte, error) {
		<-hang
		return nil, nil
	}})
	p.wantNotice("READY=1")
	p.wantNotice("WATCHDOG=1")
	p.send(tagged(1, "x"), tagged(2, "x"))
	eventually(t, "silence", func() bool {
		_ = p.notify.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := p.notify.Read(make([]byte, 64))
		return errors.Is(err, os.ErrDeadlineExceeded)
	})
	_ = p.notify.SetReadDeadline(time.Now().Add(enough))
	close(hang)
	p.wantAnyOrder("1 ", "2 ")
	p.wantNotice("WATCHDOG=1")
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

// Whatever way the bytes come in, the same messages come out.
func FuzzTaggedReader(f *testing.F) {
	f.Add([]byte(tagged(1, "hello")+drain+taggedMeta(2, "{}", "")+"\x00\x00\x00\x09part"), uint8(1))
	f.Add([]byte("\x40\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05hello"), uint8(3))
	f.Add([]byte("\x3f\xff\xff\xffx"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		r := reader{src: &dribble{data, int(step)}, format: formatTagged}
		want := bytes.NewReader(data)
		for {
			for i, ok := r.next(); ok; i, ok = r.next() {
				w := frame.Tagged{}
				var err error
				for w.Tag == 0 && err == nil {
					w, err = frame.ReadTagged(want, frame.MaxTaggedBody)
				}
				if err != nil || w.Tag != i.tag || !bytes.Equal(w.Body, i.body) || !bytes.Equal(w.Meta, i.meta) {
					t.Fatalf("%v, want %v, %v", i, w, err)
				}
			}
			err := r.fill()
			if len(r.buf) > keepBuffer+2*len(data) {
				t.Fatalf("a buffer of %d bytes for %d", len(r.buf), len(data))
			}
			if err == nil {
				continue
			}
			w, werr := frame.Tagged{}, error(nil)
			for w.Tag == 0 && werr == nil {
				w, werr = frame.ReadTagged(want, frame.MaxTaggedBody)
			}
			if werr == nil || werr.Error() != err.Error() {
				t.Fatalf("%v at the end, want %v", err, werr)
			}
			return
		}
	})
}

// What an echo costs with tags, with as many messages on the way.
func BenchmarkTaggedEcho(b *testing.B) {
	for _, concurrency := range []int{1, 16} {
		b.Run(fmt.Sprint("concurrency=", concurrency), func(b *testing.B) {
			p := startTagged(b, fmt.Sprint(concurrency), Handlers{Message: echo, Concurrency: concurrency})
			_ = p.SetDeadline(time.Time{})
			batch := []byte(strings.Repeat(tagged(1, strings.Repeat("x", 100)), 64))
			back := make([]byte, len(batch))
			b.ReportAllocs()
			for n := 0; n < b.N; n += 64 {
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
