package metrics

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// An address that is taken, or is none, is told before anything is started.
func TestMetricsAddressTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	url := harness.UnixURL(t, "")
	for addr, says := range map[string]string{
		ln.Addr().String(): "poolinit: cannot serve HTTP: listen tcp " + ln.Addr().String() + ": bind: address already in use\n",
		"192.0.2.1:80":     "poolinit: cannot serve HTTP: listen tcp 192.0.2.1:80: bind: cannot assign requested address\n",
	} {
		p, code := harness.Run(t, harness.Program{Args: []string{harness.Binary(t), "--http", addr, "--listen", url, "--", "sh", "-c", "echo started"}})
		if code != 2 || !strings.HasPrefix(p.Stderr.String(), says) || p.Stdout.Size() > 0 {
			t.Errorf("exit code %d, %s%s", code, p.Stdout.String(), p.Stderr.String())
		}
	}
	if _, err := os.Stat(strings.TrimPrefix(url, "unix://")); !os.IsNotExist(err) {
		t.Errorf("its socket is there: %v", err)
	}
}

// checkMetrics has promtool look at a scrape.
func checkMetrics(t *testing.T, base string) {
	t.Helper()
	harness.Need(t, "promtool")
	_, text := harness.Page(t, base+"/metrics")
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// promtool finds nothing wrong, with messages and without; nor with sources of the
// same name, or of a name that is no text.
func TestMetricsCheck(t *testing.T) {
	for name, flags := range map[string][]string{
		"no messages": nil,
		"messages":    {"--listen", harness.UnixURL(t, "")},
		"odd sources": {"--listen", "tcp://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0", "--listen", harness.UnixURL(t, "") + "\xff\"\\"},
	} {
		t.Run(name, func(t *testing.T) {
			worker := []string{"--", harness.SDKWorker(t), "/nonexistent"}
			if flags == nil { // that one exits without messages
				worker = []string{"--", "sleep", "1000"}
			}
			args := append([]string{harness.Binary(t), "-n", "2", "--ready", "started", "--http", "127.0.0.1:0"}, flags...)
			p := harness.Start(t, harness.Program{Args: append(args, worker...)})
			base := harness.HTTPAddress(p)
			harness.AwaitMetric(t, base, "poolinit_ready", 1)
			checkMetrics(t, base)
			_, text := harness.Page(t, base+"/metrics")
			if n := strings.Count(text, "\npoolinit_messages_lost_total{"); n != len(flags)/2 {
				t.Errorf("%d sources\n%s", n, text)
			}
			if strings.Contains(p.Stderr.String(), "HTTP request failed") {
				t.Error(p.Stderr.String())
			}
		})
	}
}

// Scrapers by the thousand, some of which never end their request or read the
// answer, hold up neither messages nor health.
func TestMetricsStorm(t *testing.T) {
	url := harness.UnixURL(t, "?reply=always")
	p := harness.StartSource(t, harness.Program{}, url, "-n", "2", "--http", "127.0.0.1:0", "--", harness.SDKWorker(t), "/nonexistent")
	base := harness.HTTPAddress(p)
	harness.AwaitMetric(t, base, "poolinit_ready", 1)
	addr := strings.TrimPrefix(base, "http://")
	for i := range 100 { // half of a head, or no reader
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		text := "GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
		if i%2 == 0 {
			text += "\r\n"
		}
		if _, err := io.WriteString(nc, text); err != nil {
			t.Fatal(err)
		}
	}
	client := &http.Client{Timeout: testkit.Patience, Transport: &http.Transport{MaxIdleConnsPerHost: 150, MaxConnsPerHost: 150}} // with the others fewer than 256, of which none is replaced
	defer client.CloseIdleConnections()
	var scrapes sync.WaitGroup
	var good, turned atomic.Int32
	for range 2000 {
		scrapes.Go(func() {
			resp, err := client.Get(base + "/metrics")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			switch {
			case err == nil && resp.StatusCode == 200 && strings.Contains(string(text), "\npoolinit_ready 1\n"):
				good.Add(1)
			case err == nil && resp.StatusCode == 503:
				turned.Add(1)
			default:
				t.Errorf("%d %v", resp.StatusCode, err)
			}
		})
	}
	harness.Send(t, strings.NewReader(harness.Seq(3000)), url).Want(t, harness.Seq(3000), 0)
	scrapes.Wait()
	t.Logf("%d answered, %d turned away", good.Load(), turned.Load())
	client.CloseIdleConnections()
	if code, text := harness.Page(t, base+"/readyz"); code != 200 {
		t.Errorf("%d %s", code, text)
	}
	if kb, err := strconv.Atoi(strings.TrimSuffix(harness.StatusLine(p.Self(), "VmHWM"), " kB")); err != nil || kb > 80<<10 {
		t.Errorf("it took %d kB at most, %v", kb, err)
	}
}

// The release build refuses the same as the tests of the package do: it is built
// otherwise.
func TestMetricsBadRequests(t *testing.T) {
	base := harness.HTTPAddress(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "--http", "127.0.0.1:0", "--", "sleep", "1000"}}))
	for request, want := range map[string]string{
		"GET /metrics HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n":      "431",
		"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc":   "405",
		"PUT /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n": "405",
		"DELETE /livez HTTP/1.1\r\nHost: localhost\r\n\r\n":                           "405",
		"GET /../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n":                "307 /etc/passwd",
		"GET /..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\n\r\n":             "404",
		"GET //evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n":                     "307 /evil.example/",
		"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n":                           "200",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                            "400",
		"\x16\x03\x01\r\n\r\n":                                                        "400",
	} {
		nc, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
			t.Fatal(err)
		}
		go io.WriteString(nc, request) // ends with the connection; it need not be read to its end
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Errorf("%.60q: %v", request, err)
		} else if got := strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Location"))); got != want {
			t.Errorf("%.60q: %s, want %s", request, got, want)
		}
		nc.Close()
	}
	checkMetrics(t, base)
}

// What the kernel takes for want of memory is counted as that, and the pool is not
// ready while the worker's next start waits.
func TestMetricsDockerOOM(t *testing.T) {
	t.Parallel()
	c := harness.DockerPool(t, []string{"--memory", "64m"}, []string{"--http", "127.0.0.1:9090", "--ready", "started", "--restart-delay", "1m", "--restart-delay-max", "1m"}, harness.EatsDeed)
	c.ExpectLog(`"why":"oom"`, 1)
	fetch := func(path string) string {
		return harness.Docker(t, "exec", "-e", "TEST_CHILD="+harness.FetchChild, c.Name, "/e2e.test", "http://127.0.0.1:9090"+path)
	}
	text := fetch("/metrics")
	for _, want := range []string{
		`poolinit_worker_exits_total{reason="oom"} 1`, `poolinit_worker_exits_total{reason="crash"} 0`, `poolinit_restarts_waiting 1`,
		`poolinit_workers{state="backoff"} 1`, `poolinit_ready 0`, `poolinit_worker_starts_total{worker="0"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
	if why := fetch("/readyz"); why != "no worker is ready" {
		t.Errorf("/readyz: %q", why)
	}
}
