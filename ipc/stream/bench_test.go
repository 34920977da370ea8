package stream

import (
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit/race"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A lane of the benchmark: what clients and workers speak.
type bench struct {
	tagged bool // the clients
	format ipc.Format
}

var benches = map[string]bench{
	"frames":         {},
	"tagged-clients": {tagged: true},
	"tagged-workers": {format: ipc.Tagged},
	"tagged":         {tagged: true, format: ipc.Tagged},
}

// start serves with two workers, which answer with as many bytes as they get, and
// returns what sends flight messages of 100 bytes and reads the answers.
func (b bench) start(t testing.TB, flight int) (round func()) {
	params := "?reply=always&idle=0s&partial=0s"
	if b.tagged {
		params += "&tagged=true"
	}
	w := newWorld(t, params, func(c *ipc.Config) { c.Format = b.format })
	for range 2 {
		if b.format == ipc.Tagged {
			w.Worker(answering(answerTagged))
		} else {
			w.Worker(answering(answerFrame))
		}
	}
	c := w.dial()
	var batch []byte
	body := []byte(strings.Repeat("x", 100))
	for i := range flight {
		if b.tagged {
			batch = frame.AppendTagged(batch, frame.Tagged{Tag: uint64(i + 1), Body: body})
		} else {
			batch = frame.Append(batch, body)
		}
	}
	if b.tagged {
		if _, err := io.WriteString(c, hello); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c.Conn, make([]byte, len(hello))); err != nil {
			t.Fatal(err)
		}
	}
	answers := make([]byte, len(batch))
	return func() {
		if _, err := c.Write(batch); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c.Conn, answers); err != nil {
			t.Fatal(err)
		}
	}
}

// A cutter appends the answer to the frame at the start of in, and returns the
// size of that frame, or 0 if it is not there whole.
type cutter func(out, in []byte) ([]byte, int)

func answerFrame(out, in []byte) ([]byte, int) {
	whole, size, _ := frame.Cut(in, 1000)
	if whole == nil {
		return out, 0
	}
	return frame.Append(out, frame.Body(whole)), size
}

func answerTagged(out, in []byte) ([]byte, int) {
	f, size, ok, _ := frame.CutTagged(in, 1000)
	switch {
	case !ok:
		return out, 0
	case f.Tag == 0:
		return out, size
	}
	return append(frame.AppendTaggedHeader(out, f.Tag, false, nil, len(f.Body)), f.Body...), size
}

// answering is a worker that allocates nothing.
func answering(cut cutter) func(net.Conn) {
	return func(sock net.Conn) {
		in, out := make([]byte, 128<<10), make([]byte, 0, 128<<10)
		for have := 0; ; {
			n, err := sock.Read(in[have:])
			if err != nil {
				return
			}
			have, out = have+n, out[:0]
			start := 0
			for size := 1; size > 0; start += size {
				out, size = cut(out, in[start:have])
			}
			have = copy(in, in[start:have])
			if _, err := sock.Write(out); err != nil {
				return
			}
		}
	}
}

// BenchmarkTagged compares tagged frames with plain ones. An operation is one
// message.
func BenchmarkTagged(b *testing.B) {
	for name, bench := range benches {
		for kind, flight := range map[string]int{"lockstep": 1, "pipelined": 64} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				round := bench.start(b, flight)
				for range 2000 {
					round() // the pools are full, the buffers have grown
				}
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += flight {
					round()
				}
			})
		}
	}
}

// A tagged message allocates nothing on its way. The race detector has pools lose a
// quarter of what they are given, on purpose.
func TestTaggedAllocatesNothing(t *testing.T) {
	for name, bench := range benches {
		for _, flight := range []int{1, 50} {
			round := bench.start(t, flight)
			old := debug.SetGCPercent(-1) // it empties the pools
			for range 200 {
				round()
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			const rounds = 400
			for range rounds {
				round()
			}
			runtime.ReadMemStats(&after)
			debug.SetGCPercent(old)
			each := float64(after.Mallocs-before.Mallocs) / float64(rounds*flight)
			t.Logf("%s, %d at a time: %.3f allocations a message", name, flight, each)
			if each > 0.05 && !race.On || each > 2 {
				t.Errorf("%s, %d at a time: %.3f allocations a message", name, flight, each)
			}
		}
	}
}

// BenchmarkLarge sends messages of 1 MiB, one after the other, and reads the replies
// of the same length. An operation is one message.
func BenchmarkLarge(b *testing.B) {
	w := newWorld(b, "?reply=always&idle=0s&partial=0s", nil)
	w.Worker(func(sock net.Conn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{sock}, struct{ io.Reader }{sock}, make([]byte, 64<<10))
	})
	c := w.dial()
	message := frame.Append(nil, make([]byte, 1<<20))
	reply := make([]byte, len(message))
	sent := make(chan error, 1) // 1: the result of a round that has failed
	b.SetBytes(int64(len(message)))
	for b.Loop() {
		go func() { _, err := c.Write(message); sent <- err }() // ends when all is read
		if _, err := io.ReadFull(c.Conn, reply); err != nil {
			b.Fatal(err)
		}
		if err := <-sent; err != nil {
			b.Fatal(err)
		}
	}
}
