package bench

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrape asks for the metrics as a server does that takes native histograms.
func scrape(b *testing.B, addr string) (bytes int) {
	b.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Error(err)
		return 0
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Errorf("%s: %v", resp.Status, err)
	}
	return len(text)
}

// unused returns an address that nobody listens on.
func unused(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// What messages lose while somebody scrapes each second, by turns with nobody.
func BenchmarkScraped(b *testing.B) {
	ours, worker, looked := built(b).poolinit, compiled(b, "testdata/echo_worker.c"), unused(b)
	start := func(flags ...string) (pid int, addr string) {
		return serve(b, nil, func(addr string) []string {
			words := append([]string{ours, "-n", "2", "--log-level", "warn", "--listen", "tcp://" + addr + "?reply=always"}, flags...)
			return append(words, "--", worker)
		})
	}
	_, plain := start()
	pid, addr := start("--http", looked)
	load := load{64, 32, 100, false}
	var rates, ratios, cpus []float64
	for b.Loop() {
		without := load.rate(b, plain)
		done := make(chan struct{})
		var scraper sync.WaitGroup
		scraper.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				scrape(b, looked)
				select {
				case <-tick.C:
				case <-done:
					return
				}
			}
		})
		before := serverCPU(pid)
		with := load.rate(b, addr)
		cpus = append(cpus, float64(serverCPU(pid)-before)/float64(time.Microsecond)/(with*measured.Seconds()))
		close(done)
		scraper.Wait()
		rates, ratios = append(rates, with), append(ratios, with/without)
	}
	noNsPerOp(b)
	report(b, median(rates), "messages/s")
	report(b, median(cpus), "us-CPU/message")
	report(b, median(ratios), "of-unscraped")
}

// plainMetrics is the peer: a program that keeps about as many samples as
// poolinit has with 64 workers and 4 sources, in the usual way, and does nothing
// else. It reads nothing of other processes, as poolinit does for each worker.
func plainMetrics(addr string) error {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for k := range 12 {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: fmt.Sprintf("poolinit_worker_%d_seconds", k), Help: "A sentence about it."}, []string{"worker"})
		for i := range 64 {
			v.WithLabelValues(strconv.Itoa(i)).Set(rand.Float64())
		}
		r.MustRegister(v)
	}
	http.Handle("/metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{DisableCompression: true}))
	return http.ListenAndServe(addr, nil)
}

// The CPU time of one scrape, all that PID 1 does for it included.
func BenchmarkScrapeCost(b *testing.B) {
	p, looked := built(b), unused(b)
	flags := []string{"--http", looked}
	for i := range 4 {
		flags = append(flags, "--listen", fmt.Sprintf("unix://%s/%d.sock", b.TempDir(), i))
	}
	pid := startWorkers(b, p, 64, flags...).cmd.Process.Pid
	peer, plain := serve(b, []string{"BENCH_METRICS=1"}, func(addr string) []string { return []string{os.Args[0], addr} })
	size, plainSize := scrape(b, looked), scrape(b, plain)
	quiet(b)
	const batch = 20
	cost := func(pid int, addr string) time.Duration {
		before := ownCPU(pid)
		for range batch {
			scrape(b, addr)
		}
		return (ownCPU(pid) - before) / batch
	}
	least := time.Hour // of all batches the cheapest, as others use the machine, too
	var ratios []float64
	for b.Loop() {
		for range 20 {
			ours := cost(pid, looked)
			least = min(least, ours)
			ratios = append(ratios, float64(ours)/float64(cost(peer, plain)))
		}
	}
	noNsPerOp(b)
	b.Logf("%d bytes, the peer's %d; %.2f of the peer's CPU", size, plainSize, median(ratios))
	limit(b, milliseconds(least), "ms-CPU/scrape", 2)
}

// ownCPU is the CPU time of a process, without what it has started.
func ownCPU(pid int) time.Duration {
	sum := serverCPU(pid)
	for _, child := range children(pid) {
		sum -= serverCPU(child)
	}
	return sum
}

// What --http costs while nobody looks.
func BenchmarkIdleHTTP(b *testing.B) {
	pool := startWorkers(b, built(b), 16, "--healthy-after", "100ms", "--http", "127.0.0.1:0")
	pool.settle()
	pid := pool.cmd.Process.Pid
	var woken int
	for b.Loop() {
		before := wakeUps(b, pid)
		time.Sleep(10 * time.Second) // what is measured is that nothing happens
		woken = wakeUps(b, pid) - before
	}
	noNsPerOp(b)
	report(b, float64(memory(b, pid, "Rss"))/1024, "RSS-MB")
	report(b, float64(memory(b, pid, "Private_Dirty"))/1024, "private-MB")
	limit(b, float64(woken), "wake-ups/10s", 2)
}
