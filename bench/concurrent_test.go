package bench

import (
	"os/exec"
	"strconv"
	"testing"
)

// BenchmarkConcurrent measures one worker of an SDK of which each message takes
// 10 ms: a hundred at a time beside one at a time.
func BenchmarkConcurrent(b *testing.B) {
	const least = 90
	for name, worker := range map[string][]string{
		"node":   {"node", "testdata/ten_ms.js"},
		"python": {"python3", "testdata/ten_ms.py"},
	} {
		b.Run(name, func(b *testing.B) {
			if _, err := exec.LookPath(worker[0]); err != nil {
				b.Skip(err)
			}
			ours := built(b).poolinit
			start := func(concurrency int) (addr string) {
				_, addr = serve(b, nil, func(addr string) []string {
					return append([]string{ours, "--log-level", "warn", "--listen", "tcp://" + addr + "?reply=always",
						"--deliver", "tagged", "--concurrency", strconv.Itoa(concurrency), "--"}, worker...)
				})
				load{1, 1, 100, false}.rate(b, addr) // so that the interpreter is there
				return addr
			}
			one, hundred := start(1), start(100)
			quiet(b)
			var alone, together float64
			for b.Loop() {
				alone += load{4, 1, 100, false}.rate(b, one)
				together += load{200, 1, 100, false}.rate(b, hundred)
			}
			b.ReportMetric(alone/float64(b.N), "msg/s-alone")
			b.ReportMetric(together/float64(b.N), "msg/s")
			b.ReportMetric(together/alone, "times")
			if together < least*alone {
				b.Errorf("%.1f times as many messages as one at a time, want %d", together/alone, least)
			}
		})
	}
}
