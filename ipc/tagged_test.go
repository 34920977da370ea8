package ipc_test

import (
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit/race"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

func taggedWorld(t testing.TB, concurrency int, change func(*ipc.Config)) *ipctest.World {
	return ipctest.NewWorld(t, func(c *ipc.Config) {
		c.Format, c.Concurrency, c.Window = ipc.Tagged, concurrency, 1
		if change != nil {
			change(c)
		}
	})
}

func fed(w *ipctest.World, worker int) *ipctest.TaggedWorker {
	t := w.NewTagged(worker)
	t.Serve(true, time.Time{})
	return t
}

// Answers come in any order, with or without meta, and each reaches its message.
func TestTaggedAnswersInAnyOrder(t *testing.T) {
	w := taggedWorld(t, 4, nil)
	worker, desk := fed(w, 0), w.NewDesk(nil)
	desk.Send("a", "b", "c", "d", "e")
	got := worker.Take(4)
	if n, _, flying := w.Q.Depth(); n != 1 || flying != 4 {
		t.Errorf("%d wait, %d are with the worker", n, flying)
	}
	worker.Say(frame.Tagged{Tag: got["c"].Tag, Meta: []byte(`{"type":"text/plain"}`), Body: []byte("C")})
	worker.Answer(worker.Next(), "E", false)
	worker.Answer(got["a"], "refused: no", true)
	worker.Answer(got["d"], "", false)
	worker.Answer(got["b"], strings.Repeat("B", 100_000), false)
	desk.Want("a", "!refused: no", "b", strings.Repeat("B", 100_000), "c", "C", "d", "", "e", "E")
	if _, _, meta := desk.Ended(); meta["c"] != `{"type":"text/plain"}` || meta["b"] != "" {
		t.Errorf("meta %q", meta)
	}
}

// A worker gets what is known of a message: the client's meta, and the pool's own,
// which wins but for the id.
func TestTaggedMeta(t *testing.T) {
	w := taggedWorld(t, 8, func(c *ipc.Config) { c.MessageTimeout = time.Hour })
	worker, desk := fed(w, 0), w.NewDesk(nil)
	for _, tt := range []struct{ clients, id, key string }{
		{"", "1", ""},
		{`{}`, "2", ""},
		{` { "key" : "k" } `, "3", "k"},
		{`{"id":"mine","attempt":9,"source":"x","time":"2000-01-01T00:00:00Z","headers":{"id":"no"}}`, "mine", ""},
		{`{"key":"\"id\"","headers":{"id":"no","a":"b"}}`, "5", `"id"`},
		{`{"x":[{"id":"no"},"id"]}`, "6", ""},
		{`{"x":[1,2],"id" : "last"}`, "last", ""},
	} {
		desk.SendMeta("body", tt.clients)
		f := worker.Next()
		m, err := frame.ParseMeta(f.Meta)
		age, left := time.Since(m.Time), time.Until(m.Deadline)
		if err != nil || m.ID != tt.id || m.Key != tt.key || m.Attempt != 1 || m.Source != "tcp://desk" ||
			age < -time.Second || age > ipctest.Patience || left > time.Hour+time.Second || left < 50*time.Minute || string(f.Body) != "body" {
			t.Errorf("%s: %s, %v", tt.clients, f.Meta, err)
		}
		worker.Answer(f, "", false)
	}
}

func TestSetMeta(t *testing.T) {
	flow := ipc.NewFlow(&ipc.Lane{Source: new(ipc.SourceStats)})
	for meta, ok := range map[string]bool{
		"": true, "{}": true, ` {"a":1} `: true, "[]": false, `"x"`: false, "{": false, `{"a":}`: false, "{} x": false, `{"id":7}`: false, `{"headers":{"a":1}}`: false,
		`{"a":"` + strings.Repeat("x", frame.MaxMeta) + `"}`: false,
	} {
		d := ipc.NewDelivery(nil, &flow, nil)
		if err := d.SetMeta([]byte(meta)); (err == nil) != ok || !ok && len(d.Meta()) > 0 {
			t.Errorf("%.40s: %v", meta, err)
		}
		d.Release()
	}
}

// What is left is told of the end first, then finishes, and then reads the end.
func TestTaggedDrain(t *testing.T) {
	w := taggedWorld(t, 2, nil)
	worker, desk := fed(w, 0), w.NewDesk(nil)
	desk.Send("a")
	a := worker.Next()
	done := worker.Finish()
	if f := worker.Next(); f.Tag != 0 || string(f.Body) != `{"drain":true}` {
		t.Errorf("tag %d, %s", f.Tag, f.Body)
	}
	if ipctest.IsClosed(done) {
		t.Error("finished with a message in hand")
	}
	worker.Answer(a, "A", false)
	<-done
	if _, err := frame.ReadTagged(worker.Conn, frame.MaxTaggedBody); err != io.EOF {
		t.Errorf("the input ends with %v", err)
	}
	desk.Want("a", "A")
}

// A worker that still works on a message says so, and is not late.
func TestTouch(t *testing.T) {
	w := taggedWorld(t, 2, func(c *ipc.Config) { c.MessageTimeout, c.Attempts = 300*time.Millisecond, 1 })
	worker, desk := fed(w, 0), w.NewDesk(nil)
	desk.Send("touched", "late")
	got := worker.Take(2)
	stop, ended := make(chan bool), make(chan bool)
	go func() { // ends with the test
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				_, _ = worker.Write(frame.AppendControl(nil, frame.Control{Touch: got["touched"].Tag}))
				_, _ = worker.Write(frame.AppendControl(nil, frame.Control{Touch: 1 << 50})) // is not open: ignored
			}
		}
	}()
	if ask := <-worker.Asks(); ask != ipc.AskTimeout {
		t.Errorf("asks for %s", ask)
	}
	close(stop)
	<-ended
	worker.Channel.Close("killed for it")
	desk.Want("late", "!given-up: no answer within 300ms")
	w.NewTagged(1).Serve(true, time.Time{})
	if n, _, flying := w.Q.Depth(); n+flying != 1 {
		t.Errorf("%d messages are left, want the innocent one", n+flying)
	}
}

