package output

import (
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/race"
)

func TestRelayIdleMemory(t *testing.T) {
	if race.On {
		t.Skip("the race detector has memory of its own") // no lack: go test without -race has it
	}
	r := NewRelay(JSON, io.Discard, io.Discard)
	const workers = 200
	first := start(t, r, workers)
	_, _ = io.WriteString(first.out, "the destination's buffers are made\n")
	before := inUse()
	all := make([]child, workers)
	for i := range all {
		all[i] = start(t, r, i)
		_, _ = io.WriteString(all[i].out, strings.Repeat("long", maxPiece)+"\nbegun")
		_, _ = io.WriteString(all[i].err, "x\n")
	}
	for _, c := range all {
		testkit.Eventually(t, "all is read", func() (any, bool) {
			left := pending(t, c.out) + pending(t, c.err)
			return left, left == 0
		})
	}
	each := float64(inUse()-before) / workers
	t.Logf("%.0f bytes a worker", each)
	if each > 12<<10 {
		t.Errorf("an idle worker's pumps hold %.0f bytes", each)
	}
	for _, c := range all {
		c.exit()
	}
	first.exit()
	if err := r.Close(testkit.Patience); err != nil {
		t.Error(err)
	}
}

// inUse is heap and stacks, after what the collector can give back. Stacks shrink by half a collection.
func inUse() int64 {
	var m runtime.MemStats
	for range 4 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

func benchmarkRelay(b *testing.B, mode Mode, stream func(child) *os.File) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	r := NewRelay(mode, null, null)
	c := start(b, r, 3)
	to := stream(c)
	line := strings.Repeat("x", 99) + "\n"
	block := strings.Repeat(line, 40)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	b.ResetTimer()
	for n := b.N; n > 0; n -= 40 {
		_, _ = io.WriteString(to, block[:min(n, 40)*len(line)])
	}
	c.exit()
	if err := r.Close(time.Minute); err != nil {
		b.Fatal(err)
	}
}

func toStdout(c child) *os.File { return c.out }

func toStderr(c child) *os.File { return c.err }

func BenchmarkRelayPrefix(b *testing.B) { benchmarkRelay(b, Prefix, toStdout) }

func BenchmarkRelayPrefixStderr(b *testing.B) { benchmarkRelay(b, Prefix, toStderr) }

func BenchmarkRelayJSON(b *testing.B) { benchmarkRelay(b, JSON, toStdout) }
