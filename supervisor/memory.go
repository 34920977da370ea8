package supervisor

import (
	"time"

	"github.com/rs/zerolog"
)

// mostTooLarge is how many workers in a row may exceed their memory limit at the
// first look before the next one is looked at later.
const mostTooLarge = 3

// A memoryLimit is MaxMemory for the workers of one slot, one after the other. A
// limit below what a worker needs at rest must not replace it every second for
// ever.
type memoryLimit struct {
	bytes    uint64 // of RSS, drawn for the worker at hand
	looked   bool   // at this worker
	tooLarge int    // workers in a row that exceeded it at the first look
	max      time.Duration
}

// begin draws a limit for a new worker, and returns at what age of it to look
// first.
func (m *memoryLimit) begin(cfg *Config) time.Duration {
	m.bytes, m.looked = uint64(jitter(time.Duration(cfg.MaxMemory), 0.1)), false
	wait := memoryTick
	for i := mostTooLarge; i <= m.tooLarge && wait < cfg.RestartDelayMax; i++ {
		wait *= 2
	}
	m.max = max(cfg.RestartDelayMax, memoryTick)
	return min(wait, m.max)
}

// exceeds looks at the memory of the worker at hand, and logs that it uses too
// much.
func (m *memoryLimit) exceeds(rss uint64, log zerolog.Logger) bool {
	first := !m.looked
	m.looked = true
	switch {
	case rss <= m.bytes:
		m.tooLarge = 0
		return false
	case first:
		m.tooLarge++
	}
	line, text := log.Info(), "worker exceeded its memory limit"
	if m.tooLarge >= mostTooLarge {
		line = log.Warn().Int("workers", m.tooLarge)
		text = "each new worker exceeds the memory limit right after its start: --max-memory is too low, replacing workers less often"
	}
	line.Str("memory", size(rss)).Str("limit", size(m.bytes)).Msg(text)
	return true
}
