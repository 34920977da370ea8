package kubernetes

import (
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// bytesOf reads a size as poolinit does: 64MiB, 64M.
func bytesOf(s string) (int64, error) {
	q, err := resource.ParseQuantity(strings.TrimSuffix(strings.TrimSuffix(s, "B"), "i") + "i")
	return q.Value(), err
}

// selects reports whether a selector finds the pods of a workload.
func selects(t *testing.T, s *metav1.LabelSelector, w *workload) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return !selector.Empty() && selector.Matches(labels.Set(w.template.Labels))
}

// container returns the one of a workload that has the port, and its number.
func (w *workload) container(p intstr.IntOrString) (*corev1.Container, int32) {
	for i := range w.template.Spec.Containers {
		if n := portOf(&w.template.Spec.Containers[i], p); n != 0 {
			return &w.template.Spec.Containers[i], n
		}
	}
	return nil, 0
}

// One workload, and everything else is about it.
func TestSelectors(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		if len(s.workloads) != 1 {
			t.Fatalf("%d workloads", len(s.workloads))
		}
		w := &s.workloads[0]
		if !selects(t, &metav1.LabelSelector{MatchLabels: w.selector}, w) {
			t.Errorf("%s does not select its own pods", w.name)
		}
		for _, service := range s.services {
			if !selects(t, &metav1.LabelSelector{MatchLabels: service.Spec.Selector}, w) {
				t.Errorf("Service %s selects none", service.Name)
			}
			for _, p := range service.Spec.Ports {
				if c, _ := w.container(p.TargetPort); c == nil {
					t.Errorf("Service %s: no container has the port %s", service.Name, p.TargetPort.String())
				}
			}
		}
		if len(s.budgets) != 1 || !selects(t, s.budgets[0].Spec.Selector, w) {
			t.Errorf("%d PodDisruptionBudgets, or it selects none", len(s.budgets))
		}
		for _, m := range s.monitors {
			if !selects(t, &m.Spec.Selector, w) {
				t.Errorf("PodMonitor %s selects none", m.Name)
			}
			jobs := regexp.MustCompile(`up\{job=~"([^"]+)"\}`).FindStringSubmatch(alertRules(t))
			if job := "namespace/" + m.Name; len(jobs) == 0 || !regexp.MustCompile("^(?:"+jobs[1]+")$").MatchString(job) {
				t.Errorf("no alert is about the job %s: %q", job, jobs)
			}
			for _, e := range m.Spec.PodMetricsEndpoints {
				if c, n := w.container(intstr.FromString(*e.Port)); c == nil || n != port(s.settingsOf(t, c)["http"]) || e.Path != "/metrics" {
					t.Errorf("PodMonitor %s: %s of port %s", m.Name, e.Path, *e.Port)
				}
			}
		}
		for _, c := range w.template.Spec.TopologySpreadConstraints {
			if !selects(t, c.LabelSelector, w) {
				t.Error("topologySpreadConstraints select none")
			}
		}
	})
}

// alertRules are those of Prometheus.
func alertRules(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/prometheus/poolinit-rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Messages go where the Service says, and metrics are those of every pod.
func TestServices(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		w := &s.workloads[0]
		messages, metrics := s.service("poolinit"), s.service("poolinit-metrics")
		c, n := w.container(messages.Spec.Ports[0].TargetPort)
		if listen := s.settingsOf(t, c)["listen"]; !strings.HasPrefix(listen, "tcp://") || port(listen) != n {
			t.Errorf("messages go to port %d of %s, which listens on %s", n, c.Name, listen)
		}
		c, n = w.container(metrics.Spec.Ports[0].TargetPort)
		if port(s.settingsOf(t, c)["http"]) != n || metrics.Spec.ClusterIP != corev1.ClusterIPNone || !metrics.Spec.PublishNotReadyAddresses {
			t.Errorf("the Service for metrics: %v", metrics.Spec)
		}
		if w.kind == "StatefulSet" && s.service(w.service) != metrics {
			t.Errorf("%s is governed by %q", w.name, w.service)
		}
	})
}

// least is how many pods there may be.
func (s *set) least(w *workload) int {
	least := 1
	switch {
	case len(s.autoscale) > 0:
		least = int(*s.autoscale[0].Spec.MinReplicas)
	case len(s.scaled) > 0:
		least = int(*s.scaled[0].Spec.MinReplicaCount)
	case w.replicas != nil:
		least = int(*w.replicas)
	}
	return least
}

