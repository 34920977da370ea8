package status

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
)

type (
	fakePool   func() supervisor.Stats
	fakeReaper uint64
	fakeQueue  func() ipc.QueueStats
	fakeSource struct {
		ipc.Source
		stats *ipc.SourceStats
	}
)

func (p fakePool) Stats() supervisor.Stats           { return p() }
func (r fakeReaper) Stats() reaper.Stats             { return reaper.Stats{Orphans: uint64(r)} }
func (q fakeQueue) Stats(workers int) ipc.QueueStats { return q() }
func (q fakeQueue) Paused() bool                     { return q().Paused }
func (s fakeSource) Stats() *ipc.SourceStats         { return s.stats }

// A losableSource may lose what it takes from, and has if missing says why.
type losableSource struct {
	fakeSource
	missing string
}

func (s losableSource) Missing() (why string) { return s.missing }

func poolOf(states ...supervisor.State) supervisor.Stats {
	s := supervisor.Stats{Complete: true}
	for id, state := range states {
		s.Workers = append(s.Workers, supervisor.WorkerStats{ID: id, State: state})
	}
	return s
}

func TestReady(t *testing.T) {
	for _, tt := range []struct {
		name     string
		messages bool
		serving  bool
		change   func(*supervisor.Stats)
		want     string // "": ready
	}{
		{"ready", true, true, func(*supervisor.Stats) {}, ""},
		{"paused", true, true, nil, "the pool is paused"},
		{"no messages", false, false, func(*supervisor.Stats) {}, ""},
		{"one of two", true, true, func(s *supervisor.Stats) { s.Workers[0].State = supervisor.Backoff }, ""},
		{"sources closed", true, false, func(*supervisor.Stats) {}, "messages are not taken yet"},
		{"at the start", true, true, func(s *supervisor.Stats) { s.Complete = false }, "not every worker has been ready yet"},
		{"none", true, true, func(s *supervisor.Stats) {
			s.Workers[0].State, s.Workers[1].State = supervisor.Starting, supervisor.Detached
		}, "no worker is ready"},
		{"stopping", true, true, func(s *supervisor.Stats) { s.Stopping = "SIGTERM" }, "the pool stops: SIGTERM"},
		{"stopping without anything", true, false, func(s *supervisor.Stats) { *s = supervisor.Stats{Stopping: "SIGTERM"} }, "the pool stops: SIGTERM"},
	} {
		stats := poolOf(supervisor.Ready, supervisor.Ready)
		paused := tt.change == nil
		if !paused {
			tt.change(&stats)
		}
		v := &View{Pool: fakePool(func() supervisor.Stats { return stats }), Reaper: fakeReaper(0), Serving: func() bool { return tt.serving }}
		if tt.messages {
			v.Queue = fakeQueue(func() ipc.QueueStats { return ipc.QueueStats{Paused: paused} })
		}
		for what, ask := range map[string]func() (bool, string){"view": v.Ready, "snapshot": v.Look().Ready} {
			if ok, why := ask(); ok != (tt.want == "") || why != tt.want {
				t.Errorf("%s, %s: %v, %q", tt.name, what, ok, why)
			}
		}
		if d := v.Look().Document(); d.Ready != (tt.want == "") || d.Reason != tt.want {
			t.Errorf("%s: the document says %v, %q", tt.name, d.Ready, d.Reason)
		}
	}
}

// One source whose queue is missing makes the pool not ready. A source that cannot lose
// its queue does not.
func TestReadyOfSources(t *testing.T) {
	named := func(name string) fakeSource { return fakeSource{stats: &ipc.SourceStats{Name: name}} }
	for missing, want := range map[string]string{
		"":                        "",
		"no space left on device": "messages are not taken from sysv://0x2: no space left on device",
	} {
		v := &View{
			Pool: fakePool(func() supervisor.Stats { return poolOf(supervisor.Ready) }), Reaper: fakeReaper(0),
			Queue: fakeQueue(func() ipc.QueueStats { return ipc.QueueStats{} }), Serving: func() bool { return true },
			Sources: []ipc.Source{named("tcp://:9000"), losableSource{named("sysv://0x1"), ""}, losableSource{named("sysv://0x2"), missing}},
		}
		if ok, why := v.Ready(); ok != (want == "") || why != want {
			t.Errorf("missing for %q: %v, %q", missing, ok, why)
		}
		if d := v.Look().Document(); d.Ready != (want == "") || d.Reason != want {
			t.Errorf("missing for %q: the document says %v, %q", missing, d.Ready, d.Reason)
		}
	}
}

