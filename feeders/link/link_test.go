package link_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/poolinit/poolinit/feeders/internal/frame"
	"github.com/poolinit/poolinit/feeders/internal/pooltest"
	"github.com/poolinit/poolinit/feeders/link"
)

// connect returns both ends of a link after the hellos.
func connect(t *testing.T, h link.Hello, handle func(pooltest.Message) pooltest.Reply) (*link.Link, link.Hello, *pooltest.Pool) {
	t.Helper()
	ours, theirs := net.Pipe()
	p := pooltest.New(theirs, handle)
	failed := make(chan error, 1) // 1: Start ends before it is read
	go func() { failed <- p.Start(h) }()
	l, got, err := link.New(ours)
	if err := errors.Join(err, <-failed); err != nil {
		t.Fatal(err)
	}
	return l, got, p
}

// end closes the link and fails the test for every breach of the contract.
func end(t *testing.T, l *link.Link, p *pooltest.Pool) {
	t.Helper()
	_ = l.Close()
	<-p.Ended()
	if f := p.See().Faults; len(f) > 0 {
		t.Errorf("the feeder broke the contract: %q", f)
	}
}

func TestHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := link.Hello{Version: 1, Feed: "jobs", URL: "redis://:secret@h?list=jobs", Workers: 4, MaxMessage: 9, Credit: 3}
		l, got, p := connect(t, want, nil)
		if got != want {
			t.Errorf("the hello is %+v of %s", got, got.URL.Reveal())
		}
		if s := fmt.Sprintf("%+v", got); strings.Contains(s, "secret") {
			t.Errorf("the hello prints as %s", s)
		}
		end(t, l, p)
	})
}

// Messages go out, answers come in any order, and control frames stand between them.
func TestMessagesAndAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		second := make(chan struct{})
		l, _, p := connect(t, link.Hello{Credit: 2}, func(m pooltest.Message) pooltest.Reply {
			if m.Body == "one" {
				<-second
				return pooltest.Reply{Text: strings.Repeat("x", 100_000)}
			}
			close(second)
			return pooltest.Reply{Code: frame.Refused, Text: "no: " + m.Meta.Key}
		})
		l.Ready()
		l.Down("two\nlines " + strings.Repeat("long ", 1000))
		l.Ping()
		l.Send(1, nil, []byte("one"))
		l.Send(2, []byte(`{"key":"k"}`), []byte("two"))
		l.Flush()
		p.Wait(func(v pooltest.View) bool { return v.Pings == 1 })
		p.Credit(7)
		_ = p.Control(map[string]any{"later": []int{1}})
		go p.Stats()
		var b link.Batch
		got := map[uint64]string{}
		credit, stats := -1, false
		for len(got) < 2 || !stats || credit < 0 {
			if err := l.Next(&b); err != nil {
				t.Fatal(err)
			}
			for _, a := range b.Answers {
				code, text := a.Failure()
				got[a.Tag] = fmt.Sprintf("%v %d %s, %s", a.Failed, len(a.Body), code, text[:min(len(text), 8)])
			}
			credit, stats = max(credit, b.Credit), stats || b.Stats
		}
		l.Stats(map[string]int{"acked": 2})
		p.Wait(func(v pooltest.View) bool { return v.Stats == 1 })
		if got[1] != "false 100000 , xxxxxxxx" || got[2] != "true 14 refused, no: k" || credit != 7 {
			t.Errorf("answers %v, credit %d", got, credit)
		}
		v := p.See()
		if v.Ready != 1 || len(v.Downs) != 1 || len(v.Downs[0]) > 1024 || !strings.HasPrefix(v.Downs[0], "two lines long") || p.LastStats()["acked"] != 2.0 {
			t.Errorf("poolinit has seen %+v, %v", v, p.LastStats())
		}
		end(t, l, p)
	})
}

