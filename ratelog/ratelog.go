// Package ratelog writes log lines that workers and outsiders can cause at will,
// so that none of them can fill the log: a few lines of a kind, and then one every
// ten seconds, which says how often it happened.
package ratelog

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// every is how long the lines of a kind are limited for after the first one. What
// happens beyond the limit is counted, and logged as one line when this time is
// over.
const every = 10 * time.Second

// A Log limits lines of one kind.
type Log struct {
	log   zerolog.Logger
	level zerolog.Level
	most  int // lines within the time

	mu       sync.Mutex
	limiting bool  // the time has begun
	lines    int   // since then
	count    int   // what has not been logged
	latest   entry // the last of those
}

// An entry is what a line says.
type entry struct {
	what   string
	fields func(*zerolog.Event)
}

// New returns a Log that writes to another: one warning in ten seconds. Each kind
// of warning has its own, or one kind could hide another.
func New(log zerolog.Logger) *Log { return &Log{log: log, level: zerolog.WarnLevel, most: 1} }

// Several returns a Log that writes so many lines in ten seconds, at a level.
func Several(log zerolog.Logger, level zerolog.Level, lines int) *Log {
	return &Log{log: log, level: level, most: lines}
}

// Warn logs what happened, why this time, and how often since the last line; or
// counts it.
func (l *Log) Warn(what, why string) {
	l.Add(what, func(e *zerolog.Event) { e.Str("why", why) })
}

// Add is Warn with other fields. The line of what was only counted has those of
// the last of it, so they may be asked for later, under a mutex of the Log.
func (l *Log) Add(what string, fields func(*zerolog.Event)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.limiting {
		l.begin()
	}
	l.count++
	l.latest = entry{what, fields}
	if l.lines < l.most {
		l.write()
	}
}

// begin begins a time of limited lines.
func (l *Log) begin() {
	l.limiting, l.lines = true, 0
	time.AfterFunc(every, l.timeIsOver)
}

// timeIsOver logs what was only counted. With that the next time begins, if there
// was anything.
func (l *Log) timeIsOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limiting = false
	if l.count > 0 {
		l.begin()
		l.write()
	}
}

func (l *Log) write() {
	event := l.log.WithLevel(l.level).Int("count", l.count)
	l.latest.fields(event)
	event.Msg(l.latest.what)
	l.lines++
	l.count, l.latest = 0, entry{}
}
