package metrics

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/supervisor"
)

var update = flag.Bool("update", false, "write testdata anew")

// eventful returns a pool to which everything has happened.
func eventful() *fake {
	f := newFake(5, "tcp://0.0.0.0:8089", "unix:///run/pool.sock")
	p := &f.pool
	p.Generation = 3
	p.Workers[2] = supervisor.WorkerStats{ID: 2, State: supervisor.Backoff, Starts: 9, Failures: 4}
	p.Workers[3].State = supervisor.Starting
	p.Workers[4].State = supervisor.Detached
	for i := range p.Workers {
		p.Workers[i].Ended.CPU = time.Duration(i) * time.Second
	}
	for i, cause := range supervisor.Causes() {
		p.Exits[cause] = uint64(100 + i)
	}
	p.Reload = supervisor.ReloadStats{Running: true, Results: map[supervisor.Outcome]uint64{supervisor.Complete: 2, supervisor.Failed: 1}}
	f.queue = ipc.QueueStats{
		Messages: 7, Bytes: 700, Oldest: 1500 * time.Millisecond, OldestID: 12, InFlight: 3, Paused: true, Delayed: 2, Isolated: 1,
		Workers: []ipc.WorkerStats{
			{Handled: 10, Failed: 1, Busy: 2500 * time.Millisecond, Window: 8, Failing: true},
			{Handled: 20, Failed: 2, Busy: 5 * time.Second, Window: 4, InHand: 3, Held: 250 * time.Millisecond, Newborn: true},
		},
	}
	f.queue.Waiting.Observe(3*time.Microsecond, 8)
	f.queue.Handling.Observe(20*time.Millisecond, 5)
	f.queue.Handling.Observe(time.Hour, 1)
	for i := range 2 {
		s, n := f.source(i), uint64(1000*(i+1))
		s.Connections.Store(int64(i))
		s.Accepted.Store(n + 1)
		s.TurnedAway.Store(n + 2)
		s.Received.Store(n + 3)
		s.Handled.Store(n + 4)
		s.Failed.Store(n + 5)
		s.Retried.Store(n + 6)
		s.GivenUp.Store(n + 7)
		s.Spooled.Store(n + 8)
		s.Lost.Store(n + 9)
		s.Remade.Store(n + 10)
		s.FramesTooBig.Store(n + 11)
		s.FramesPartial.Store(n + 12)
		s.HandshakesFailed.Store(n + 13)
		s.Expired.Store(n + 14)
		s.FramesNotTagged.Store(n + 15)
	}
	f.spool = ipc.SpoolStats{Files: 31, Bytes: 32, Limit: 33, LostLimit: 34, LostError: 35, LostSlow: 36}
	return f
}

// ours returns the lines of a scrape that do not come from the libraries.
func ours(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, "poolinit_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// Everything that is known of a pool, as text.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := eventful()
		s := f.server()
		s.ReloadEnded(supervisor.ReloadResult{Took: 3 * time.Second})
		time.Sleep(90 * time.Second)
		w := get(s, "/metrics")
		if kind := w.Header().Get("Content-Type"); w.Code != 200 || !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
			t.Errorf("%d, %q", w.Code, kind)
		}
		const file = "testdata/metrics.txt"
		got := ours(w.Body.String())
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("not what %s has (-update writes it):\n%s", file, difference(string(want), got))
		}
	})
}

// difference returns the lines that only one of two texts has.
func difference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out strings.Builder
	for _, line := range a {
		if !slices.Contains(b, line) {
			fmt.Fprintln(&out, "-", line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			fmt.Fprintln(&out, "+", line)
		}
	}
	return out.String()
}

