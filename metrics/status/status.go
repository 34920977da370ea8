// Package status looks at a running pool from outside: it puts together what
// the supervisor, the queue, the sources and the kernel know, for metrics, for
// health checks, and as a document for people and programs.
//
// Nothing here costs anything while nobody looks.
package status

import (
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
)

// A View is where to look. Its fields are set once; what is nil is not there.
type View struct {
	Version string
	PID     int
	Workers int
	Pool    interface{ Stats() supervisor.Stats }
	Reaper  interface{ Stats() reaper.Stats }
	Queue   interface {
		Stats(workers int) ipc.QueueStats
	} // nil: the workers get no messages
	Sources []ipc.Source
	// Serving reports whether the sources have begun to take messages. It is asked only if there are any.
	Serving func() bool
	// QueueMessages and QueueBytes are the limits of the queue.
	QueueMessages, QueueBytes int
}

// A Snapshot is what a View shows at one time.
type Snapshot struct {
	view   *View
	At     time.Time
	Pool   supervisor.Stats
	Queue  ipc.QueueStats
	Reaper reaper.Stats
	Usage  []Usage // by worker
}

// Look takes a snapshot. It may be called from any goroutine.
func (v *View) Look() *Snapshot {
	s := &Snapshot{view: v, At: time.Now(), Pool: v.Pool.Stats(), Reaper: v.Reaper.Stats()}
	if v.Queue != nil {
		s.Queue = v.Queue.Stats(v.Workers)
	}
	s.Usage = make([]Usage, len(s.Pool.Workers))
	for i, w := range s.Pool.Workers {
		if w.PID != 0 {
			s.Usage[i] = usageOf(w.PID)
		}
		s.Usage[i].CPU += w.Ended.CPU
	}
	return s
}

// Uptime is the age of a worker's process; 0: it has none.
func (s *Snapshot) Uptime(worker int) time.Duration {
	if began := s.Pool.Workers[worker].Started; !began.IsZero() {
		return max(0, s.At.Sub(began))
	}
	return 0
}

// HasMessages reports whether the workers get messages.
func (s *Snapshot) HasMessages() bool { return s.view.Queue != nil }

// Sources returns what counts each source.
func (s *Snapshot) Sources() []*ipc.SourceStats {
	stats := make([]*ipc.SourceStats, len(s.view.Sources))
	for i, source := range s.view.Sources {
		stats[i] = source.Stats()
	}
	return stats
}

// A State is what a worker is doing, in one word: that of its slot, but that a
// ready worker with messages in hand is busy.
func (s *Snapshot) State(worker int) supervisor.State {
	state := s.Pool.Workers[worker].State
	if state == supervisor.Ready && worker < len(s.Queue.Workers) && s.Queue.Workers[worker].InHand > 0 {
		return Busy
	}
	return state
}

// Busy is the state of a ready worker with messages in hand.
const Busy supervisor.State = "busy"

// States returns every state that State returns.
func States() []supervisor.State { return append(supervisor.States(), Busy) }

// Ready reports whether the pool serves, or why not. That all workers are busy
// is no reason.
func (v *View) Ready() (ok bool, why string) {
	stats := v.Pool.Stats()
	return v.ready(&stats)
}

// Ready is View.Ready at the time of the snapshot.
func (s *Snapshot) Ready() (ok bool, why string) { return s.view.ready(&s.Pool) }

func (v *View) ready(stats *supervisor.Stats) (ok bool, why string) {
	if ok, why = stats.Ready(); !ok {
		return false, why
	}
	if v.Queue == nil {
		return true, ""
	}
	if !v.Serving() {
		return false, "messages are not taken yet"
	}
	return v.sourcesOpen()
}

// sourcesOpen reports whether all sources can take messages, or which of them
// cannot, and why. One that may lose what it takes from, while it runs, has a
// method Missing, which says why, or "".
func (v *View) sourcesOpen() (ok bool, why string) {
	for _, source := range v.Sources {
		if s, may := source.(interface{ Missing() (why string) }); may {
			if why := s.Missing(); why != "" {
				return false, "messages are not taken from " + source.Stats().Name + ": " + why
			}
		}
	}
	return true, ""
}

// stuckFor is how long a message must wait beside a ready worker that has nothing
// to do to be called stuck; stuckTick is how often that is looked at.
const (
	stuckFor  = time.Second
	stuckTick = 50 * time.Millisecond
)

// Live reports whether the pool can still do its work, or why not. It takes no
// time if all is well, and a second at most.
//
// A message that waits while a worker idles is stuck: nobody will ever hand it
// over. As one may be seen on its way, it is looked at again and again.
func (v *View) Live() (ok bool, why string) {
	if v.Queue == nil {
		return true, ""
	}
	first := v.Queue.Stats(0)
	for deadline := time.Now().Add(stuckFor); ; time.Sleep(stuckTick) {
		s := v.Queue.Stats(0)
		if s.Messages == 0 || s.Idle == 0 || s.OldestID != first.OldestID {
			return true, ""
		}
		if time.Now().After(deadline) {
			return false, "a message has waited for " + s.Oldest.Round(time.Millisecond).String() + " while a ready worker has nothing to do"
		}
	}
}
