//go:build k8s

package kubernetes

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// A question is a message on a connection of its own, whose answer comes later.
type question struct {
	message string
	answer  chan string
}

// ask sends messages at once, each on its own connection to one pod.
func ask(t *testing.T, address string, messages ...string) (asked []question) {
	t.Helper()
	for _, m := range messages {
		conn, err := net.DialTimeout("tcp", address, dialTime)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(appendFrame(nil, m)); err != nil {
			t.Fatal(err)
		}
		q := question{m, make(chan string, 1)} // 1: nobody may ask for it
		asked = append(asked, q)
		go func() { // ends with the connection
			defer conn.Close()
			body, failure, err := readFrame(bufio.NewReader(conn))
			code, _, _ := strings.Cut(string(body), ":")
			switch {
			case err != nil:
				q.answer <- "none: " + err.Error()
			case failure:
				q.answer <- code
			default:
				q.answer <- "handled"
			}
		}()
	}
	return asked
}

func (q question) wait(t *testing.T) string {
	t.Helper()
	select {
	case a := <-q.answer:
		return a
	case <-time.After(patience):
		t.Fatalf("%s: no answer within %s", q.message, patience)
		return ""
	}
}

// answers are how many answers of each kind there are.
func answers(t *testing.T, asked []question) string {
	t.Helper()
	counts := map[string]int{}
	for _, q := range asked {
		counts[q.wait(t)]++
	}
	return fmt.Sprint(counts)
}

// work is longer than any pod here is given: one message for each of two workers,
// and two that wait behind them.
var work = []string{"sleep 10s", "sleep 10s", "sleep 10s", "sleep 10s"}

// What a pod has no time for, by who runs out of it first.
func TestStopTooShort(t *testing.T) {
	s := newSpace(t, "too-short")
	s.apply(choice{on: "base"}, 1, "POOLINIT_WORKERS=2", "POOLINIT_DRAIN_DELAY=1s", "POOLINIT_STOP_TIMEOUT=5s", "POOLINIT_WINDOW=1")
	for _, tt := range []struct {
		name, grace string
		answers     string
		last        string // the log's last line; "": there is none
		code        int32
	}{
		// poolinit has its time: everything is accounted for.
		{"poolinit's own time is over", "30", "map[interrupted:2 stopping:2]", "stopped: handled 0, spooled 0, lost 4, killed 2,", 137},
		// The kubelet kills it before: nobody is told anything.
		{"the pod's time is over", "3", "map[none: EOF:4]", "", 137},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := s.settled(1)[0]
			log := s.watchLog(pod.Name, "pool")
			asked := ask(t, pod.Status.PodIP+":8089", work...)
			s.eventually("all are there", func() (string, bool) {
				n := s.metric(pod.Name, "9090", "poolinit_messages_received_total")
				return fmt.Sprint(n), n == float64(len(work))
			})
			line := newTimeline()
			line.watch(t, s)
			began := time.Now()
			s.kubectl("delete", "pod", pod.Name, "--grace-period="+tt.grace)
			t.Logf("kubectl delete pod --grace-period=%s took %.1f s", tt.grace, time.Since(began).Seconds())
			if got := answers(t, asked); got != tt.answers {
				t.Errorf("answers %s, want %s", got, tt.answers)
			}
			last := log.last()
			if !strings.HasPrefix(last, tt.last) || (last == "") != (tt.last == "") {
				t.Errorf("the log ends with %q, want %q", last, tt.last)
			}
			line.logs(pod.Name, log.all())
			t.Logf("\n%s", line)
			if want := fmt.Sprintf("pool exited with %d", tt.code); !strings.Contains(line.String(), want) {
				t.Errorf("not seen: %s", want)
			}
		})
	}
}

// With a spool what there is no time for is handled by the pod of the same name
// that comes after.
func TestSpool(t *testing.T) {
	makeVolumes(t, "spool", 1) // gone after what uses them
	s := newSpace(t, "spool")
	s.apply(choice{on: "overlays/spool"}, 1, "POOLINIT_WORKERS=2", "POOLINIT_DRAIN_DELAY=1s", "POOLINIT_STOP_TIMEOUT=5s", "POOLINIT_WINDOW=1")
	pod := s.settled(1)[0]
	log := s.watchLog(pod.Name, "pool")
	asked := ask(t, pod.Status.PodIP+":8089", work...)
	s.eventually("all are there", func() (string, bool) {
		n := s.metric(pod.Name, "9090", "poolinit_messages_received_total")
		return fmt.Sprint(n), n == float64(len(work))
	})
	s.kubectl("delete", "pod", pod.Name)
	if got := answers(t, asked); got != "map[spooled:4]" {
		t.Errorf("answers %s", got)
	}
	if last := log.last(); !strings.HasPrefix(last, "stopped: handled 0, spooled 4, lost 0, killed 2,") {
		t.Errorf("the log ends with %q", last)
	}
	t.Log(log.last())
	next := s.settled(1)[0]
	if next.Name != pod.Name || next.UID == pod.UID {
		t.Errorf("pod %s after %s", next.Name, pod.Name)
	}
	s.eventually("all are handled", func() (string, bool) {
		n := s.metric(next.Name, "9090", "poolinit_messages_handled_total")
		return fmt.Sprint(n), n == float64(len(work))
	})
}

// makeVolumes makes volumes for the claims of a StatefulSet, since nothing here
// provides them: directories of the node.
func makeVolumes(t *testing.T, prefix string, count int) {
	t.Helper()
	for n := range count {
		name := fmt.Sprintf("%s-%d", prefix, n)
		text := fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: %s}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  local: {path: %s}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/hostname, operator: Exists}]
`, name, t.TempDir())
		if _, err := tryKubectl(text, "apply", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := tryKubectl("", "delete", "persistentvolume", name, "--timeout=60s"); err != nil {
				t.Error(err)
			}
		})
	}
}
