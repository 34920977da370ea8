package ipc_test

import (
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit/race"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// mirror is a worker that copies its input to its output, which is an echo of
// frames. It allocates nothing.
func mirror(sock net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := sock.Read(buf)
		if err != nil {
			return
		}
		if _, err := sock.Write(buf[:n]); err != nil {
			return
		}
	}
}

// BenchmarkDelivery sends messages of 100 bytes through the queue and two
// workers and reads the replies, with flight of them in flight at a time. An operation is one
// message.
func BenchmarkDelivery(b *testing.B) {
	for name, flight := range map[string]int{"lockstep": 1, "pipelined": 64} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, "?reply=always&idle=0s&partial=0s", nil)
			w.Worker(mirror)
			w.Worker(mirror)
			c := w.dial()
			var batch []byte
			for range flight {
				batch = frame.Append(batch, make([]byte, 100))
			}
			replies := make([]byte, len(batch))
			round := func() {
				if _, err := c.Write(batch); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c.Conn, replies); err != nil {
					b.Fatal(err)
				}
			}
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

// A message allocates nothing on its way. The race detector has pools lose a quarter of
// what they are given, on purpose: a Delivery and its buffer are half an allocation then.
func TestDeliveryAllocatesNothing(t *testing.T) {
	for _, size := range []int{100, ipc.KeepFrame - frame.HeaderSize} {
		each := allocations(t, size)
		t.Logf("%.3f allocations a message of %d bytes", each, size)
		if each > 0.02 && !race.On || each > 0.9 {
			t.Errorf("%.3f allocations a message of %d bytes", each, size)
		}
	}
}

// allocations sends messages of the given size, and returns how often one
// allocates.
func allocations(t *testing.T, size int) float64 {
	t.Helper()
	w := newWorld(t, "?reply=always", nil)
	w.Worker(mirror)
	c := w.dial()
	var batch []byte
	for range 50 {
		batch = frame.Append(batch, make([]byte, size))
	}
	replies := make([]byte, len(batch))
	send := func(rounds int) {
		for range rounds {
			if _, err := c.Write(batch); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c.Conn, replies); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it empties the pools
	send(50)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	send(400)
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / (400 * 50)
}

// Many messages leave nothing behind.
func TestNoGrowth(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	w.Worker(mirror)
	c := w.dial()
	var batch []byte
	for range 100 {
		batch = frame.Append(batch, make([]byte, 100))
	}
	replies := make([]byte, len(batch))
	send := func(n int) uint64 {
		for range n / 100 {
			if _, err := c.Write(batch); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c.Conn, replies); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		runtime.GC() // the second empties the pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := send(10_000)
	after := send(200_000)
	if after > before+1<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
}
