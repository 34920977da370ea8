//go:build k8s

package kubernetes

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A timeline is what happened, as seen by those to whom it matters.
type timeline struct {
	mu     sync.Mutex
	began  time.Time
	events []event
	seen   map[string]string // the last state of each thing
}

type event struct {
	at        time.Time
	who, what string
}

func newTimeline() *timeline { return &timeline{began: time.Now(), seen: map[string]string{}} }

func (l *timeline) add(at time.Time, who, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, event{at, who, what})
}

// changed adds an event if what is seen differs from before.
func (l *timeline) changed(who, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[who] != what {
		l.seen[who] = what
		l.events = append(l.events, event{time.Now(), who, what})
	}
}

// watch follows pods and endpoints of a namespace.
func (l *timeline) watch(t *testing.T, s *space) {
	t.Helper()
	documents(t, func(text string) {
		var p corev1.Pod
		if json.Unmarshal([]byte(text), &p) == nil && p.Labels["app.kubernetes.io/name"] == "poolinit" {
			l.changed("pod "+p.Name, podState(p))
		}
	}, "--namespace", s.name, "get", "pods", "-o", "json", "--watch", "--output-watch-events=false")
	documents(t, func(text string) {
		var e discoveryv1.EndpointSlice
		if json.Unmarshal([]byte(text), &e) == nil && e.Labels["kubernetes.io/service-name"] == "poolinit" {
			l.changed("endpoints", endpointState(e))
		}
	}, "--namespace", s.name, "get", "endpointslices", "-o", "json", "--watch", "--output-watch-events=false")
}

// documents follows kubectl's JSON, which has many lines a document.
func documents(t *testing.T, do func(text string), args ...string) {
	t.Helper()
	var text strings.Builder
	follow(t, func(line string) {
		text.WriteString(line)
		text.WriteByte('\n')
		if line == "}" {
			do(text.String())
			text.Reset()
		}
	}, args...)
}

func podState(p corev1.Pod) string {
	state := []string{string(p.Status.Phase)}
	if ready(p) {
		state = append(state, "ready")
	}
	if p.DeletionTimestamp != nil {
		state = append(state, "to be deleted")
	}
	for _, c := range p.Status.ContainerStatuses {
		if e := c.State.Terminated; e != nil {
			state = append(state, fmt.Sprintf("%s exited with %d", c.Name, e.ExitCode))
		}
	}
	return strings.Join(state, ", ")
}

func endpointState(e discoveryv1.EndpointSlice) string {
	var list []string
	for _, p := range e.Endpoints {
		state := "not ready"
		if p.Conditions.Ready != nil && *p.Conditions.Ready {
			state = "ready"
		}
		if p.Conditions.Terminating != nil && *p.Conditions.Terminating {
			state = "terminating"
			if p.Conditions.Serving != nil && *p.Conditions.Serving {
				state += ", serving"
			}
		}
		name := ""
		if p.TargetRef != nil {
			name = p.TargetRef.Name
		}
		list = append(list, name+" "+state)
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}

// logs adds poolinit's own lines.
func (l *timeline) logs(pod string, records []record) {
	for _, r := range records {
		if r.Message != "" && !r.Time.IsZero() {
			l.add(r.Time, "log of "+pod, r.Message)
		}
	}
}

// clients adds when each pod was last reached by a new connection.
func (l *timeline) clients(tallies []*tally) {
	for _, y := range tallies {
		for pod, at := range y.newest {
			l.add(at, y.kind, "last first reply from "+pod)
		}
	}
}

// String has the time since its beginning before each event.
func (l *timeline) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortStableFunc(l.events, func(a, b event) int { return a.at.Compare(b.at) })
	var text strings.Builder
	for _, e := range l.events {
		if d := e.at.Sub(l.began); d >= 0 {
			fmt.Fprintf(&text, "%7.3f  %s: %s\n", d.Seconds(), e.who, e.what)
		}
	}
	return text.String()
}
