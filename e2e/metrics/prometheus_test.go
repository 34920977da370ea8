package metrics

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// A monitored pool, to which everything happens, and what the test knows of it.
type monitored struct {
	harness.Pool
	base, instance string
	url            string // of its source
	broken         string // while this file is there no worker starts
	gate           string // and until this one is there messages are held
}

func startMonitored(t *testing.T) *monitored {
	t.Helper()
	dir := t.TempDir()
	m := &monitored{url: harness.UnixURL(t, "?reply=always"), broken: filepath.Join(dir, "broken"), gate: filepath.Join(dir, "gate")}
	m.Pool = harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "-n", "2", "--http", "127.0.0.1:0",
		"--listen", m.url, "--listen", "tcp://127.0.0.1:0", "--ready", "notify", "--attempts", "2", "--max-message", "1000",
		"--restart-delay", "1ms", "--healthy-after", "0s", "--give-up", "0", "--drain-delay", "1m", "--stop-timeout", "2m",
		"--", harness.SDKWorker(t), m.broken}}))
	m.base = harness.HTTPAddress(m.Process)
	m.instance = strings.TrimPrefix(m.base, "http://")
	harness.AwaitMetric(t, m.base, "poolinit_ready", 1)
	return m
}

// live has everything happen to a pool.
func (m *monitored) live() {
	t := m.T
	t.Helper()
	harness.Send(t, strings.NewReader(harness.Seq(500)), m.url).Want(t, harness.Seq(500), 0)
	for _, bad := range []struct {
		body  string
		times int
	}{{"crash", 4}, {"fail now", 3}, {"refuse it", 40}, {strings.Repeat("x", 1001), 1}} {
		for range bad.times {
			if got := harness.Send(t, strings.NewReader(bad.body), m.url); got.Code != 1 {
				t.Errorf("%.10s: exit code %d, %s", bad.body, got.Code, got.Stderr)
			}
		}
	}
	m.Signal(syscall.SIGUSR1)
	m.ExpectLog("reload done", nil)
	if err := os.WriteFile(m.broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.Signal(syscall.SIGUSR1)
	m.ExpectLog("reload failed", nil)
	if err := os.Remove(m.broken); err != nil {
		t.Fatal(err)
	}
	harness.AwaitMetric(t, m.base, "poolinit_restarts_waiting", 0)
	harness.AwaitMetric(t, m.base, "poolinit_workers{state=\"ready\"}", 2)
}

// startNotReady starts a pool that never gets ready, with its queue full.
func startNotReady(t *testing.T) (base string) {
	t.Helper()
	url := harness.UnixURL(t, "")
	p := harness.StartSource(t, harness.Program{}, url, "--http", "127.0.0.1:0", "--ready", "notify", "--ready-timeout", "1h", "--queue-messages", "1", "--",
		"sleep", "1000")
	base = harness.HTTPAddress(p)
	if err := harness.WriteFrame(harness.Dial(t, url), "waits"); err != nil {
		t.Fatal(err)
	}
	harness.AwaitMetric(t, base, "poolinit_queue_messages", 1)
	return base
}

// A real Prometheus, with and without native histograms, sees what happens to real
// pools; every query of the dashboard tells something; the rules work.
func TestMetricsPrometheus(t *testing.T) {
	t.Parallel()
	harness.Need(t, "prometheus", "sleep")
	pool, notReady := startMonitored(t), startNotReady(t)
	nobody := harness.FreePort(t)
	targets := []string{pool.instance, strings.TrimPrefix(notReady, "http://"), nobody}
	servers := map[string]*prometheus{
		"classic": startPrometheus(t, targets),
		"native":  startPrometheus(t, targets, "--enable-feature=native-histograms"),
	}
	of := fmt.Sprintf("{instance=%q", pool.instance)
	for _, p := range servers { // what happens from now on is an increase
		p.expect("count_over_time(poolinit_ready"+of+"}[1m]) > 1", hasData)
	}
	pool.live()
	crashes := harness.Metric(t, pool.base, `poolinit_worker_exits_total{reason="crash"}`)
	for kind, p := range servers {
		t.Run(kind, func(t *testing.T) {
			p := &prometheus{t, p.base}
			for expr, want := range map[string]float64{
				"sum(poolinit_messages_received_total" + of + "})":                           547,
				"sum(poolinit_messages_handled_total" + of + "})":                            500,
				"sum(poolinit_messages_failed_total" + of + "})":                             47,
				"sum(poolinit_messages_given_up_total" + of + "})":                           7,
				"sum(poolinit_messages_retried_total" + of + "})":                            7,
				"poolinit_frame_errors_total" + of + `,reason="too-big",source=~"unix.*"}`:   1,
				"poolinit_reloads_total" + of + `,result="done"}`:                            1,
				"poolinit_reloads_total" + of + `,result="failed"}`:                          1,
				"poolinit_generation" + of + "}":                                             3,
				"poolinit_worker_exits_total" + of + `,reason="crash"}`:                      crashes,
				"poolinit_signals_received_total" + of + `,signal="SIGUSR1"}`:                2,
				"poolinit_ready" + of + "}":                                                  1,
				`poolinit_ready{instance="` + targets[1] + `"}`:                              0,
				`up{instance="` + nobody + `"}`:                                              0,
				"sum(poolinit_worker_starts_total" + of + "}) > bool " + fmt.Sprint(crashes): 1,
			} {
				p.expectValue(expr, want)
			}
			count := map[string]string{"classic": "poolinit_message_handle_seconds_count", "native": "poolinit_message_handle_seconds"}[kind]
			p.expect(count+of+"}", func(list []series) bool { return len(list) == 1 && list[0].number() >= 546 })
			expressions := readDashboard(t).expressions()
			for _, where := range slices.Sorted(maps.Keys(expressions)) {
				if where == "annotation Starts" { // none has started twice
					if _, err := p.query(expressions[where]); err != nil {
						t.Error(err)
					}
					continue
				}
				p.expect(expressions[where], hasData)
			}
			p.expectAlerts(map[string]string{
				"PoolinitCrashLoop": pool.instance, "PoolinitMessagesGivenUp": pool.instance, "PoolinitReloadFailed": pool.instance,
				"PoolinitMessagesFailing": pool.instance, "PoolinitNotReady": targets[1], "PoolinitQueueFull": targets[1], "PoolinitDown": nobody,
			})
			for _, r := range p.rules() {
				if r.Health != "ok" || r.LastError != "" {
					t.Errorf("%s: %s %s", r.Name, r.Health, r.LastError)
				}
				if r.Type == "recording" {
					p.expect(r.Name+of+"}", hasData)
				}
			}
		})
	}
	pool.Signal(syscall.SIGTERM)
	for _, p := range servers {
		p.expectValue("poolinit_stopping"+of+"}", 1)
		p.expectValue("poolinit_ready"+of+"}", 0)
	}
	pool.StopNow() // it would wait on
	pool.ExpectExit(137)
}

// What nobody can scrape any more is seen until the end: while the pool waits, and
// while it finishes what it has.
func TestMetricsStop(t *testing.T) {
	for name, c := range map[string]struct {
		flags []string
		code  int
	}{
		"drain delay":       {[]string{"--drain-delay", "1m", "--stop-timeout", "2m"}, 137},
		"a message in hand": {[]string{"--stop-timeout", "1m"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			gate, url := filepath.Join(t.TempDir(), "gate"), harness.UnixURL(t, "?reply=always")
			p := harness.PoolOf(harness.StartSource(t, harness.Program{}, url, append(c.flags, "--http", "127.0.0.1:0", "--", harness.SDKWorker(t), "/nonexistent")...))
			base := harness.HTTPAddress(p.Process)
			nc := harness.Dial(t, url)
			if err := harness.WriteFrame(nc, "hold "+gate); err != nil {
				t.Fatal(err)
			}
			harness.AwaitMetric(t, base, `poolinit_workers{state="busy"}`, 1)
			if code, text := harness.Page(t, base+"/readyz"); code != 200 {
				t.Errorf("all busy: %d %s", code, text)
			}
			p.Signal(syscall.SIGTERM)
			harness.AwaitMetric(t, base, "poolinit_stopping", 1)
			if code, text := harness.Page(t, base+"/readyz"); code != 503 || text != "the pool stops: SIGTERM\n" {
				t.Errorf("%d %q", code, text)
			}
			if code, text := harness.Page(t, base+"/livez"); code != 200 {
				t.Errorf("/livez: %d %q", code, text)
			}
			if n := harness.Metric(t, base, `poolinit_worker_in_hand_messages{worker="0"}`); n != 1 {
				t.Errorf("%v messages in hand", n)
			}
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if body, failed, err := harness.ReadFrame(nc); failed || err != nil || string(body) != "hold "+gate {
				t.Errorf("reply %q %v %v", body, failed, err)
			}
			nc.Close()
			if c.code != 0 { // it would serve on
				harness.AwaitMetric(t, base, `poolinit_worker_messages_total{result="handled",worker="0"}`, 1)
				p.StopNow()
			}
			p.ExpectExit(c.code)
			if _, err := net.Dial("tcp", strings.TrimPrefix(base, "http://")); err == nil {
				t.Error("somebody still listens")
			}
		})
	}
}
