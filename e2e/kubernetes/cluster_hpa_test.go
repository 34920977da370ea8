//go:build k8s

package kubernetes

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// The pool grows with its utilization and its queue, and shrinks again, and no
// client notices. Prometheus and the autoscaler are the real ones; between them the
// test does what prometheus-adapter does with adapter-rules.yaml.
func TestAutoscaler(t *testing.T) {
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Skip(err)
	}
	s := newSpace(t, "autoscaler")
	a := &adapter{s: s, rules: loadAdapterRules(t), prometheus: startPrometheus(t, s)}
	a.serve()
	s.apply(choice{on: "base", components: []string{"autoscale"}, more: `patches:
  - target: {kind: HorizontalPodAutoscaler}
    patch: |
      - {op: replace, path: /spec/maxReplicas, value: 4}
      - {op: replace, path: /spec/behavior/scaleDown/stabilizationWindowSeconds, value: 15}
`}, 0, "POOLINIT_WORKERS=2")
	s.settled(2)
	line := newTimeline()
	documents(t, func(text string) {
		var h autoscalingv2.HorizontalPodAutoscaler
		if json.Unmarshal([]byte(text), &h) == nil {
			line.changed("autoscaler", autoscalerState(&h))
		}
	}, "--namespace", s.name, "get", "hpa", "-o", "json", "--watch", "--output-watch-events=false")

	defer func() { t.Logf("\n%s", line) }()

	l := start(t, s.address())
	many := startBusy(t, s.address(), 40)
	line.add(time.Now(), "clients", "40 messages of 50 ms at a time")
	s.hasReplicas(4)
	s.settled(4)
	many.end()
	few := startBusy(t, s.address(), 12)
	line.add(time.Now(), "clients", "12 messages of 50 ms at a time")
	s.eventually("the utilization is seen", func() (string, bool) {
		h := s.autoscaler()
		seen := autoscalerState(h)
		return seen, h.Status.CurrentReplicas == 4 && busier(h, 700)
	})
	few.end()
	line.add(time.Now(), "clients", "only small messages")
	s.hasReplicas(2)
	s.settled(2)
	l.end()
	for _, y := range append(l.tallies, many.tallies[0], few.tallies[0]) {
		t.Log(y)
		if y.answered == 0 || y.refused+y.unanswered+len(y.failed) > 0 {
			t.Errorf("%s: messages lost", y.kind)
		}
	}
}

func (s *space) autoscaler() *autoscalingv2.HorizontalPodAutoscaler {
	s.t.Helper()
	h := new(autoscalingv2.HorizontalPodAutoscaler)
	s.get(h, "hpa", "poolinit")
	return h
}

// busier reports whether the autoscaler sees more than so many thousandths of utilization.
func busier(h *autoscalingv2.HorizontalPodAutoscaler, than int64) bool {
	return slices.ContainsFunc(h.Status.CurrentMetrics, func(m autoscalingv2.MetricStatus) bool {
		return m.Pods != nil && m.Pods.Metric.Name == "poolinit_utilization" && m.Pods.Current.AverageValue.MilliValue() > than
	})
}

func autoscalerState(h *autoscalingv2.HorizontalPodAutoscaler) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d pods, %d wanted", h.Status.CurrentReplicas, h.Status.DesiredReplicas)
	for _, m := range h.Status.CurrentMetrics {
		if m.Pods != nil {
			fmt.Fprintf(&text, ", %s %s", m.Pods.Metric.Name, m.Pods.Current.AverageValue)
		}
	}
	return text.String()
}