// What is stuck is a message that waits beside a worker with nothing to do, and
// goes on to.
func TestLive(t *testing.T) {
	waits := ipc.QueueStats{Messages: 3, OldestID: 7, Oldest: 1500 * time.Millisecond, Idle: 1}
	with := func(change func(*ipc.QueueStats)) ipc.QueueStats {
		s := waits
		change(&s)
		return s
	}
	for _, tt := range []struct {
		name  string
		queue func(look int) ipc.QueueStats
		want  string        // "": live
		took  time.Duration // at most
	}{
		{"nothing waits", func(int) ipc.QueueStats { return ipc.QueueStats{Idle: 4} }, "", 0},
		{"all are busy", func(int) ipc.QueueStats { return ipc.QueueStats{Messages: 1024, OldestID: 1, Oldest: time.Hour} }, "", 0},
		{"on its way", func(look int) ipc.QueueStats {
			if look < 3 {
				return waits
			}
			return ipc.QueueStats{Idle: 1}
		}, "", 2 * stuckTick},
		{"one goes, another comes", func(look int) ipc.QueueStats {
			s := waits
			s.OldestID = uint64(look)
			return s
		}, "", stuckTick},
		{"only what may not be handed out now", func(int) ipc.QueueStats {
			s := waits
			s.Later = s.Messages
			return s
		}, "", 0},
		{"stuck beside what may not be handed out now", func(int) ipc.QueueStats {
			s := waits
			s.Later = s.Messages - 1
			return s
		}, "a message has waited for 1.5s while a ready worker has nothing to do", stuckFor + 2*stuckTick},
		{"paused", func(int) ipc.QueueStats { return with(func(s *ipc.QueueStats) { s.Paused, s.Later = true, 3 }) }, "", 0},
		{"paused while it is looked at", func(look int) ipc.QueueStats {
			return with(func(s *ipc.QueueStats) { s.Paused = look > 3 })
		}, "", 3 * stuckTick},
		{"stuck", func(int) ipc.QueueStats { return waits }, "a message has waited for 1.5s while a ready worker has nothing to do", stuckFor + 2*stuckTick},
	} {
		synctest.Test(t, func(t *testing.T) {
			looks := 0
			v := &View{Queue: fakeQueue(func() ipc.QueueStats { looks++; return tt.queue(looks) })}
			began := time.Now()
			ok, why := v.Live()
			if ok != (tt.want == "") || why != tt.want {
				t.Errorf("%s: %v, %q", tt.name, ok, why)
			}
			if took := time.Since(began); took > tt.took {
				t.Errorf("%s: it took %v", tt.name, took)
			}
		})
	}
	if ok, why := new(View).Live(); !ok || why != "" {
		t.Errorf("without messages: %v, %q", ok, why)
	}
}

// What moves in normal traffic is not stuck, however slowly it does; the second
// is what docs/kubernetes.md says.
func TestLiveWaitsASecond(t *testing.T) {
	for _, tt := range []struct {
		name  string
		moves time.Duration // after this time another message is the oldest; 0: never
		live  bool
		least time.Duration // how long it looks
		most  time.Duration
	}{
		{"moves at once", time.Millisecond, true, 0, 100 * time.Millisecond},
		{"moves soon", 200 * time.Millisecond, true, 200 * time.Millisecond, 300 * time.Millisecond},
		{"moves just in time", 900 * time.Millisecond, true, 900 * time.Millisecond, time.Second},
		{"moves too late", 1500 * time.Millisecond, false, time.Second, 1200 * time.Millisecond},
		{"never moves", 0, false, time.Second, 1200 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			v := &View{Queue: fakeQueue(func() ipc.QueueStats {
				s := ipc.QueueStats{Messages: 1, OldestID: 7, Oldest: time.Since(began), Idle: 1}
				if tt.moves > 0 && time.Since(began) >= tt.moves {
					s.OldestID++
				}
				return s
			})}
			ok, why := v.Live()
			if ok != tt.live || ok != (why == "") {
				t.Errorf("%s: %v, %q", tt.name, ok, why)
			}
			if took := time.Since(began); took < tt.least || took > tt.most {
				t.Errorf("%s: it took %v, want %v to %v", tt.name, took, tt.least, tt.most)
			}
		})
	}
}

func TestStates(t *testing.T) {
	states := supervisor.States()
	s := &Snapshot{Pool: poolOf(append(states, supervisor.Ready, supervisor.Ready, supervisor.Starting)...)}
	inHand := ipc.WorkerStats{InHand: 1}
	n := len(states)
	s.Queue.Workers = make([]ipc.WorkerStats, n, n+3)
	s.Queue.Workers = append(s.Queue.Workers, inHand) // the others' are missing
	for i, state := range states {
		if got := s.State(i); got != state {
			t.Errorf("%s is called %s", state, got)
		}
	}
	if s.State(n) != Busy || s.State(n+1) != supervisor.Ready || s.State(n+2) != supervisor.Starting {
		t.Errorf("%s %s %s", s.State(n), s.State(n+1), s.State(n+2))
	}
	if all := States(); !slices.Contains(all, Busy) || len(all) != n+1 {
		t.Errorf("%v", all)
	}
}

// A look finds what its own process uses, and what others have used before it.
func TestLook(t *testing.T) {
	stats := poolOf(supervisor.Ready, supervisor.Backoff, supervisor.Ready)
	stats.Workers[0].PID, stats.Workers[0].Ended.CPU = os.Getpid(), time.Hour
	stats.Workers[1].Ended.CPU = time.Minute
	stats.Workers[2].PID = 1<<22 + 1 // it has just ended
	v := &View{Pool: fakePool(func() supervisor.Stats { return stats }), Reaper: fakeReaper(5)}
	s := v.Look()
	if u := s.Usage[0]; u.RSS == 0 || u.CPU < time.Hour || u.Gone {
		t.Errorf("%+v", u)
	}
	if u := s.Usage[1]; u != (Usage{CPU: time.Minute}) {
		t.Errorf("%+v", u)
	}
	if u := s.Usage[2]; u != (Usage{Gone: true}) {
		t.Errorf("%+v", u)
	}
	if s.HasMessages() || len(s.Sources()) != 0 || s.Reaper.Orphans != 5 || s.Uptime(0) != 0 {
		t.Errorf("%+v", s)
	}
	if text := v.Look().Document(); text.Queue != nil || text.Sources == nil || !strings.Contains(text.Reload.State, "none") {
		t.Errorf("%+v", text)
	}
}
