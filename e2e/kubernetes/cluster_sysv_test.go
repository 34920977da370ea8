//go:build k8s

package kubernetes

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// handledBy reads how many messages a pool handled from its last line.
func handledBy(t *testing.T, last string) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(last, "stopped: handled %d,", &n); err != nil {
		t.Fatalf("the log ends with %q", last)
	}
	return n
}

// feed sends messages to the sidecar, one after the other, until so many were
// taken, it is told to stop, or nobody listens. It returns how many were taken.
func (s *space) feed(address string, count int, stop <-chan struct{}) (taken int) {
	s.t.Helper()
	for attempts := 0; taken < count; attempts++ {
		if attempts > 100 {
			s.t.Error("the sidecar takes nothing")
			return taken
		}
		conn, err := dial(address)
		if err != nil {
			return taken
		}
		for over := false; !over && taken < count; {
			select {
			case <-stop:
				conn.Close()
				return taken
			default:
			}
			if over = !s.feedOne(conn, taken); !over {
				taken++
			}
		}
		conn.Close()
	}
	return taken
}

// feedOne reports whether the sidecar has put a message into the queue.
func (s *space) feedOne(conn net.Conn, n int) bool {
	if _, err := conn.Write(appendFrame(nil, fmt.Sprintf("message %d", n))); err != nil {
		return false
	}
	body, failure, err := readFrame(conn)
	if err == nil && !failure && len(body) > 0 {
		s.t.Errorf("the sidecar says %q", body)
	}
	return err == nil && !failure
}

// The queue is shared by the containers of a pod. It outlives the container that
// reads it.
func TestSysVSidecar(t *testing.T) {
	s := newSpace(t, "sysv")
	s.apply(choice{on: "overlays/sysv"}, 1, "POOLINIT_WORKERS=2")
	pod := s.settled(1)[0]
	address := s.address()
	// The control sockets are in one network namespace, and do not mix.
	for container, source := range map[string]string{"pool": "sysv://0x7000001", "feeder": "tcp://:8089"} {
		if status := s.kubectl("exec", pod.Name, "-c", container, "--", "/poolinit", "status"); !strings.Contains(status, "\n"+source+" ") {
			t.Errorf("%s shows\n%s", container, status)
		}
	}
	never := make(chan struct{})
	if n := s.feed(address, 300, never); n != 300 {
		t.Fatalf("%d taken", n)
	}
	s.eventually("all are handled", func() (string, bool) {
		n := s.metric(pod.Name, "9090", "poolinit_messages_handled_total")
		return fmt.Sprint(n), n == 300
	})

	// The pool's container ends and comes back; what is sent meanwhile waits.
	log := s.watchLog(pod.Name, "pool")
	s.kubectl("exec", pod.Name, "-c", "pool", "--", "/poolinit", "stop")
	s.eventually("the pool takes nothing", func() (string, bool) {
		n := s.metric(pod.Name, "9090", "poolinit_stopping")
		return fmt.Sprint(n), n == -1
	})
	sent := s.feed(address, 200, never)
	first := handledBy(t, log.last())
	s.eventually("the container is back, and all are handled", func() (string, bool) {
		n := s.metric(pod.Name, "9090", "poolinit_messages_handled_total")
		return fmt.Sprint(n), first+int(n) == 300+sent
	})
	if p := s.settled(1)[0]; p.UID != pod.UID {
		t.Error("the pod was replaced")
	}
	t.Logf("%d messages handled before the container was restarted, %d in all", first, 300+sent)
}

// A pod that goes takes its queue along. The delay of overlays/sysv has the pool
// empty it first; without that messages are lost.
func TestSysVPodEnds(t *testing.T) {
	for _, tt := range []struct {
		delay string
		loses bool
	}{{"15s", false}, {"0s", true}} {
		t.Run("delay "+tt.delay, func(t *testing.T) {
			s := newSpace(t, "sysv-end-"+tt.delay)
			s.apply(choice{on: "overlays/sysv"}, 1, "POOLINIT_WORKERS=2", "POOLINIT_DRAIN_DELAY="+tt.delay)
			pod := s.settled(1)[0]
			log, feeder := s.watchLog(pod.Name, "pool"), s.watchLog(pod.Name, "feeder")
			stop, taken := make(chan struct{}), make(chan int)
			go func() { taken <- s.feed(pod.Status.PodIP+":8089", 1e6, stop) }() // ends with the pod
			time.Sleep(3 * time.Second)
			s.kubectl("delete", "pod", pod.Name)
			close(stop)
			n, handled := <-taken, handledBy(t, log.last())
			t.Logf("the sidecar took %d messages, the pool handled %d: %d lost\n  pool:   %s\n  feeder: %s",
				n, handled, n-handled, log.last(), feeder.last())
			if n == 0 || handled < n != tt.loses {
				t.Errorf("%d taken, %d handled", n, handled)
			}
		})
	}
}

// A message that is longer than the queue takes is refused at once, and does not
// stand in the way.
func TestSysVTooLong(t *testing.T) {
	s := newSpace(t, "sysv-too-long")
	s.apply(choice{on: "overlays/sysv"}, 1)
	pod := s.settled(1)[0]
	asked := ask(t, pod.Status.PodIP+":8089", strings.Repeat("x", 8193), strings.Repeat("x", 8192))
	if got := asked[0].wait(t) + ", " + asked[1].wait(t); got != "too-big, handled" {
		t.Errorf("longer than a message may be, and as long: %s", got)
	}
}
