//go:build k8s

package kubernetes

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
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