// What a worker must not do. The answers before it count.
func TestTaggedFaults(t *testing.T) {
	for name, fault := range map[string]func(worker *ipctest.TaggedWorker, a, b frame.Tagged){
		"an open tag of nobody": func(w *ipctest.TaggedWorker, _, b frame.Tagged) {
			w.Answer(frame.Tagged{Tag: b.Tag + 1<<20}, "x", false)
		},
		"a second answer":      func(w *ipctest.TaggedWorker, a, _ frame.Tagged) { w.Answer(a, "x", false) },
		"no object as control": func(w *ipctest.TaggedWorker, _, _ frame.Tagged) { w.Say(frame.Tagged{Body: []byte("[1]")}) },
		"a plain frame":        func(w *ipctest.TaggedWorker, _, _ frame.Tagged) { _, _ = w.Write(frame.Append(nil, []byte("hi"))) },
		"a reply that is too big": func(w *ipctest.TaggedWorker, _, b frame.Tagged) {
			_, _ = w.Write(frame.AppendTaggedHeader(nil, b.Tag, false, nil, frame.MaxReply+1))
		},
		"a tag that is too high": func(w *ipctest.TaggedWorker, _, _ frame.Tagged) {
			_, _ = w.Write(frame.AppendTaggedHeader(nil, 1<<60, false, nil, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := taggedWorld(t, 2, nil)
			worker, desk := fed(w, 0), w.NewDesk(nil)
			desk.Send("a", "b")
			got := worker.Take(2)
			worker.Answer(got["a"], "A", false)
			fault(worker, got["a"], got["b"])
			if ask := <-worker.Asks(); ask != ipc.AskBroken {
				t.Errorf("asks for %s", ask)
			}
			worker.Channel.Close("stopped for it")
			next := fed(w, 1)
			next.Answer(next.Next(), "B", false)
			desk.Want("a", "A", "b", "B")
		})
	}
}

// The attempt in the meta counts, and a retry keeps the client's meta.
func TestTaggedRetryKeepsMeta(t *testing.T) {
	w := taggedWorld(t, 2, nil)
	worker, desk := fed(w, 0), w.NewDesk(nil)
	desk.SendMeta("a", `{"id":"mine","key":"k"}`)
	first := worker.Next()
	worker.Say(frame.Tagged{Tag: first.Tag, Failed: true, Meta: []byte(`{"type":"x"}`), Body: []byte("error: no")})
	second := worker.Next()
	m, err := frame.ParseMeta(second.Meta)
	if err != nil || m.ID != "mine" || m.Key != "k" || m.Attempt != 2 || second.Tag == first.Tag {
		t.Errorf("tag %d then %d, %s", first.Tag, second.Tag, second.Meta)
	}
	worker.Answer(second, "A", false)
	desk.Want("a", "A")
}

// Several messages in hand when a worker dies: each is delivered again alone, and
// only the one that kills alone is charged.
func TestSuspectsAreIsolated(t *testing.T) {
	w := taggedWorld(t, 4, func(c *ipc.Config) { c.Attempts = 2 })
	desk := w.NewDesk(nil)
	first := fed(w, 0)
	desk.Send("a", "poison", "c")
	first.Take(3)
	first.Close()
	first.Channel.Close("the worker died of SIGKILL")
	desk.Send("new") // goes on, beside
	worker := fed(w, 0)
	for n := 1; n < 10; n++ {
		ended, _, _ := desk.Ended()
		if len(ended) == 4 {
			break
		}
		f := worker.Next()
		if string(f.Body) != "new" {
			if _, _, flying := w.Q.Depth(); flying != 1 {
				t.Errorf("%s is not alone: %d are in flight", f.Body, flying)
			}
		}
		if string(f.Body) != "poison" {
			worker.Answer(f, "ok", false)
			ipctest.Eventually(t, "it has ended", func() bool { now, _, _ := desk.Ended(); return len(now) > len(ended) })
			continue
		}
		worker.Close()
		worker.Channel.Close("the worker died of SIGKILL")
		ipctest.Eventually(t, "it is over", func() bool { _, _, flying := w.Q.Depth(); return flying == 0 })
		worker = fed(w, n)
	}
	desk.Want("a", "ok", "c", "ok", "new", "ok", "poison", "!given-up: after 2 attempts: the worker died of SIGKILL")
}

// With one attempt nothing is delivered again: all suspects are given up.
func TestSuspectsAtMostOnce(t *testing.T) {
	w := taggedWorld(t, 4, func(c *ipc.Config) { c.Attempts = 1 })
	desk, worker := w.NewDesk(nil), fed(w, 0)
	desk.Send("a", "b")
	worker.Take(2)
	worker.Close()
	worker.Channel.Close("it died")
	desk.Want("a", "!given-up: it died", "b", "!given-up: it died")
}

// taggedMirror is a worker that copies its input to its output, without the meta:
// an echo of tagged frames. It allocates nothing.
func taggedMirror(sock net.Conn) {
	in, out, have := make([]byte, 256<<10), make([]byte, 0, 256<<10), 0
	for {
		n, err := sock.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		rest := in[:have]
		out = out[:0]
		for {
			f, size, ok, err := frame.CutTagged(rest, frame.MaxReply)
			if err != nil {
				return
			}
			if !ok {
				break
			}
			out = frame.AppendTagged(out, frame.Tagged{Tag: f.Tag, Body: f.Body})
			rest = rest[size:]
		}
		have = copy(in, rest)
		if _, err := sock.Write(out); err != nil {
			return
		}
	}
}

// plainMirror is the same with plain frames.
func plainMirror(sock net.Conn) {
	in, out, have := make([]byte, 256<<10), make([]byte, 0, 256<<10), 0
	for {
		n, err := sock.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		rest := in[:have]
		out = out[:0]
		for {
			whole, _, err := frame.Cut(rest, frame.MaxReply)
			if err != nil {
				return
			}
			if whole == nil {
				break
			}
			out = frame.Append(out, frame.Body(whole))
			rest = rest[len(whole):]
		}
		have = copy(in, rest)
		if _, err := sock.Write(out); err != nil {
			return
		}
	}
}

// BenchmarkFormats compares tagged and plain frames, with workers that take each
// apart.
func BenchmarkFormats(b *testing.B) {
	for name, format := range map[string]ipc.Format{"frames": ipc.Frames, "tagged": ipc.Tagged} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, "?reply=always&idle=0s&partial=0s", func(c *ipc.Config) { c.Format = format })
			worker := plainMirror
			if format == ipc.Tagged {
				worker = taggedMirror
			}
			w.Worker(worker)
			w.Worker(worker)
			round := rounds(b, w, 64, 100)
			for range 2000 {
				round()
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += 64 {
				round()
			}
		})
	}
}

