package metrics

import (
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/ipc"
)

// startChildren starts processes that do nothing, and returns their PIDs. They
// end with the test.
func startChildren(b *testing.B, n int) (pids []int) {
	b.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for range n {
		cmd := testkit.Child("worker")
		cmd.Stdin = r
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = cmd.Wait() })
		pids = append(pids, cmd.Process.Pid)
	}
	b.Cleanup(func() { w.Close() }) // runs first
	return pids
}

// busyFake is a pool of real processes that have all been at work.
func busyFake(b *testing.B, workers, sources int) *fake {
	names := []string{}
	for i := range sources {
		names = append(names, fmt.Sprintf("tcp://0.0.0.0:%d", 8000+i))
	}
	f := newFake(workers, names...)
	for i, pid := range startChildren(b, workers) {
		f.pool.Workers[i].PID = pid
		f.queue.Workers = append(f.queue.Workers, ipc.WorkerStats{Handled: 12345, Failed: 1, Busy: time.Hour, InHand: 1, Window: 8})
	}
	for i := range sources {
		f.source(i).Received.Add(123456)
		f.source(i).Handled.Add(123450)
	}
	for d := time.Microsecond; d < time.Minute; d += d / 7 {
		f.queue.Waiting.Observe(d, 3)
		f.queue.Handling.Observe(d, 5)
	}
	return f
}

// A discard is a client that only counts.
type discard struct {
	header     http.Header
	code, size int
}

func (d *discard) Header() http.Header               { return d.header }
func (d *discard) WriteHeader(code int)              { d.code = code }
func (d *discard) Write(p []byte) (n int, err error) { d.size += len(p); return len(p), nil }

// cpuTime is what this process has used so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// mostCPU is what a scrape of 64 workers and 4 sources may cost.
const mostCPU = 2 * time.Millisecond

// batch is how many scrapes are measured at once. Of all batches the cheapest
// counts, as others use the machine as well.
const batch = 50

// A scrape of 64 workers and 4 sources, as Prometheus asks for it.
func BenchmarkScrape(b *testing.B) {
	const text = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
	const native = "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
	s := busyFake(b, 64, 4).server()
	for _, bench := range []struct {
		name    string
		path    string
		headers []string
	}{
		{"text", "/metrics", []string{text}},
		{"protobuf", "/metrics", []string{native, "Accept-Encoding: gzip"}},
		{"status.json", "/status.json", nil},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			size, r := 0, request(bench.path, bench.headers...)
			least := time.Hour
			for b.Loop() {
				began := cpuTime(b)
				for range batch {
					w := &discard{header: http.Header{}}
					s.http.Handler.ServeHTTP(w, r)
					if size = w.size; w.code > 200 {
						b.Fatal(w.code)
					}
				}
				least = min(least, (cpuTime(b)-began)/batch)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(least)/float64(time.Millisecond), "ms-CPU/scrape")
			b.ReportMetric(float64(size), "bytes/scrape")
			if least > mostCPU {
				b.Errorf("%v of CPU a scrape: more than %v", least, mostCPU)
			}
		})
	}
}
