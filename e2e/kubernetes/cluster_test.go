//go:build k8s

package kubernetes

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

func eachLine(r io.Reader, do func(string)) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		do(lines.Text())
	}
}

// A space is a namespace of a test, where only restricted pods may run.
type space struct {
	t    *testing.T
	name string
}

// newSpace makes one, which goes with the test.
func newSpace(t *testing.T, name string) *space {
	t.Helper()
	s := &space{t, name}
	s.kubectl("create", "namespace", name)
	t.Cleanup(func() {
		if _, err := tryKubectl("", "delete", "namespace", name, "--timeout=120s"); err != nil {
			t.Error(err)
		}
	})
	s.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
	s.eventually("the default service account", func() (string, bool) {
		out, err := s.try("get", "serviceaccount", "default")
		return out, err == nil
	})
	return s
}

func (s *space) try(args ...string) (string, error) {
	return tryKubectl("", append([]string{"--namespace", s.name}, args...)...)
}

func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// eventually waits for a condition.
func (s *space) eventually(what string, look func() (string, bool)) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		seen, ok := look()
		switch {
		case ok:
			return
		case time.Now().After(deadline):
			s.t.Fatalf("%s: not within %s, but: %s\n%s", what, patience, seen, s.whatIsThere())
		}
	}
}

// whatIsThere is for a test that fails.
func (s *space) whatIsThere() string {
	pods, _ := s.try("get", "pods", "-o", "wide")
	events, _ := s.try("get", "events", "--sort-by=.lastTimestamp")
	return pods + events
}

// apply renders a choice into the namespace, with settings of its own, and waits
// until all is available. With 0 replicas their number is left as it is.
func (s *space) apply(c choice, replicas int, settings ...string) {
	s.t.Helper()
	c.more += "namespace: " + s.name + "\n"
	if replicas > 0 {
		c.more += fmt.Sprintf("replicas: [{name: poolinit, count: %d}]\n", replicas)
	}
	if len(settings) > 0 {
		c.more += "configMapGenerator:\n  - {name: poolinit, behavior: merge, literals: [" + strings.Join(settings, ", ") + "]}\n"
	}
	s.applyText(string(kustomize(s.t, c)))
	s.rolledOut()
}

func (s *space) applyText(text string) {
	s.t.Helper()
	out, err := tryKubectl(text, "--namespace", s.name, "apply", "--validate=strict", "-f", "-")
	if err != nil {
		s.t.Fatal(err)
	}
	if strings.Contains(out, "Warning") {
		s.t.Error(out)
	}
}

// workload is what kubectl calls the pool.
func (s *space) workload() string {
	if out, _ := s.try("get", "statefulset", "poolinit", "--ignore-not-found", "-o", "name"); out != "" {
		return "statefulset/poolinit"
	}
	return "deployment/poolinit"
}

func (s *space) rolledOut() {
	s.t.Helper()
	if _, err := s.try("rollout", "status", s.workload(), "--timeout=120s"); err != nil {
		s.t.Fatalf("%v\n%s", err, s.whatIsThere())
	}
}

// pods returns the pool's pods, oldest first.
func (s *space) pods() []corev1.Pod {
	s.t.Helper()
	var list corev1.PodList
	s.get(&list, "pods", "-l", "app.kubernetes.io/name=poolinit", "--sort-by=.metadata.creationTimestamp")
	return list.Items
}

func (s *space) pod(name string) corev1.Pod {
	s.t.Helper()
	var pod corev1.Pod
	s.get(&pod, "pod", name)
	return pod
}

func (s *space) get(to any, args ...string) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.kubectl(append([]string{"get", "-o", "json"}, args...)...)), to); err != nil {
		s.t.Fatal(err)
	}
}

func names(pods []corev1.Pod) (list []string) {
	for _, p := range pods {
		list = append(list, p.Name)
	}
	slices.Sort(list)
	return list
}

// settled waits until there are so many pods, and none that ends.
func (s *space) settled(count int) []corev1.Pod {
	s.t.Helper()
	var pods []corev1.Pod
	s.eventually(fmt.Sprintf("%d pods", count), func() (string, bool) {
		pods = s.pods()
		ends := slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || !ready(p) })
		return fmt.Sprint(names(pods)), len(pods) == count && !ends
	})
	return pods
}

func ready(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// address is where the Service takes messages.
func (s *space) address() string {
	s.t.Helper()
	ip := s.kubectl("get", "service", "poolinit", "-o", "jsonpath={.spec.clusterIP}")
	return ip + ":8089"
}

// metric returns the sum of a metric over its labels, of one pod.
func (s *space) metric(pod, port, name string) float64 {
	s.t.Helper()
	out, err := s.try("get", "--raw", "/api/v1/namespaces/"+s.name+"/pods/"+pod+":"+port+"/proxy/metrics")
	if err != nil {
		return -1
	}
	sum := 0.0
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			var v float64
			if _, err := fmt.Sscan(rest[strings.LastIndex(rest, " ")+1:], &v); err != nil {
				s.t.Fatalf("%s: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}

// A record is a line of poolinit's log.
type record struct {
	Time    time.Time
	Message string
	Text    string // all of it
}

// watchLog collects the log of a container until that ends.
func (s *space) watchLog(pod, container string) *podLog {
	s.t.Helper()
	l := new(podLog)
	l.wait = follow(s.t, func(line string) {
		r := record{Text: line}
		_ = json.Unmarshal([]byte(line), &r) // else it is no record of poolinit's
		l.mu.Lock()
		defer l.mu.Unlock()
		l.list = append(l.list, r)
	}, "--namespace", s.name, "logs", "-f", pod, "-c", container)
	return l
}

// A podLog is the log of a container.
type podLog struct {
	wait func()

	mu   sync.Mutex
	list []record
}

// all returns the whole log, when the container has ended.
func (l *podLog) all() []record {
	l.wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// last returns poolinit's last line, or "".
func (l *podLog) last() string {
	for _, r := range slices.Backward(l.all()) {
		if strings.HasPrefix(r.Message, "stopped: ") {
			return r.Message
		}
	}
	return ""
}
