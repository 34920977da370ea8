package kubernetes

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A peer is a pod that connects.
type peer struct {
	namespace string
	labels    map[string]string
}

// home is where the pool is.
const home = "poolinit"

// lets reports whether the policies let a peer connect to a port of a workload's
// pods, as the documentation of NetworkPolicy has it.
func (s *set) lets(t *testing.T, w *workload, from peer, number int32) bool {
	t.Helper()
	isolated := false
	for _, policy := range s.policies {
		if !selects(t, &policy.Spec.PodSelector, w) {
			continue
		}
		isolated = true
		for _, rule := range policy.Spec.Ingress {
			if portAllowed(w, rule.Ports, number) && peerAllowed(t, rule.From, from) {
				return true
			}
		}
	}
	return !isolated
}

func portAllowed(w *workload, ports []networkingv1.NetworkPolicyPort, number int32) bool {
	for _, p := range ports {
		if p.Port == nil || *p.Port == intstr.FromInt32(number) {
			return true
		}
		if _, n := w.container(*p.Port); n == number {
			return true
		}
	}
	return len(ports) == 0
}

func peerAllowed(t *testing.T, peers []networkingv1.NetworkPolicyPeer, from peer) bool {
	t.Helper()
	matches := func(s *metav1.LabelSelector, l map[string]string) bool {
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		return selector.Matches(labels.Set(l))
	}
	for _, p := range peers {
		space, pod := from.namespace == home, true
		if p.NamespaceSelector != nil {
			space = matches(p.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": from.namespace})
		}
		if p.PodSelector != nil {
			pod = matches(p.PodSelector, from.labels)
		}
		if p.IPBlock == nil && space && pod {
			return true
		}
	}
	return len(peers) == 0
}

// Messages and metrics get in, from where they come from; nothing else does. The
// kubelet, on the pod's own node, needs no rule.
func TestNetworkPolicy(t *testing.T) {
	client := peer{home, map[string]string{"app": "shop"}}
	neighbour := peer{"other", map[string]string{"app": "shop"}}
	prometheus := peer{"monitoring", map[string]string{"app.kubernetes.io/name": "prometheus"}}
	keda := peer{"keda", map[string]string{"app": "keda-operator"}}
	each(t, func(t *testing.T, s *set) {
		w := &s.workloads[0]
		_, messages := w.container(s.service("poolinit").Spec.Ports[0].TargetPort)
		_, http := w.container(s.service("poolinit-metrics").Spec.Ports[0].TargetPort)
		direct := false // KEDA asks the pods themselves
		for _, o := range s.scaled {
			for _, tr := range o.Spec.Triggers {
				direct = direct || tr.Type == "metrics-api"
			}
		}
		for _, tt := range []struct {
			who  string
			from peer
			port int32
			want bool
		}{
			{"a client", client, messages, true},
			{"a client", client, http, false},
			{"a client of another namespace", neighbour, messages, false},
			{"a client of another namespace", neighbour, http, false},
			{"Prometheus", prometheus, http, true},
			{"Prometheus", prometheus, messages, false},
			{"KEDA", keda, http, direct},
			{"KEDA", keda, messages, false},
		} {
			if got := s.lets(t, w, tt.from, tt.port); got != tt.want {
				t.Errorf("%s to port %d: %v", tt.who, tt.port, got)
			}
		}
		for _, policy := range s.policies {
			for _, kind := range policy.Spec.PolicyTypes {
				if kind != networkingv1.PolicyTypeIngress {
					t.Errorf("%s cuts the workers off from what they need: %s", policy.Name, kind)
				}
			}
		}
	})
}