// The end of the link, and what is not the protocol.
func TestEnds(t *testing.T) {
	credit := frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"credit":5}`)})
	answer := frame.AppendTagged(nil, frame.Tagged{Tag: 1, Body: []byte("r")})
	for _, tt := range []struct {
		name, in string
		credit   int
		answers  int
		err      error
	}{
		{"end", "", -1, 0, io.EOF},
		{"end after frames", string(credit) + string(answer), 5, 1, io.EOF},
		{"half a frame", string(answer[:5]), -1, 0, io.ErrUnexpectedEOF},
		{"a frame and a half", string(answer) + string(answer[:7]), -1, 1, io.ErrUnexpectedEOF},
		{"no tag", "\x00\x00\x00\x02xx", -1, 0, frame.ErrNoTag},
		{"long", "\x3f\xff\xff\xff", -1, 0, frame.ErrTooLong},
		{"unknown control", string(frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"new":1}`)})) + string(credit), 5, 0, io.EOF},
		{"bad control", string(frame.AppendTagged(nil, frame.Tagged{Body: []byte(`[1]`)})), -1, 0, errors.ErrUnsupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hello := frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"hello":1}`)})
			l, _, err := link.New(&script{Reader: io.MultiReader(bytes.NewReader(hello), strings.NewReader(tt.in))})
			if err != nil {
				t.Fatal(err)
			}
			answers, credit := 0, -1
			for err == nil {
				var b link.Batch
				err = l.Next(&b)
				answers, credit = answers+len(b.Answers), max(credit, b.Credit)
			}
			if answers != tt.answers || credit != tt.credit || !errors.Is(err, tt.err) && tt.err != errors.ErrUnsupported {
				t.Errorf("%d answers, credit %d, %v", answers, credit, err)
			}
			_ = l.Close()
		})
	}
}

func TestBadHello(t *testing.T) {
	for _, in := range []string{"", "\x00\x00\x00\x05hello", string(frame.AppendTagged(nil, frame.Tagged{Tag: 1, Body: []byte(`{"hello":1}`)})),
		string(frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"hello":2}`)})), string(frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{`)}))} {
		s := &script{Reader: strings.NewReader(in)}
		if _, _, err := link.New(s); err == nil || !s.closed {
			t.Errorf("%q: %v, closed %v", in, err, s.closed)
		}
	}
	_, _, err := link.New(&script{Reader: strings.NewReader(string(frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"hello":2}`)})))})
	if !errors.Is(err, link.ErrVersion) {
		t.Errorf("another version: %v", err)
	}
}

// Two batches take turns: what the first one has stays until it is used again.
func TestBatchesTakeTurns(t *testing.T) {
	var in []byte
	in = frame.AppendTagged(in, frame.Tagged{Body: []byte(`{"hello":1}`)})
	for i := range 200 {
		in = frame.AppendTagged(in, frame.Tagged{Tag: uint64(i + 1), Body: bytes.Repeat([]byte{byte(i)}, 1000)})
	}
	l, _, err := link.New(&script{Reader: &slowly{in, 3333}})
	if err != nil {
		t.Fatal(err)
	}
	var two [2]link.Batch
	var last []link.Answer
	next := uint64(1)
	for i := 0; ; i++ {
		err := l.Next(&two[i%2])
		for _, a := range last {
			if !bytes.Equal(a.Body, bytes.Repeat([]byte{byte(a.Tag - 1)}, 1000)) {
				t.Fatalf("the body of %d has changed", a.Tag)
			}
		}
		for _, a := range two[i%2].Answers {
			if a.Tag != next {
				t.Fatalf("tag %d, want %d", a.Tag, next)
			}
			next++
		}
		last = slices.Clone(two[i%2].Answers)
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if next != 201 {
		t.Errorf("%d answers", next-1)
	}
	_ = l.Close()
}

// A script is a connection with a given input.
type script struct {
	io.Reader
	closed bool
}

func (s *script) Write(p []byte) (int, error) { return len(p), nil }
func (s *script) Close() error                { s.closed = true; return nil }

// slowly gives a few bytes a read.
type slowly struct {
	rest []byte
	step int
}

func (s *slowly) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest[:min(len(s.rest), s.step)])
	s.rest = s.rest[n:]
	return n, nil
}

// A feeder reads while it cannot write.
func TestReadsWhileItCannotWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = frame.ReadTagged(theirs, 100)
			_, _ = theirs.Write(frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"hello":1}`)}))
			_, _ = theirs.Write(frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"credit":1}`)})) // and it never reads
		}()
		l, _, err := link.New(ours)
		if err != nil {
			t.Fatal(err)
		}
		l.Send(1, nil, make([]byte, 1<<20))
		l.Flush()
		var b link.Batch
		if err := l.Next(&b); err != nil || b.Credit != 1 {
			t.Errorf("credit %d, %v", b.Credit, err)
		}
		_ = l.Close()
	})
}

func FuzzNext(f *testing.F) {
	f.Add(frame.AppendTagged(frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"credit":5,"x":[]}`)}), frame.Tagged{Tag: 7, Failed: true, Meta: []byte("{}"), Body: []byte("a: b")}), 3)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		hello := frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"hello":1}`)})
		l, _, err := link.New(&script{Reader: io.MultiReader(bytes.NewReader(hello), &slowly{in, max(step, 1)})})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var b link.Batch
		for err == nil {
			before := len(b.Answers)
			if err = l.Next(&b); err == nil && b.Credit < 0 && len(b.Answers) == 0 && !b.Stats && !b.Drain {
				t.Fatalf("an empty batch after %d answers", before)
			}
			for _, a := range b.Answers {
				a.Failure()
			}
		}
	})
}
