package vm

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// The clock is set years ahead and back while a pool works: no message and no worker
// is late because of it, no delay gets longer, and no age is absurd.
func testClock(t *testing.T) {
	addr := harness.FreePort(t)
	p := harness.StartSource(t, harness.Program{Child: harness.WorkerChild}, "tcp://"+addr+"?reply=always", "-n", "2", "--log-format", "json",
		"--deliver", "lines", "--message-timeout", "1m", "--max-lifetime", "10h", "--restart-delay", "100ms", "--", "sh", "-c", echoLines)
	before := time.Now()
	for _, years := range []int{0, 5, -11, 30, -24} { // 2031 for a pool that runs in 2026, then 2020, 2050 and as it was
		now := time.Now()
		setClock(t, now.AddDate(years, 0, 0))
		got := harness.Send(t, strings.NewReader(harness.Seq(20)), "tcp://"+addr)
		got.Want(t, harness.Seq(20), 0)
		status := p.Inside("status", "--json")
		var d map[string]any
		if err := json.Unmarshal([]byte(status.Stdout), &d); err != nil {
			t.Fatalf("%v: %+v", err, status)
		}
		sane(t, "", d)
	}
	pool := harness.PoolOf(p)
	if n := pool.Count("worker exited"); n > 0 {
		t.Errorf("%d workers have exited\n%s", n, p.Stderr.String())
	}
	// A worker that dies comes back as soon as ever.
	w := p.WaitForProcess("a worker", func(q harness.ProcInfo) bool { return q.PPID == p.Self() && q.Name == "sh" })
	setClock(t, time.Now().AddDate(-3, 0, 0))
	if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	pool.ExpectLog("worker exited", nil)
	awaitBoth(pool)
	setClock(t, time.Now().AddDate(6, 0, 0))
	p.Signal(syscall.SIGTERM)
	pool.ExpectExit(0)
	if handled, _, lost := pool.Totals(); handled != 100 || lost != 0 {
		t.Errorf("handled %d, lost %d", handled, lost)
	}
	testkit.Eventually(t, "the clock is as it was", func() (any, bool) {
		setClock(t, before)
		return time.Now(), time.Now().Year() == before.Year()
	})
}

const echoLines = `while read -r line <&3; do echo "$line" >&3; done`

func setClock(t *testing.T, now time.Time) {
	t.Helper()
	ts := unix.NsecToTimespec(now.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		t.Fatal(err)
	}
}

// sane checks that no duration of a status document is negative, or longer than
// the machine has run. (--max-lifetime is in it: ten hours.)
func sane(t *testing.T, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, v := range v {
			sane(t, at+"."+name, v)
		}
	case []any:
		for i, v := range v {
			sane(t, fmt.Sprint(at, i), v)
		}
	case float64:
		if strings.HasSuffix(at, "_seconds") && (v < 0 || v > 11*3600) {
			t.Errorf("%s is %v", at, v)
		}
	}
}