// An autoscaler's target is there, and it alone says how many.
func TestAutoscalers(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		w := &s.workloads[0]
		for _, a := range s.autoscale {
			if r := a.Spec.ScaleTargetRef; r.Kind != w.kind || r.Name != w.name || r.APIVersion != "apps/v1" {
				t.Errorf("the HorizontalPodAutoscaler scales %v", r)
			}
			if *a.Spec.MinReplicas >= a.Spec.MaxReplicas || w.replicas != nil {
				t.Errorf("from %d to %d pods, and replicas is %v", *a.Spec.MinReplicas, a.Spec.MaxReplicas, w.replicas)
			}
		}
		for _, a := range s.scaled {
			if r := a.Spec.ScaleTargetRef; r.Kind != "" && r.Kind != w.kind || r.Name != w.name {
				t.Errorf("the ScaledObject scales %v", r)
			}
			if *a.Spec.MinReplicaCount >= *a.Spec.MaxReplicaCount || w.replicas != nil {
				t.Errorf("from %d to %d pods, and replicas is %v", *a.Spec.MinReplicaCount, *a.Spec.MaxReplicaCount, w.replicas)
			}
		}
		if len(s.autoscale)+len(s.scaled) == 0 && w.replicas == nil {
			t.Error("nobody says how many pods")
		}
	})
}

// A node can be drained, and a rollout goes on and leaves a pod that serves.
func TestDisruption(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		w := &s.workloads[0]
		least := s.least(w)
		budget := s.budgets[0].Spec
		if budget.MaxUnavailable == nil || budget.MinAvailable != nil {
			t.Fatalf("PodDisruptionBudget %v", budget)
		}
		if n := scaled(t, budget.MaxUnavailable, least, true); n < 1 || n >= least {
			t.Errorf("of %d pods %d may be disrupted", least, n)
		}
		if w.kind == "StatefulSet" {
			return // one at a time, by itself
		}
		unavailable, surge := intstr.FromString("25%"), intstr.FromString("25%")
		if r := w.rollout; r != nil {
			unavailable, surge = *r.MaxUnavailable, *r.MaxSurge
		}
		down, up := scaled(t, &unavailable, least, false), scaled(t, &surge, least, true)
		if down >= least || down+up < 1 {
			t.Errorf("a rollout of %d pods takes %d away and adds %d", least, down, up)
		}
		if strings.HasPrefix(s.name, "overlays/rollout") && down != 0 {
			t.Errorf("a rollout of %d pods takes %d away", least, down)
		}
	})
}

func scaled(t *testing.T, v *intstr.IntOrString, of int, up bool) int {
	t.Helper()
	n, err := intstr.GetScaledValueFromIntOrPercent(v, of, up)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A change of a setting is a rollout: the ConfigMap's name changes with it.
func TestSettingsRollOut(t *testing.T) {
	before := render(t, choice{on: "base"})
	after := render(t, choice{on: "base", more: "configMapGenerator:\n  - {name: poolinit, behavior: merge, literals: [POOLINIT_WORKERS=8]}\n"})
	one, other := before.workloads[0].template.Spec.Containers[0], after.workloads[0].template.Spec.Containers[0]
	if one.EnvFrom[0].ConfigMapRef.Name == other.EnvFrom[0].ConfigMapRef.Name {
		t.Error("the pods do not change")
	}
	flags := before.settingsOf(t, &one)
	if flags["workers"] != "4" {
		t.Errorf("workers: %s", flags["workers"])
	}
	flags["workers"] = "8"
	if got := after.settingsOf(t, &other); !maps.Equal(got, flags) {
		t.Errorf("%v, want %v", got, flags)
	}
}

// images: names the image once, for every container.
func TestImages(t *testing.T) {
	for _, on := range append([]string{"base"}, "overlays/rollout", "overlays/sysv", "overlays/spool") {
		s := render(t, choice{on: on, more: "images: [{name: poolinit, newName: registry.example/app, newTag: v2}]\n"})
		for _, c := range s.workloads[0].template.Spec.Containers {
			if c.Image != "registry.example/app:v2" {
				t.Errorf("%s: %s is %s", on, c.Name, c.Image)
			}
		}
	}
}

// The namespace of overlays/rollout lets in what is in it.
func TestNamespace(t *testing.T) {
	s := render(t, choice{on: "overlays/rollout"})
	if len(s.namespaces) != 1 {
		t.Fatalf("%d namespaces", len(s.namespaces))
	}
	name := s.namespaces[0].Name
	if got := s.namespaces[0].Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
		t.Errorf("it enforces %q", got)
	}
	for document := range strings.SplitSeq(string(s.text), "\n---\n") {
		if !strings.Contains(document, "kind: Namespace\n") && !strings.Contains(document, "\n  namespace: "+name+"\n") {
			t.Errorf("not in the namespace %s:\n%s", name, document)
		}
	}
}
