package kubernetes

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// Every pod may run where only restricted ones may, by the code that the API
// server itself asks.
func TestRestricted(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	each(t, func(t *testing.T, s *set) {
		for _, w := range s.workloads {
			result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &w.template.ObjectMeta, &w.template.Spec))
			if !result.Allowed {
				t.Errorf("%s is forbidden: %s", w.name, result.ForbiddenDetail())
			}
		}
	})
}

// What no policy asks for, and is right all the same.
func TestContainers(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		for _, w := range s.workloads {
			spec := &w.template.Spec
			if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
				t.Errorf("%s gets a token for the API, which it has no use for", w.name)
			}
			if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
				t.Errorf("%s: poolinit is not PID 1", w.name)
			}
			for i := range spec.Containers {
				checkContainer(t, s, &spec.Containers[i])
				checkMounts(t, s, &w, &spec.Containers[i])
			}
		}
	})
}

func checkContainer(t *testing.T, s *set, c *corev1.Container) {
	t.Helper()
	if c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
		t.Errorf("%s may write to its image", c.Name)
	}
	if c.Lifecycle != nil {
		t.Errorf("%s: preStop is of no use, and takes its time from the grace period", c.Name)
	}
	if !strings.HasPrefix(c.Image, "poolinit:") {
		t.Errorf("%s: images: of an overlay does not find %s", c.Name, c.Image)
	}
	limit, request := c.Resources.Limits.Memory(), c.Resources.Requests.Memory()
	if limit.IsZero() || request.IsZero() || c.Resources.Requests.Cpu().IsZero() || limit.Cmp(*request) < 0 {
		t.Errorf("%s: resources %v", c.Name, c.Resources)
	}
	size := s.settingsOf(t, c)["queue-bytes"]
	if size == "auto" {
		return // it fits the limit
	}
	queue, err := bytesOf(size)
	if err != nil {
		t.Fatal(err)
	}
	if limit.Value() < queue*3/2 {
		t.Errorf("%s: %s of memory, and the queue alone may have %d bytes", c.Name, limit, queue)
	}
}

// checkMounts looks that the spool, if there is one, is on a volume that stays.
func checkMounts(t *testing.T, s *set, w *workload, c *corev1.Container) {
	t.Helper()
	spool := s.settingsOf(t, c)["spool"]
	for _, m := range c.VolumeMounts {
		if !slices.Contains(w.claims, m.Name) || !strings.HasPrefix(spool, m.MountPath+"/") {
			t.Errorf("%s: volume %s at %s, --spool %q", c.Name, m.Name, m.MountPath, spool)
		}
	}
	if spool != "" && len(c.VolumeMounts) == 0 {
		t.Errorf("%s: --spool %s is on no volume", c.Name, spool)
	}
}

// The times and ports of probes fit what poolinit does.
func TestProbes(t *testing.T) {
	const stuck = time.Second // how long /livez may take
	each(t, func(t *testing.T, s *set) {
		for _, w := range s.workloads {
			for i := range w.template.Spec.Containers {
				c := &w.template.Spec.Containers[i]
				flags := s.settingsOf(t, c)
				checkProbe(t, c, flags, c.ReadinessProbe, "/readyz", "/poolinit health --ready")
				checkProbe(t, c, flags, c.LivenessProbe, "/livez", "/poolinit health")
				if p := c.LivenessProbe; time.Duration(p.TimeoutSeconds)*time.Second <= stuck {
					t.Errorf("%s: livenessProbe waits only %d s", c.Name, p.TimeoutSeconds)
				}
				if c.StartupProbe == nil {
					continue
				}
				checkProbe(t, c, flags, c.StartupProbe, "/readyz", "/poolinit health --ready")
				p := c.StartupProbe
				waits := time.Duration(p.PeriodSeconds*p.FailureThreshold) * time.Second
				if least := flags.duration(t, "ready-timeout") + flags.duration(t, "min-ready"); waits <= least {
					t.Errorf("%s: startupProbe gives up after %s, a worker may take %s", c.Name, waits, least)
				}
			}
		}
	})
}

func checkProbe(t *testing.T, c *corev1.Container, flags settings, p *corev1.Probe, path, command string) {
	t.Helper()
	switch {
	case p == nil:
		t.Errorf("%s: no probe for %s", c.Name, path)
	case p.Exec != nil && p.HTTPGet == nil:
		if got := strings.Join(p.Exec.Command, " "); got != command {
			t.Errorf("%s: %s", c.Name, got)
		}
	case p.HTTPGet == nil || p.HTTPGet.Path != path:
		t.Errorf("%s: %v, want %s", c.Name, p.ProbeHandler, path)
	default:
		if n := portOf(c, p.HTTPGet.Port); n == 0 || n != port(flags["http"]) {
			t.Errorf("%s: %s on port %s, and --http is %q", c.Name, path, p.HTTPGet.Port.String(), flags["http"])
		}
	}
}

// portOf returns the number of a container's port, or 0.
func portOf(c *corev1.Container, p intstr.IntOrString) int32 {
	for _, declared := range c.Ports {
		if p == intstr.FromString(declared.Name) || p == intstr.FromInt32(declared.ContainerPort) {
			return declared.ContainerPort
		}
	}
	return 0
}

// Every port that is declared is one that poolinit listens on, and the other way
// round.
func TestPorts(t *testing.T) {
	each(t, func(t *testing.T, s *set) {
		for _, w := range s.workloads {
			seen := map[int32]bool{}
			for i := range w.template.Spec.Containers {
				c := &w.template.Spec.Containers[i]
				flags := s.settingsOf(t, c)
				var listens, declared []int32
				for _, address := range append(strings.Split(flags["listen"], ","), flags["http"]) {
					if n := port(address); n != 0 && !strings.HasPrefix(address, "sysv:") {
						listens = append(listens, n)
					}
				}
				for _, p := range c.Ports {
					declared = append(declared, p.ContainerPort)
					if seen[p.ContainerPort] {
						t.Errorf("port %d twice in a pod", p.ContainerPort)
					}
					seen[p.ContainerPort] = true
				}
				slices.Sort(listens)
				slices.Sort(declared)
				if !slices.Equal(listens, declared) {
					t.Errorf("%s listens on %v and declares %v", c.Name, listens, declared)
				}
			}
		}
	})
}