// values returns the samples of a scrape, by name and labels.
func values(s *Server) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(get(s, "/metrics").Body.String()) {
		if key, value, ok := cutLast(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(line, "#") {
			all[key] = value
		}
	}
	return all
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// A pool to which nothing has happened yet shows every word that there can be, so
// that the first one counts as an increase.
func TestEveryWordIsThereFromTheStart(t *testing.T) {
	f := newFake(2, "tcp://a:1", "sysv://0x1")
	got := values(f.server())
	want := []string{`poolinit_signals_received_total{signal="SIGTERM"}`}
	for _, state := range status.States() {
		want = append(want, fmt.Sprintf("poolinit_workers{state=%q}", state))
	}
	for _, cause := range supervisor.Causes() {
		want = append(want, fmt.Sprintf("poolinit_worker_exits_total{reason=%q}", cause))
	}
	for _, outcome := range supervisor.Outcomes() {
		want = append(want, fmt.Sprintf("poolinit_reloads_total{result=%q}", outcome))
	}
	for _, source := range []string{"tcp://a:1", "sysv://0x1"} {
		for _, reason := range []string{"too-big", "partial", "tls"} {
			want = append(want, fmt.Sprintf("poolinit_frame_errors_total{reason=%q,source=%q}", reason, source))
		}
	}
	for _, worker := range []string{"0", "1"} {
		for _, result := range []string{"handled", "failed"} {
			want = append(want, fmt.Sprintf("poolinit_worker_messages_total{result=%q,worker=%q}", result, worker))
		}
	}
	for _, key := range want {
		if got[key] == "" {
			t.Errorf("there is no %s", key)
		}
	}
}

// Workers that get no messages have no metrics of messages.
func TestMetricsWithoutMessages(t *testing.T) {
	for key := range values(newFake(2).server()) {
		key, _, _ = strings.Cut(key, "{")
		for _, word := range []string{"message", "queue", "connection", "frame", "window", "busy_"} {
			if strings.HasPrefix(key, "poolinit_") && strings.Contains(key, word) {
				t.Errorf("there is %s", key)
			}
		}
	}
}

// Each worker has each of its metrics once. A source with the name of another, or with
// a name that is not text, does no harm.
func TestMetricsOfSourcesWithBadNames(t *testing.T) {
	f := newFake(1, "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "unix:///\xff\"\n\\")
	for i := range 3 {
		f.source(i).Handled.Store(uint64(i + 1))
	}
	var went []error
	f.options.Errors = func(err error) { went = append(went, err) }
	got := values(f.server())
	for i, name := range []string{`tcp://127.0.0.1:0`, `tcp://127.0.0.1:0#2`, `unix:///?\"\n\\`} {
		if key := `poolinit_messages_handled_total{source="` + name + `"}`; got[key] != fmt.Sprint(i+1) {
			t.Errorf("%s is %q", key, got[key])
		}
	}
	pedantic(t, f)
	if len(went) > 0 {
		t.Error(went)
	}
}

// client_golang's strictest registry finds nothing wrong.
func TestMetricsArePedantic(t *testing.T) {
	for _, f := range []*fake{eventful(), newFake(3), newFake(64, "a", "b", "c", "d")} {
		pedantic(t, f)
	}
}

func pedantic(t *testing.T, f *fake) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	g := newGatherer(&f.options, newReloadTime())
	g.rest = prometheus.NewRegistry() // empty: the libraries test their own metrics
	if err := registry.Register(recollector{g}); err != nil {
		t.Fatal(err)
	}
	list, err := registry.Gather()
	if err != nil {
		t.Error(err)
	}
	direct, _, err := g.Gather()
	if err != nil {
		t.Error(err)
	}
	if len(list) != len(direct) {
		t.Errorf("%d families, %d of them good", len(direct), len(list))
	}
	for _, family := range direct {
		if strings.TrimSpace(family.GetHelp()) == "" || !strings.HasSuffix(family.GetHelp(), ".") {
			t.Errorf("%s: the help is %q", family.GetName(), family.GetHelp())
		}
		if total := strings.HasSuffix(family.GetName(), "_total"); total != (family.GetType() == dto.MetricType_COUNTER) {
			t.Errorf("%s is a %s", family.GetName(), family.GetType())
		}
	}
}

// A recollector is a Collector of what a gatherer returns.
type recollector struct{ from *gatherer }

type recollected struct {
	desc *prometheus.Desc
	from *dto.Metric
}

func (r recollector) each(do func(*prometheus.Desc, *dto.MetricFamily)) {
	families, _, _ := r.from.Gather() // pedantic looks at the error
	for _, f := range families {
		var names []string
		for _, l := range f.Metric[0].Label {
			names = append(names, l.GetName())
		}
		do(prometheus.NewDesc(f.GetName(), f.GetHelp(), names, nil), f)
	}
}

func (r recollector) Describe(out chan<- *prometheus.Desc) {
	r.each(func(d *prometheus.Desc, _ *dto.MetricFamily) { out <- d })
}

func (r recollector) Collect(out chan<- prometheus.Metric) {
	r.each(func(d *prometheus.Desc, f *dto.MetricFamily) {
		for _, m := range f.Metric {
			out <- recollected{d, m}
		}
	})
}

func (r recollected) Desc() *prometheus.Desc { return r.desc }

func (r recollected) Write(out *dto.Metric) error {
	out.Label, out.Gauge, out.Counter, out.Histogram = r.from.Label, r.from.Gauge, r.from.Counter, r.from.Histogram
	return nil
}

// What a scrape leaves to the next one is room, not numbers.
func TestRoomIsUsedAgain(t *testing.T) {
	type told map[string][]string
	gather := func(f *fake) told {
		all := told{}
		list, done, err := newGatherer(&f.options, newReloadTime()).Gather()
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		for _, family := range list {
			for _, m := range family.Metric {
				switch name := family.GetName(); {
				case !strings.HasPrefix(name, "poolinit_"), name == "poolinit_reload_duration_seconds", name == "poolinit_worker_uptime_seconds":
				default:
					all[family.GetName()] = append(all[family.GetName()], m.String())
				}
			}
		}
		return all
	}
	small := newFake(2, "a")
	want := gather(small)
	for range 5 {
		gather(eventful())
		gather(newFake(64, "a", "b", "c", "d"))
		got := gather(small)
		for name := range want {
			if !slices.Equal(got[name], want[name]) {
				t.Errorf("%s: after others %v, at first %v", name, got[name], want[name])
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d families after others, %d at first", len(got), len(want))
		}
	}
}

// How many samples there are is bounded by workers and sources, as docs/metrics.md
// says it.
func TestCardinality(t *testing.T) {
	count := func(workers, sources int) int {
		return strings.Count("\n"+ours(samplesOnly(newFake(workers, slices.Collect(maps.Keys(numbered(sources)))...).server())), "\npoolinit_")
	}
	base := count(1, 1)
	worker, source := count(2, 1)-base, count(1, 2)-base
	if got, want := count(64, 4), base+63*worker+3*source; got != want {
		t.Errorf("%d samples of 64 workers and 4 sources, want %d", got, want)
	}
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	formula := fmt.Sprintf("%d + %d x workers + %d x sources", base-worker-source, worker, source)
	if !strings.Contains(string(text), formula) {
		t.Errorf("docs/metrics.md does not say %q", formula)
	}
}

func numbered(n int) map[string]bool {
	names := map[string]bool{}
	for i := range n {
		names[fmt.Sprintf("tcp://host:%d", i)] = true
	}
	return names
}

func samplesOnly(s *Server) string {
	var b strings.Builder
	for line := range strings.Lines(get(s, "/metrics").Body.String()) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// A process that ends while it is looked at has no CPU time in that scrape: one
// that is too low would count as a counter that began anew.
func TestMetricsOfAProcessThatEnded(t *testing.T) {
	ended := testkit.Child("worker") // its stdin is /dev/null
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	f := newFake(3)
	f.pool.Workers[0].PID = os.Getpid()
	f.pool.Workers[1].PID = ended.Process.Pid
	for i := range f.pool.Workers {
		f.pool.Workers[i].Ended.CPU = time.Hour
	}
	got := values(f.server())
	for i, want := range []struct{ memory, cpu bool }{{true, true}, {false, false}, {false, true}} {
		id := fmt.Sprintf("{worker=\"%d\"}", i)
		if memory := got["poolinit_worker_memory_bytes"+id]; (memory != "0") != want.memory || memory == "" {
			t.Errorf("memory of worker %d: %q", i, memory)
		}
		if cpu := got["poolinit_worker_cpu_seconds_total"+id]; strings.HasPrefix(cpu, "36") != want.cpu {
			t.Errorf("CPU time of worker %d: %q", i, cpu)
		}
	}
}

// The numbers of a family are in the order of the workers, and none is NaN.
func TestNumbers(t *testing.T) {
	list, _, err := newGatherer(&newFake(12, "tcp://a:1").options, newReloadTime()).Gather()
	if err != nil {
		t.Fatal(err)
	}
	before := ""
	for _, f := range list {
		if f.GetName() <= before {
			t.Errorf("%s comes after %s", f.GetName(), before)
		}
		before = f.GetName()
		worker := 0
		for _, m := range f.Metric {
			if math.IsNaN(m.GetCounter().GetValue()) || math.IsNaN(m.GetGauge().GetValue()) {
				t.Errorf("%s: %v", f.GetName(), m)
			}
			if len(m.Label) == 1 && m.Label[0].GetName() == "worker" {
				if m.Label[0].GetValue() != fmt.Sprint(worker) {
					t.Errorf("%s: worker %s is number %d", f.GetName(), m.Label[0].GetValue(), worker)
				}
				worker++
			}
		}
	}
}
