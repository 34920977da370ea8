package status

import (
	"time"

	"github.com/poolinit/poolinit/ipc"
)

// A Document is a snapshot for people and programs, as JSON: poolinit status --json and
// /status.json. docs/status.md describes it, and a test compares the two. Later versions
// may add fields, but never change or remove one. Durations are in seconds, sizes in
// bytes, times as in RFC 3339.
type Document struct {
	Version    string    `json:"version"`
	PID        int       `json:"pid"`
	Time       time.Time `json:"time"`
	Started    time.Time `json:"started"`
	Uptime     float64   `json:"uptime_seconds"`
	Ready      bool      `json:"ready"`
	Reason     string    `json:"reason,omitempty"`   // why it is not ready
	Stopping   string    `json:"stopping,omitempty"` // why it stops; empty while it does not
	Generation int       `json:"generation"`
	Orphans    uint64    `json:"orphans_reaped"`
	Wanted     int       `json:"workers_wanted"`
	Workers    []Worker  `json:"workers"`
	Reload     Reload    `json:"reload"`
	Queue      *Queue    `json:"queue,omitempty"` // absent: the workers get no messages
	Sources    []Source  `json:"sources"`
}

// A Worker is one worker of a Document.
type Worker struct {
	ID         int       `json:"id"`
	PID        int       `json:"pid,omitempty"`
	Generation int       `json:"generation,omitempty"`
	State      string    `json:"state"`
	StateFor   float64   `json:"state_seconds"`
	Uptime     float64   `json:"uptime_seconds"`
	NextStart  float64   `json:"next_start_seconds,omitempty"` // from now, during a backoff
	Text       string    `json:"status,omitempty"`             // the STATUS that it sent
	InHand     int       `json:"in_hand"`
	Held       float64   `json:"held_seconds"` // the oldest message in hand
	Handled    uint64    `json:"handled"`
	Failed     uint64    `json:"failed"`
	Busy       float64   `json:"busy_seconds"`
	Window     int       `json:"window,omitempty"`
	Newborn    bool      `json:"newborn,omitempty"` // it is fed last, until it has answered a message
	Failing    bool      `json:"failing,omitempty"` // it is fed less: it fails everything
	Starts     uint64    `json:"starts"`
	Failures   int       `json:"failures_in_a_row"`
	Memory     uint64    `json:"memory_bytes"`
	CPU        float64   `json:"cpu_seconds"`
	Successor  int       `json:"successor_pid,omitempty"`
	Detached   []int     `json:"detached_pids,omitempty"`
	Unkillable []int     `json:"unkillable_pids,omitempty"`
	LastExit   *LastExit `json:"last_exit,omitempty"`
}

// A LastExit is how a worker's last process ended.
type LastExit struct {
	Why    string    `json:"why"`
	PID    int       `json:"pid,omitempty"`
	Code   int       `json:"code"`
	Signal string    `json:"signal,omitempty"`
	Time   time.Time `json:"time"`
	Uptime float64   `json:"uptime_seconds"`
	Peak   uint64    `json:"peak_memory_bytes"`
	Text   string    `json:"text"`
}

// A Reload is the running reload of a Document, or the last one.
type Reload struct {
	State      string    `json:"state"` // none, running, done, failed, interrupted
	Generation int       `json:"generation,omitempty"`
	Began      time.Time `json:"began,omitzero"`
	Took       float64   `json:"seconds,omitempty"`
	Replaced   int       `json:"replaced"`
	Reason     string    `json:"reason,omitempty"`
	Queued     bool      `json:"queued,omitempty"`
}

// A Queue is the messages that wait, and the limits of the queue.
type Queue struct {
	Messages      int     `json:"messages"`
	Bytes         int     `json:"bytes"`
	Oldest        float64 `json:"oldest_seconds"`
	Paused        bool    `json:"paused"`   // nothing is handed out
	Delayed       int     `json:"delayed"`  // of Messages: their retry is not due yet
	Isolated      int     `json:"isolated"` // of Messages: they are to be delivered alone
	Held          int     `json:"held"`     // of Messages: their client has to read replies first
	InFlight      int     `json:"in_flight"`
	Replies       int     `json:"reply_bytes"` // that wait for their clients
	LimitMessages int     `json:"limit_messages"`
	LimitBytes    int     `json:"limit_bytes"`
	LimitReplies  int     `json:"limit_reply_bytes"`
}

