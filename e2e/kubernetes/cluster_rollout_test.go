//go:build k8s

package kubernetes

import (
	"strings"
	"testing"
	"time"
)

// rollouts is how many there are under load.
const rollouts = 5

// Clients notice nothing of a rollout: every message is answered, and what is
// answered "stopping" is answered when it is sent again.
func TestRollout(t *testing.T) {
	s := newSpace(t, "rollout")
	s.apply(choice{on: "base"}, 2, "POOLINIT_WORKERS=2")
	tallies := s.rollOut(rollouts, true)
	for _, y := range tallies {
		t.Log(y)
		if y.answered == 0 || y.refused+y.unanswered+len(y.failed) > 0 {
			t.Errorf("%s: messages lost", y.kind)
		}
	}
	if single := tallies[2]; len(single.pods) != 2*(rollouts+1) {
		t.Errorf("%s: %d pods had messages", single.kind, len(single.pods))
	}
}

// Without --drain-delay a pod that stops does not take connections any more, while
// they are still sent to it. What that costs is written down, and nothing is
// left in doubt all the same.
func TestRolloutWithoutDelay(t *testing.T) {
	s := newSpace(t, "rollout-no-delay")
	s.apply(choice{on: "base"}, 2, "POOLINIT_WORKERS=2", "POOLINIT_DRAIN_DELAY=0s")
	for _, y := range s.rollOut(rollouts, false) {
		t.Log(y)
		if len(y.failed) > 0 {
			t.Errorf("%s: messages failed", y.kind)
		}
	}
}

// rollOut restarts the pool so many times under load.
func (s *space) rollOut(times int, withSend bool) []*tally {
	s.t.Helper()
	address := s.address()
	l := start(s.t, address)
	if withSend {
		send := startSend(s.t, address)
		defer send.end()
	}
	time.Sleep(time.Second) // of quiet before the first
	for n := range times {
		before := names(s.settled(2))
		began := time.Now()
		s.kubectl("rollout", "restart", s.workload())
		s.rolledOut()
		done := time.Since(began)
		after := names(s.settled(2))
		for _, name := range before {
			if strings.Contains(strings.Join(after, " "), name) {
				s.t.Errorf("%s was not replaced", name)
			}
		}
		s.t.Logf("rollout %d: complete after %.1f s, the last old pod gone after %.1f s", n+1, done.Seconds(), time.Since(began).Seconds())
	}
	time.Sleep(time.Second)
	l.end()
	return l.tallies
}

// Second by second: what a rollout looks like to the API, the log and clients.
func TestTimeline(t *testing.T) {
	s := newSpace(t, "timeline")
	s.apply(choice{on: "overlays/rollout"}, 2, "POOLINIT_WORKERS=2")
	old := names(s.settled(2))
	l := start(t, s.address())
	time.Sleep(time.Second)
	line := newTimeline()
	line.watch(t, s)
	var logs []*podLog
	for _, name := range old {
		logs = append(logs, s.watchLog(name, "pool"))
	}
	time.Sleep(2 * time.Second) // for all of them to see what there is
	line.began = time.Now()
	line.add(line.began, "kubectl", "rollout restart")
	s.kubectl("rollout", "restart", s.workload())
	s.rolledOut()
	line.add(time.Now(), "kubectl", "rollout status: successfully rolled out")
	s.settled(2)
	l.end()
	for i, name := range old {
		line.logs(name, logs[i].all())
	}
	line.clients(l.tallies[2:])
	t.Logf("\n%s", line)
	for _, y := range l.tallies {
		t.Log(y)
	}
}

// A version that cannot work does not get anywhere: the old pods stay, and undo
// takes it back.
func TestUndo(t *testing.T) {
	for name, image := range map[string]string{"broken": "poolinit:broken", "absent": "registry.invalid/poolinit:absent"} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t, "undo-"+name)
			s.apply(choice{on: "base"}, 2, "POOLINIT_WORKERS=2")
			good := names(s.settled(2))
			l := start(t, s.address())
			s.kubectl("set", "image", "deployment/poolinit", "pool="+image)
			out, err := s.try("rollout", "status", "deployment/poolinit", "--timeout=20s")
			if err == nil {
				t.Errorf("the rollout is done:\n%s", out)
			}
			s.describeBad(good)
			s.kubectl("rollout", "undo", "deployment/poolinit")
			s.rolledOut()
			if after := names(s.settled(2)); strings.Join(after, " ") != strings.Join(good, " ") {
				t.Errorf("pods %v, want %v", after, good)
			}
			l.end()
			for _, y := range l.tallies {
				t.Log(y)
				if y.answered == 0 || y.refused+y.unanswered+y.again+len(y.failed) > 0 {
					t.Errorf("%s: somebody noticed", y.kind)
				}
			}
		})
	}
}

// describeBad shows what the pod that cannot work looks like, and that the others
// are untouched.
func (s *space) describeBad(good []string) {
	s.t.Helper()
	for _, p := range s.pods() {
		isOld := strings.Contains(strings.Join(good, " "), p.Name)
		if ready(p) != isOld || p.DeletionTimestamp != nil {
			s.t.Errorf("%s: %s", p.Name, podState(p))
		}
		if isOld {
			continue
		}
		for _, c := range p.Status.ContainerStatuses {
			s.t.Logf("the new pod: %s, %d restarts, waiting: %+v", podState(p), c.RestartCount, c.State.Waiting)
		}
		log, _ := s.try("logs", p.Name, "--tail=3") // an image that is not there has none
		s.t.Logf("its log ends:\n%s", log)
	}
}
