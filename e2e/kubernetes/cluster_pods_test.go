//go:build k8s

package kubernetes

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Probes by poolinit health do as well as those by HTTP; and where the containers
// share their PID namespace poolinit is not PID 1, and does its work all the same.
func TestSharedProcessNamespace(t *testing.T) {
	s := newSpace(t, "shared-pids")
	s.apply(choice{on: "base", components: []string{"exec-probes"}, more: `patches:
  - target: {kind: Deployment}
    patch: |
      - {op: add, path: /spec/template/spec/shareProcessNamespace, value: true}
`}, 1, "POOLINIT_WORKERS=2")
	pod := s.settled(1)[0]
	var status struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(s.kubectl("exec", pod.Name, "--", "/poolinit", "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	if status.PID <= 1 {
		t.Errorf("PID %d", status.PID)
	}
	asked := ask(t, pod.Status.PodIP+":8089", "orphan", "orphan", "orphan")
	if got := answers(t, asked); got != "map[handled:3]" {
		t.Fatal(got)
	}
	s.eventually("poolinit reaps the orphans", func() (string, bool) {
		n := s.metric(pod.Name, "9090", "poolinit_orphans_reaped_total")
		return fmt.Sprint(n), n == 3
	})
	log := s.watchLog(pod.Name, "pool")
	s.kubectl("delete", "pod", pod.Name)
	if last := log.last(); !strings.HasPrefix(last, "stopped: handled 3, spooled 0, lost 0, killed 0,") {
		t.Errorf("the log ends with %q", last)
	}
}

// A worker that uses more memory than the container may have dies alone, where
// the kernel kills one process (cgroup version 1, or singleProcessOOMKill), and with
// the whole container elsewhere. The pod comes back by itself in both cases.
func TestOutOfMemory(t *testing.T) {
	s := newSpace(t, "oom")
	s.apply(choice{on: "base"}, 1, "POOLINIT_WORKERS=2", "POOLINIT_ATTEMPTS=1")
	pod := s.settled(1)[0]
	asked := ask(t, pod.Status.PodIP+":8089", "eat 700")
	t.Logf("answer: %s", asked[0].wait(t))
	s.eventually("the pod serves again", func() (string, bool) {
		state := podState(s.pod(pod.Name))
		return state, strings.Contains(state, "ready") && answersNow(t, pod.Status.PodIP)
	})
	after := s.pod(pod.Name)
	c := after.Status.ContainerStatuses[0]
	log := s.kubectl("logs", pod.Name)
	switch {
	case c.RestartCount == 0 && strings.Contains(log, `"why":"oom"`):
		for line := range strings.Lines(log) {
			if strings.Contains(line, "oom") || strings.Contains(line, "given up") {
				t.Log(strings.TrimSpace(line))
			}
		}
	case c.RestartCount == 1 && c.LastTerminationState.Terminated.Reason == "OOMKilled":
		t.Log("the whole container was killed")
	default:
		t.Errorf("%d restarts, %+v\n%s", c.RestartCount, c.LastTerminationState, log)
	}
}

func answersNow(t *testing.T, ip string) bool {
	t.Helper()
	conn, err := dial(ip + ":8089")
	if err != nil {
		return false
	}
	defer conn.Close()
	if _, err := conn.Write(appendFrame(nil, "hello")); err != nil {
		return false
	}
	_, failure, err := readFrame(conn)
	return err == nil && !failure
}

// A node that is drained gives up one pod at a time; the last one that serves stays
// until there is another.
func TestNodeDrain(t *testing.T) {
	s := newSpace(t, "drain")
	s.apply(choice{on: "base"}, 2, "POOLINIT_WORKERS=2")
	pods := s.settled(2)
	node := pods[0].Spec.NodeName
	l := start(t, s.address())
	out, err := s.try("drain", node, "--ignore-daemonsets", "--pod-selector=app.kubernetes.io/name=poolinit", "--timeout=20s")
	t.Cleanup(func() { _, _ = s.try("uncordon", node) })
	t.Logf("kubectl drain: %v", err)
	if err == nil || !strings.Contains(err.Error()+out, "disruption budget") {
		t.Error("both pods are gone")
	}
	left := 0
	for _, p := range s.pods() {
		t.Logf("%s: %s", p.Name, podState(p))
		if ready(p) && p.DeletionTimestamp == nil {
			left++
		}
	}
	if left != 1 {
		t.Errorf("%d pods serve", left)
	}
	s.kubectl("uncordon", node)
	s.settled(2)
	l.end()
	for _, y := range l.tallies {
		t.Log(y)
		if y.answered == 0 || y.refused+y.unanswered+len(y.failed) > 0 {
			t.Errorf("%s: messages lost", y.kind)
		}
	}
}

// The kinds that are not Kubernetes' own are what their own definitions say; these
// come from the modules that define them.
func TestCustomResources(t *testing.T) {
	const operator, keda = "github.com/prometheus-operator/prometheus-operator@v0.85.0", "github.com/kedacore/keda/v2@v2.20.2"
	const operatorDir, kedaDir = "example/prometheus-operator-crd/monitoring.coreos.com_", "config/crd/bases/keda.sh_"
	base := func(component string) string {
		return string(kustomize(t, choice{on: "base", components: []string{component}}))
	}
	// As docs/kubernetes.md does it.
	rules := "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: poolinit}\nspec:\n  " +
		strings.ReplaceAll(alertRules(t), "\n", "\n  ")
	for _, tt := range []struct{ name, module, dir, kind, manifests string }{
		{"prometheus-operator", operator, operatorDir, "podmonitors", base("prometheus-operator")},
		{"rules", operator, operatorDir, "prometheusrules", rules},
		{"keda", keda, kedaDir, "scaledobjects", base("keda")},
		{"keda-direct", keda, kedaDir, "scaledobjects", base("keda-direct")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := exec.Command("go", "mod", "download", "-json", tt.module).Output()
			var module struct{ Dir string }
			if err != nil || json.Unmarshal(out, &module) != nil {
				t.Skipf("%s cannot be had: %v\n%s", tt.module, err, out)
			}
			definition := filepath.Join(module.Dir, tt.dir+tt.kind+".yaml")
			if _, err := tryKubectl("", "apply", "--server-side", "-f", definition); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _, _ = tryKubectl("", "delete", "-f", definition, "--timeout=60s") })
			s := newSpace(t, "custom-"+tt.name)
			s.eventually("the API has the kind", func() (string, bool) {
				out, err := s.try("get", tt.kind)
				return out, err == nil
			})
			said, err := tryKubectl(tt.manifests, "--namespace", s.name, "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
			if err != nil {
				t.Fatal(err)
			}
			t.Log(strings.TrimSpace(said))
		})
	}
}
