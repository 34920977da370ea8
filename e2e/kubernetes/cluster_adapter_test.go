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
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

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
