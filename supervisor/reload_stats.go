package supervisor

import "time"

// ReloadStats is a picture of a pool's reloads.
type ReloadStats struct {
	Running    bool
	Queued     bool // another one follows
	Generation int  // of the last one that began; 0: none has
	Began      time.Time
	Replaced   int // workers, in the last one that began
	Last       *ReloadResult
	Results    map[Outcome]uint64
}

// An Outcome is how a reload ended.
type Outcome string

// The outcomes.
const (
	Complete    Outcome = "done"
	Failed      Outcome = "failed"      // a new worker did not get ready, or died; the rest of the old ones stay
	Interrupted Outcome = "interrupted" // by the stop of the pool
)

// Outcomes returns every Outcome.
func Outcomes() []Outcome { return []Outcome{Complete, Failed, Interrupted} }

// A ReloadResult is how one reload ended.
type ReloadResult struct {
	Outcome    Outcome
	Reason     string // but for Complete
	Generation int    // 0: it never began
	Began      time.Time
	Took       time.Duration
}

func (r *ReloadStats) ended(result ReloadResult) {
	r.Running = false
	r.Last = &result
	r.Results[result.Outcome]++
}
