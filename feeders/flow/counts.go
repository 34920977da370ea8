package flow

import (
	"time"
)

// ackBuckets are the upper bounds of the histogram of acks, in seconds.
var ackBuckets = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10}

// A histogram counts durations.
type histogram struct {
	sum     float64
	count   uint64
	buckets [len(ackBuckets)]uint64 // each for itself
}

func (h *histogram) add(d time.Duration) {
	s := d.Seconds()
	h.sum += s
	h.count++
	for i, bound := range ackBuckets {
		if s <= bound {
			h.buckets[i]++
			return
		}
	}
}

// shown is the form of the contract: buckets count up to their bound.
func (h *histogram) shown() map[string]any {
	list, upTo := make([][2]float64, 0, len(ackBuckets)), uint64(0)
	for i, bound := range ackBuckets {
		upTo += h.buckets[i]
		list = append(list, [2]float64{bound, float64(upTo)})
	}
	return map[string]any{"sum": h.sum, "count": h.count, "buckets": list}
}

// counts are what only grows.
type counts struct {
	received, acked, retried       uint64
	redelivered, merged, takenOver uint64
	returned, dead                 map[string]uint64
	acks                           histogram
}

// Stats are the counters as docs/feeders.md lists them.
type Stats struct {
	Connected    bool              `json:"connected"`
	Connects     map[string]uint64 `json:"connects"`
	Received     uint64            `json:"received"`
	Acked        uint64            `json:"acked"`
	Returned     map[string]uint64 `json:"returned"`
	Retried      uint64            `json:"retried"`
	Dead         map[string]uint64 `json:"dead"`
	Redelivered  uint64            `json:"redelivered"`
	Merged       uint64            `json:"merged"`
	TakenOver    uint64            `json:"taken_over"`
	InFlight     int               `json:"in_flight"`
	Delayed      int               `json:"delayed"`
	Oldest       float64           `json:"oldest_unacked_seconds"`
	Lag          *int64            `json:"lag,omitempty"`
	LagPartition *int64            `json:"lag_max_partition,omitempty"`
	AckSeconds   map[string]any    `json:"ack_seconds"`
	Info         map[string]string `json:"info,omitempty"`
}

// statsOf makes them.
func statsOf(f *Flow, now time.Time) Stats {
	s := Stats{
		Connected: f.up.session != nil,
		Connects:  map[string]uint64{"ok": f.up.ok, "failed": f.up.bad},
		Received:  f.counts.received, Acked: f.counts.acked, Returned: f.counts.returned, Retried: f.counts.retried,
		Dead: f.counts.dead, Redelivered: f.counts.redelivered, Merged: f.counts.merged, TakenOver: f.counts.takenOver,
		InFlight: f.hand.size(), Delayed: f.hand.count[held],
		AckSeconds: f.counts.acks.shown(), Info: f.traits.Info,
	}
	if oldest := f.hand.oldest(); !oldest.IsZero() {
		s.Oldest = max(now.Sub(oldest), 0).Seconds()
	}
	if f.lagKnown {
		s.Lag = &f.lag.Messages
		if f.lag.MaxPartition >= 0 {
			s.LagPartition = &f.lag.MaxPartition
		}
	}
	return s
}
