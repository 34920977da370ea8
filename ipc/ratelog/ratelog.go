// Package ratelog writes warnings that outsiders can cause at will, so that a
// stranger cannot fill the log: one line every ten seconds at most, which says
// how often it happened.
package ratelog

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// every is how long nothing of the kind is logged after a warning. What happens
// meanwhile is counted, and logged with the first one after it.
const every = 10 * time.Second

// A Log limits warnings of one kind.
type Log struct {
	log zerolog.Logger

	mu    sync.Mutex
	next  time.Time
	count int
}

// New returns a Log that writes to another. Each kind of warning has its own, or
// one kind could hide another.
func New(log zerolog.Logger) *Log { return &Log{log: log} }

// Warn logs what happened, why this time, and how often since the last line; or
// counts it.
func (l *Log) Warn(what, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	if at := time.Now(); at.After(l.next) {
		l.log.Warn().Int("count", l.count).Str("why", why).Msg(what)
		l.next, l.count = at.Add(every), 0
	}
}
