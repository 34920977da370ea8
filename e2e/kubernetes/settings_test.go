package kubernetes

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// settings are poolinit's flags as a container sets them, by their names.
type settings map[string]string

// defaults are those that matter here. TestDefaults holds them to cli/run.go.
var defaults = settings{
	"stop-timeout": "8s", "drain-delay": "0s", "ready-timeout": "30s", "min-ready": "3s", "queue-bytes": "auto", "grace-period": "0s",
}

// settingsOf reads the flags of a container: its variables, over those of its
// ConfigMaps; its arguments over both.
func (s *set) settingsOf(t *testing.T, c *corev1.Container) settings {
	t.Helper()
	flags := settings{}
	for name, value := range defaults {
		flags[name] = value
	}
	set := func(name, value string) {
		if rest, ok := strings.CutPrefix(name, "POOLINIT_"); ok {
			flags[strings.ToLower(strings.ReplaceAll(rest, "_", "-"))] = value
		}
	}
	for _, from := range c.EnvFrom {
		i := slices.IndexFunc(s.configs, func(o *corev1.ConfigMap) bool { return o.Name == from.ConfigMapRef.Name })
		if i < 0 {
			t.Fatalf("%s: there is no ConfigMap %s", c.Name, from.ConfigMapRef.Name)
		}
		for name, value := range s.configs[i].Data {
			set(name, value)
		}
	}
	for _, v := range c.Env {
		set(v.Name, v.Value)
	}
	for i, arg := range c.Args {
		if name, ok := strings.CutPrefix(arg, "--"); ok && name != "" && i+1 < len(c.Args) {
			flags[name] = c.Args[i+1]
		} else if name == "" && ok {
			break
		}
	}
	return flags
}

func (f settings) duration(t *testing.T, name string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(f[name])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

// port returns the port of an address or URL, or 0.
func port(address string) int32 {
	address, _, _ = strings.Cut(address, "?")
	n, err := strconv.ParseInt(address[strings.LastIndex(address, ":")+1:], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

// flagsText is where poolinit declares its flags.
func flagsText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../cli/run.go")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDefaults(t *testing.T) {
	text := flagsText(t)
	for name, value := range defaults {
		if !strings.Contains(text, `"`+name+`", "", "`+value+`"`) {
			t.Errorf("cli/run.go does not declare --%s with the default %s", name, value)
		}
	}
}

// Every setting is a flag of poolinit; one that is misspelled would only be
// warned of.
func TestSettingsAreFlags(t *testing.T) {
	text := flagsText(t)
	each(t, func(t *testing.T, s *set) {
		for _, w := range s.workloads {
			for _, c := range w.template.Spec.Containers {
				for name := range s.settingsOf(t, &c) {
					if !strings.Contains(text, `"`+name+`"`) {
						t.Errorf("%s/%s: poolinit has no flag --%s", w.name, c.Name, name)
					}
				}
			}
		}
	})
}

// The times fit into each other: what poolinit takes to stop into what Kubernetes
// grants, and into that the delay.
func TestTimes(t *testing.T) {
	const (
		end  = 2 * time.Second // from --stop-timeout on: SIGKILL, the last reap, the last line
		work = 5 * time.Second // after the delay, for messages in hand
	)
	each(t, func(t *testing.T, s *set) {
		for _, w := range s.workloads {
			grace := time.Duration(*w.template.Spec.TerminationGracePeriodSeconds) * time.Second
			for _, c := range w.template.Spec.Containers {
				flags := s.settingsOf(t, &c)
				stop, drain := flags.duration(t, "stop-timeout"), flags.duration(t, "drain-delay")
				switch {
				case stop+end > grace:
					t.Errorf("%s: --stop-timeout is %s, but the pod is killed after %s", c.Name, stop, grace)
				case c.Name == "pool" && flags.duration(t, "grace-period") != grace:
					t.Errorf("%s: --grace-period is %s, but the pod is killed after %s", c.Name, flags["grace-period"], grace)
				case c.Name == "pool" && c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError:
					t.Errorf("%s: the policy of termination messages is %q", c.Name, c.TerminationMessagePolicy)
				case drain <= 0 || drain*2 > stop+drain/2:
					t.Errorf("%s: --drain-delay %s of --stop-timeout %s", c.Name, drain, stop)
				}
			}
		}
	})
}

// What feeds the queue ends before the pool stops taking messages from it.
func TestSidecarEndsFirst(t *testing.T) {
	s := render(t, choice{on: "overlays/sysv"})
	containers := s.workloads[0].template.Spec.Containers
	pool, feeder := s.settingsOf(t, &containers[0]), s.settingsOf(t, &containers[1])
	if pool["listen"] == "" || !strings.HasPrefix(pool["listen"], "sysv://") || !slices.Contains(containers[1].Args, pool["listen"]) {
		t.Errorf("the pool listens on %q, the feeder sends by %q", pool["listen"], containers[1].Args)
	}
	if drain, end := pool.duration(t, "drain-delay"), feeder.duration(t, "stop-timeout"); drain <= end {
		t.Errorf("the pool takes messages for %s, and the feeder may take %s to end", drain, end)
	}
}