// rounds returns what sends a batch and reads the replies.
func rounds(t testing.TB, w *world, n, size int) func() {
	c := w.dial()
	var batch []byte
	for range n {
		batch = frame.Append(batch, make([]byte, size))
	}
	replies := make([]byte, len(batch))
	return func() {
		if _, err := c.Write(batch); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c.Conn, replies); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTaggedAllocatesNothing(t *testing.T) {
	for _, concurrency := range []int{1, 16} {
		w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Format, c.Concurrency = ipc.Tagged, concurrency })
		w.Worker(taggedMirror)
		round := rounds(t, w, 50, 100)
		func() {
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it empties the pools
			for range 50 {
				round()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 400 {
				round()
			}
			runtime.ReadMemStats(&after)
			each := float64(after.Mallocs-before.Mallocs) / (400 * 50)
			t.Logf("%.3f allocations a message", each)
			if each > 0.02 && !race.On || each > 0.9 {
				t.Errorf("%.3f allocations a message", each)
			}
		}()
	}
}

// A worker that was to work off what it has, for a suspect, goes on if another one
// takes that.
func TestReservedWorkerGoesOn(t *testing.T) {
	w := taggedWorld(t, 2, nil)
	desk, busy := w.NewDesk(nil), fed(w, 0)
	desk.Send("long", "short")
	got := busy.Take(2)
	dying := fed(w, 1)
	desk.Send("a", "b")
	dying.Take(2)
	dying.Close()
	dying.Channel.Close("it died")
	busy.Answer(got["short"], "ok", false) // now it is reserved: it has "long" in hand
	other := fed(w, 2)
	for range 2 {
		f := other.Next()
		other.Answer(f, "ok", false)
	}
	desk.Want("short", "ok", "a", "ok", "b", "ok")
	other.Finish()
	desk.Send("new")
	busy.Answer(busy.Next(), "ok", false)
	busy.Answer(got["long"], "ok", false)
	desk.Want("short", "ok", "a", "ok", "b", "ok", "new", "ok", "long", "ok")
}