// A Source is one source of messages of a Document, with its counts.
type Source struct {
	Name        string `json:"name"`
	Connections int64  `json:"connections"`
	Accepted    uint64 `json:"accepted"`
	TurnedAway  uint64 `json:"turned_away"`
	CutOff      uint64 `json:"cut_off"`
	Received    uint64 `json:"received"`
	Handled     uint64 `json:"handled"`
	Failed      uint64 `json:"failed"`
	Retried     uint64 `json:"retried"`
	GivenUp     uint64 `json:"given_up"`
	Expired     uint64 `json:"expired"`
	Spooled     uint64 `json:"spooled"`
	Lost        uint64 `json:"lost"`
}

// Document returns the snapshot as a document.
func (s *Snapshot) Document() *Document {
	p := &s.Pool
	d := &Document{
		Version: s.view.Version, PID: s.view.PID, Time: s.At.Round(time.Millisecond), Started: p.Began.Round(time.Millisecond),
		Uptime: s.since(p.Began), Stopping: p.Stopping, Generation: p.Generation, Orphans: s.Reaper.Orphans,
		Wanted: p.Wanted, Workers: make([]Worker, len(p.Workers)), Reload: s.reload(), Sources: []Source{},
	}
	d.Ready, d.Reason = s.Ready()
	for i := range p.Workers {
		d.Workers[i] = s.worker(i)
	}
	if s.HasMessages() {
		q := &s.Queue
		d.Queue = &Queue{
			Messages: q.Messages, Bytes: q.Bytes, Oldest: seconds(q.Oldest), Paused: q.Paused,
			Delayed: q.Delayed, Isolated: q.Isolated, Held: q.Held, InFlight: q.InFlight, Replies: q.Replies,
			LimitMessages: s.view.QueueMessages, LimitBytes: s.view.QueueBytes, LimitReplies: s.view.ReplyBytes,
		}
	}
	for _, stats := range s.Sources() {
		d.Sources = append(d.Sources, source(stats))
	}
	return d
}

func (s *Snapshot) worker(i int) Worker {
	w := &s.Pool.Workers[i]
	d := Worker{
		ID: w.ID, PID: w.PID, Generation: w.Generation, State: string(s.State(i)), StateFor: s.since(w.Since),
		Uptime: s.since(w.Started), Text: w.Status, Starts: w.Starts, Failures: w.Failures, Memory: s.Usage[i].RSS,
		CPU: seconds(s.Usage[i].CPU), Successor: w.Successor, Detached: w.Detached, Unkillable: w.Unkillable,
	}
	if !w.NextStart.IsZero() {
		d.NextStart = seconds(max(0, w.NextStart.Sub(s.At)))
	}
	if i < len(s.Queue.Workers) {
		q := &s.Queue.Workers[i]
		d.InHand, d.Held, d.Handled, d.Failed, d.Busy, d.Window = q.InHand, seconds(q.Held), q.Handled, q.Failed, seconds(q.Busy), q.Window
		d.Newborn, d.Failing = q.Newborn, q.Failing
	}
	if x := w.LastExit; x != nil {
		d.LastExit = &LastExit{
			Why: string(x.Cause), PID: x.PID, Code: x.Code, Signal: x.SignalName(), Time: x.At.Round(time.Millisecond),
			Uptime: seconds(x.Uptime), Peak: x.Peak, Text: x.Text,
		}
	}
	return d
}

func (s *Snapshot) reload() Reload {
	r := &s.Pool.Reload
	d := Reload{State: "none", Generation: r.Generation, Began: r.Began.Round(time.Millisecond), Replaced: r.Replaced, Queued: r.Queued}
	switch {
	case r.Running:
		d.State, d.Took = "running", s.since(r.Began)
	case r.Last != nil:
		d.State, d.Reason, d.Took = string(r.Last.Outcome), r.Last.Reason, seconds(r.Last.Took)
	}
	return d
}

func source(s *ipc.SourceStats) Source {
	return Source{
		Name: s.Name, Connections: s.Connections.Load(), Accepted: s.Accepted.Load(), TurnedAway: s.TurnedAway.Load(), CutOff: s.CutOff.Load(),
		Received: s.Received.Load(), Handled: s.Handled.Load(), Failed: s.Failed.Load(), Retried: s.Retried.Load(),
		GivenUp: s.GivenUp.Load(), Expired: s.Expired.Load(), Spooled: s.Spooled.Load(), Lost: s.Lost.Load(),
	}
}

// since returns the time from t to the snapshot in seconds, or 0 for the zero time.
func (s *Snapshot) since(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return seconds(max(0, s.At.Sub(t)))
}

// seconds returns a duration in seconds, to the microsecond.
func seconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e6 }
