package daemon

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
)

// A fakeSource is drained and lingers for as long as it may, and counts what is
// asked of it.
type fakeSource struct {
	began   time.Time
	slow    bool
	served  chan struct{}
	stats   ipc.SourceStats
	drained time.Duration
	clients time.Duration // when Linger returned
	closed  bool
	once    sync.Once
}

func (s *fakeSource) Serve() { <-s.served }

func (s *fakeSource) Drain(ctx context.Context) {
	s.once.Do(func() { close(s.served) })
	if s.slow {
		<-ctx.Done()
	}
	s.drained = time.Since(s.began)
}

func (s *fakeSource) Linger(ctx context.Context) {
	if s.slow {
		<-ctx.Done()
	}
	s.clients = time.Since(s.began)
}

func (s *fakeSource) Close() {
	s.once.Do(func() { close(s.served) })
	s.closed = true
}

func (s *fakeSource) Stats() *ipc.SourceStats { return &s.stats }

// inIntake runs f with an intake of one source that serves.
func inIntake(t *testing.T, slow bool, f func(in *intake, s *fakeSource, log *logBook)) {
	synctest.Test(t, func(t *testing.T) {
		log := new(logBook)
		s := &fakeSource{began: time.Now(), slow: slow, served: make(chan struct{})}
		in := &intake{log: zerolog.New(log), sources: []ipc.Source{s}}
		in.queue = ipc.NewQueue(ipc.Config{}, in.log)
		in.patience, in.hurry = context.WithCancel(context.Background())
		in.serve()
		f(in, s, log)
		if !s.closed {
			t.Error("the source is open")
		}
	})
}

// A drain and the clients each get the time that is left, and no more.
func TestIntakeHasDeadlines(t *testing.T) {
	for _, slow := range []bool{false, true} {
		inIntake(t, slow, func(in *intake, s *fakeSource, _ *logBook) {
			<-in.drain(time.Now().Add(3 * time.Second))
			in.close(context.Background(), time.Now().Add(2*time.Second))
			drained, clients := time.Duration(0), time.Duration(0)
			if slow {
				drained, clients = 3*time.Second, 5*time.Second
			}
			if s.drained != drained || s.clients != clients {
				t.Errorf("slow=%v: drained at %s, clients at %s", slow, s.drained, s.clients)
			}
		})
	}
}

// A second stop cuts both short. Clients still get a moment, to hear of what the
// spool has just kept.
func TestIntakeIsHurried(t *testing.T) {
	inIntake(t, true, func(in *intake, s *fakeSource, log *logBook) {
		in.drain(time.Now().Add(time.Hour))
		hurried, hurry := context.WithCancel(context.Background())
		time.Sleep(time.Second)
		hurry()
		in.close(hurried, time.Now().Add(time.Hour))
		if s.drained != time.Second || s.clients != time.Second+leastGrace || strings.Contains(log.String(), "second stop") {
			t.Errorf("drained at %s, clients at %s; log %q", s.drained, s.clients, log.String())
		}
	})
	inIntake(t, true, func(in *intake, s *fakeSource, log *logBook) {
		hurried, hurry := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, hurry)
		in.close(hurried, time.Now().Add(time.Hour))
		synctest.Wait()
		if s.clients != time.Second || !strings.Contains(log.String(), "no longer waiting for clients") {
			t.Errorf("clients at %s; log %q", s.clients, log.String())
		}
	})
}
