package status

import (
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
)

// A View is where to look. Its fields are set before the first look. A field that is nil
// stands for a part that this pool does not have.
type View struct {
	Version string
	PID     int
	Pool    interface{ Stats() supervisor.Stats }
	Reaper  interface{ Stats() reaper.Stats }
	Queue   interface {
		Stats(workers int) ipc.QueueStats
		Paused() bool
	} // nil: the workers get no messages
	Sources []ipc.Source
	// Serving reports whether the sources have begun to take messages. It is called only if there are any.
	Serving func() bool
	// Spool returns the counts of the spool, or nil. It may be nil, too.
	Spool func() *ipc.SpoolStats
	// QueueMessages and QueueBytes are the limits of the queue, ReplyBytes is that of
	// the replies that wait.
	QueueMessages, QueueBytes, ReplyBytes int
}

// A Snapshot is the state of a pool at one time.
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
		s.Queue = v.Queue.Stats(len(s.Pool.Workers))
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

// Uptime returns the age of a worker's process, or 0 if it has none.
func (s *Snapshot) Uptime(worker int) time.Duration {
	if began := s.Pool.Workers[worker].Started; !began.IsZero() {
		return max(0, s.At.Sub(began))
	}
	return 0
}

// HasMessages reports whether the workers get messages.
func (s *Snapshot) HasMessages() bool { return s.view.Queue != nil }

// Spool returns the counts of the spool, or nil.
func (s *Snapshot) Spool() *ipc.SpoolStats {
	if s.view.Spool == nil {
		return nil
	}
	return s.view.Spool()
}

// Sources returns the counts of each source.
func (s *Snapshot) Sources() []*ipc.SourceStats {
	stats := make([]*ipc.SourceStats, len(s.view.Sources))
	for i, source := range s.view.Sources {
		stats[i] = source.Stats()
	}
	return stats
}

// State returns what a worker is doing, in one word. It is the state of its slot, except
// that a ready worker with messages in hand is busy.
func (s *Snapshot) State(worker int) supervisor.State {
	state := s.Pool.Workers[worker].State
	if state == supervisor.Ready && worker < len(s.Queue.Workers) && s.Queue.Workers[worker].InHand > 0 {
		return Busy
	}
	return state
}

// Busy is the state of a ready worker with messages in hand.
const Busy supervisor.State = "busy"

// States returns every state that State can return.
func States() []supervisor.State { return append(supervisor.States(), Busy) }

// Ready reports whether the pool serves, or why not. A pool whose workers are all busy
// serves.
func (v *View) Ready() (ok bool, why string) {
	stats := v.Pool.Stats()
	return v.ready(&stats, v.Queue != nil && v.Queue.Paused())
}

// Ready is the answer of View.Ready at the time of the snapshot.
func (s *Snapshot) Ready() (ok bool, why string) { return s.view.ready(&s.Pool, s.Queue.Paused) }

func (v *View) ready(stats *supervisor.Stats, paused bool) (ok bool, why string) {
	if ok, why = stats.Ready(); !ok {
		return false, why
	}
	if v.Queue == nil {
		return true, ""
	}
	if paused {
		return false, "the pool is paused"
	}
	if !v.Serving() {
		return false, "messages are not taken yet"
	}
	return v.sourcesOpen()
}

// sourcesOpen reports whether all sources can take messages, or which of them cannot, and
// why. A source whose queue may disappear while it runs has a method Missing, which
// returns the reason, or "".
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

// stuckFor is how long a message must wait while a ready worker has nothing to do. When it
// elapses, the message is stuck. stuckTick is how often that is checked.
const (
	stuckFor  = time.Second
	stuckTick = 50 * time.Millisecond
)

// Live reports whether the pool can still do its work, or why not. It returns at once if
// it can, and after a second at most.
//
// A message that may be handed out now and waits while a worker is idle is stuck: it will
// never be delivered. A paused pool hands out none, and a message that waits for its retry
// or is to be delivered alone is not handed out now. A message may be seen on its way to
// the worker, so one look is not enough.
func (v *View) Live() (ok bool, why string) {
	if v.Queue == nil {
		return true, ""
	}
	first := v.Queue.Stats(0)
	for deadline := time.Now().Add(stuckFor); ; time.Sleep(stuckTick) {
		s := v.Queue.Stats(0)
		if s.Paused || s.Messages <= s.Later || s.Idle == 0 || s.OldestID != first.OldestID {
			return true, ""
		}
		if time.Now().After(deadline) {
			return false, "a message has waited for " + s.Oldest.Round(time.Millisecond).String() + " while a ready worker has nothing to do"
		}
	}
}
