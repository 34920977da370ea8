package supervisor

import (
	"time"

	"github.com/rs/zerolog"
)

// A verdict says what follows when a place has become empty.
type verdict struct {
	failures int // in a row, with the end at hand
	idle     int // short lives in a row that ended well and had answered nothing
	restart  bool
	delay    time.Duration // before that
}

// judge says whether another worker follows after an end, and when. The record is
// what was before that.
func judge(cfg *Config, r *record, end ending) verdict {
	failed, own := end.cause.failure(), end.cause.failure() || end.cause == Done
	v := verdict{failures: r.failures}
	if end.cause == Done && end.uptime < shortLife && !end.life.Answered {
		v.idle = r.idleLives + 1
	}
	switch {
	case v.idle >= mostIdle:
		v.failures++
	case end.cause == Done, failed && end.healthy:
		v.failures = 0
	case failed && end.countsForGiveUp():
		v.failures++
	}
	switch {
	case cfg.Interactive && end.interrupted():
	case own && (cfg.Restart == RestartNever || cfg.Restart == RestartOnFailure && !failed):
	case failed && end.blamesMessage() && !end.healthy:
		v.restart, v.delay = true, min(jitter(cfg.RestartDelay, 0.2), cfg.RestartDelay)
	case own && v.failures > 0:
		v.restart, v.delay = true, cfg.backoff(v.failures)
	case end.cause == Done && end.uptime < shortLife:
		v.restart, v.delay = true, jitter(cfg.RestartDelay, 0.2)
	default:
		v.restart = true
	}
	return v
}

// logIdle tells, once in a row, that a slot's workers end well without having done
// anything, the first of them since a time. A command that puts itself into the
// background looks so: what it leaves is named.
func (cfg *Config) logIdle(log zerolog.Logger, since time.Time, end ending) {
	line := log.Warn().Int("lives", mostIdle)
	var left []string
	if cfg.Background != nil {
		left = cfg.Background(since)
	}
	if len(left) == 0 && !end.leftGroup {
		line.Msg("workers exit with code 0 immediately, backing off")
		return
	}
	if len(left) > 0 {
		line = line.Strs("processes", left)
	}
	if cfg.Foreground != "" {
		line = line.Str("hint", cfg.Foreground)
	}
	line.Msg("the command puts itself into the background (it daemonizes), backing off: use its option to stay in the foreground")
}
