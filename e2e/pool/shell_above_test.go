package pool

import (
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// Below a shell that is PID 1 signals do not arrive, and the log says so, once.
func TestShellAbove(t *testing.T) {
	t.Parallel()
	harness.Need(t, "sh", "sleep")
	const warning = "PID 1 is a shell, which does not forward signals"
	start := func(script string) harness.Pool {
		return harness.PoolOf(harness.Start(t, harness.Program{Args: []string{"sh", "-c", script, "sh", harness.Binary(t)}}))
	}
	p := start(`"$1" -- sleep 1000; exit 1`)
	p.ExpectLog(warning, func(r harness.Record) bool { return r.Level == "warn" })
	p.ExpectLog("worker started", nil)
	if n := p.Count(warning); n != 1 {
		t.Errorf("%d warnings", n)
	}
	p = start(`exec "$1" -- sleep 1000`)
	p.ExpectLog("worker started", nil)
	if p.Count(warning) != 0 {
		t.Error(p.Stderr.String())
	}
}