// startBusy begins a load of long messages, so many at a time.
func startBusy(t *testing.T, address string, clients int) *load {
	t.Helper()
	l := &load{stop: make(chan struct{})}
	y := newTally(fmt.Sprintf("%d messages of 50 ms", clients))
	l.tallies = []*tally{y}
	for range clients {
		l.clients.Go(func() {
			for l.pause(time.Millisecond) {
				conn, err := dial(address)
				if err != nil {
					y.count(&y.refused, 1)
					continue
				}
				exchange(y, conn, conn, []string{"sleep 50ms"}, true)
				conn.Close()
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

// hasReplicas waits until the autoscaler wants so many pods.
func (s *space) hasReplicas(count int32) {
	s.t.Helper()
	for deadline := time.Now().Add(3 * patience); ; time.Sleep(time.Second) {
		var d appsv1.Deployment
		s.get(&d, "deployment", "poolinit")
		if *d.Spec.Replicas == count {
			return
		}
		if time.Now().After(deadline) {
			out, _ := s.try("describe", "hpa", "poolinit")
			s.t.Fatalf("%d replicas, want %d\n%s", *d.Spec.Replicas, count, out)
		}
	}
}

// startPrometheus runs one that scrapes the pods of a namespace, with the labels
// that a PodMonitor gives them. It returns its address.
func startPrometheus(t *testing.T, s *space) string {
	t.Helper()
	dir := t.TempDir()
	targets, config := filepath.Join(dir, "targets.json"), filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf(`
global: {scrape_interval: 2s}
scrape_configs:
  - job_name: poolinit
    file_sd_configs: [{files: [%s], refresh_interval: 1s}]
`, targets)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends with the test
		defer close(stopped)
		for {
			if err := writeTargets(targets, s); err != nil {
				t.Logf("targets: %v", err)
			}
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Second):
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
	address := freeAddress(t, "127.0.0.1")
	cmd := exec.Command("prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--log.level=error")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	s.eventually("Prometheus answers", func() (string, bool) {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return err.Error(), false
		}
		resp.Body.Close()
		return resp.Status, resp.StatusCode == http.StatusOK
	})
	return address
}

// writeTargets tells Prometheus of the pods.
func writeTargets(name string, s *space) error {
	out, err := s.try("get", "pods", "-o", "json")
	if err != nil {
		return err
	}
	var pods corev1.PodList
	if err := json.Unmarshal([]byte(out), &pods); err != nil {
		return err
	}
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	groups := []group{}
	for _, p := range pods.Items {
		if p.Status.PodIP != "" {
			groups = append(groups, group{[]string{p.Status.PodIP + ":9090"}, map[string]string{"namespace": p.Namespace, "pod": p.Name}})
		}
	}
	text, err := json.Marshal(groups)
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func freeAddress(t *testing.T, host string) string {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// An adapter answers for custom.metrics.k8s.io as the rules say.
type adapter struct {
	s          *space
	rules      adapterRules
	prometheus string
}

const customMetrics = "/apis/custom.metrics.k8s.io/v1beta1"

// serve begins to answer, and has the API server ask here.
func (a *adapter) serve() {
	t := a.s.t
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+customMetrics, a.list)
	mux.HandleFunc("GET "+customMetrics+"/namespaces/{namespace}/pods/{pod}/{metric}", a.answer)
	server := httptest.NewUnstartedServer(mux)
	host := a.reachable()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	server.Listener.Close()
	server.Listener = ln
	server.StartTLS()
	t.Cleanup(server.Close)
	text := fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: adapter, namespace: %[1]s}
spec: {ports: [{port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: adapter, namespace: %[1]s, labels: {kubernetes.io/service-name: adapter}}
addressType: IPv4
ports: [{port: %[3]d}]
endpoints: [{addresses: [%[2]s]}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.custom.metrics.k8s.io}
spec:
  group: custom.metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: adapter, namespace: %[1]s}
`, a.s.name, host, ln.Addr().(*net.TCPAddr).Port)
	if _, err := tryKubectl(text, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = tryKubectl("", "delete", "apiservice", "v1beta1.custom.metrics.k8s.io") })
	a.s.eventually("the API server asks here", func() (string, bool) {
		out, err := tryKubectl("", "get", "--raw", customMetrics)
		if err != nil {
			return err.Error(), false
		}
		return out, true
	})
}

// reachable returns this machine's address as the node sees it.
func (a *adapter) reachable() string {
	a.s.t.Helper()
	node := a.s.kubectl("get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	conn, err := net.Dial("udp", net.JoinHostPort(node, "9"))
	if err != nil {
		a.s.t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}

func (a *adapter) list(w http.ResponseWriter, _ *http.Request) {
	resources := []any{}
	for _, rule := range a.rules.Rules {
		resources = append(resources, map[string]any{
			"name": "pods/" + rule.offers(), "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": []string{"get"},
		})
	}
	reply(w, map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "custom.metrics.k8s.io/v1beta1", "resources": resources})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // gone: nobody to tell
}

// answer asks Prometheus for a metric of the pods that a selector finds.
func (a *adapter) answer(w http.ResponseWriter, r *http.Request) {
	namespace, metric := r.PathValue("namespace"), r.PathValue("metric")
	out, err := tryKubectl("", "--namespace", namespace, "get", "pods", "-l", r.URL.Query().Get("labelSelector"), "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	matchers := fmt.Sprintf(`namespace=%q,pod=~%q`, namespace, strings.Join(strings.Fields(out), "|"))
	items := []any{}
	for _, rule := range a.rules.Rules {
		if rule.offers() != metric {
			continue
		}
		values, err := a.query(rule.query(matchers))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		for pod, v := range values {
			items = append(items, map[string]any{
				"describedObject": map[string]string{"kind": "Pod", "namespace": namespace, "name": pod, "apiVersion": "/v1"},
				"metricName":      metric, "timestamp": time.Now().UTC().Format(time.RFC3339), "value": strconv.Itoa(int(v*1000)) + "m",
			})
		}
	}
	reply(w, map[string]any{"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta1", "metadata": map[string]any{}, "items": items})
}

// query returns a value for each pod.
func (a *adapter) query(q string) (map[string]float64, error) {
	resp, err := http.Get("http://" + a.prometheus + "/api/v1/query?query=" + url.QueryEscape(q))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Status string
		Data   struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Status != "success" {
		return nil, fmt.Errorf("%s: %w: %s", q, err, text)
	}
	values := map[string]float64{}
	for _, r := range answer.Data.Result {
		v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, err
		}
		values[r.Metric["pod"]] = v
	}
	return values, nil
}
