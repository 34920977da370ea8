package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
)

// autoPart is the part of the memory limit that --queue-bytes auto and --reply-bytes
// auto are, each, at most.
const autoPart = 8

// leastAuto is the least that they are, in bytes.
const leastAuto = 1 << 20

// fitMemory decides what --queue-bytes and --reply-bytes are where they are auto. It
// returns what Go's memory limit should be: at that the garbage collector works
// harder, and nothing else happens.
func (c *Config) fitMemory(log zerolog.Logger) (soft int64) {
	auto, limit := ipc.DefaultBytes, c.MemoryLimit
	if limit > 0 {
		auto = int(max(leastAuto, min(limit/autoPart, uint64(auto))))
	}
	if (c.Queue.QueueBytes == 0 || c.Queue.ReplyBytes == 0) && auto < ipc.DefaultBytes && len(c.Listen) > 0 {
		log.Info().Int("bytes", auto).Uint64("memory_limit", limit).Msg("--queue-bytes and --reply-bytes auto: using an eighth of the memory limit")
	}
	for _, bytes := range []*int{&c.Queue.QueueBytes, &c.Queue.ReplyBytes} {
		if *bytes == 0 {
			*bytes = auto
		}
	}
	// The queue, messages that arrive, replies that wait, and replies that are read.
	soft = ownMemory + 2*int64(c.Queue.QueueBytes) + 2*int64(c.Queue.ReplyBytes)
	if limit > 0 {
		soft = min(soft, int64(min(limit, 1<<62)/8*5))
	}
	return soft
}

// ownMemory is what poolinit has beside messages and replies, in bytes: connections,
// mostly.
const ownMemory = 64 << 20

// setMemoryLimit sets Go's memory limit, unless the environment does.
func setMemoryLimit(soft int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(soft)
	}
}

// A memory gives memory back to the kernel soon after it was needed. Go would do so
// in the course of minutes: it collects when the heap has doubled, or every two
// minutes, and pools keep what they have for two collections.
//
// While nothing is collected it costs nothing: each collection starts a timer.
type memory struct {
	needed func() int // how much is known to be in use, in bytes
	free   func()     // gives back what is not
	inUse  func() int // what the kernel has given
	delay  time.Duration

	mu      sync.Mutex
	timer   *time.Timer // nil: not before the next collection
	usual   int         // in use beyond what is needed
	stopped bool
}

// wasteful is how much more than usual is in use when it is given back, in bytes.
// Twice as much is looked at again and again.
const wasteful = 8 << 20

// memoryDelay is how long after a collection it is looked at.
const memoryDelay = 8 * time.Second

func newMemory(needed func() int) *memory {
	return &memory{needed: needed, free: freeMemory, inUse: memoryInUse, delay: memoryDelay, usual: wasteful}
}

// watch has the memory looked at after each collection, until stop. Both do nothing
// for a nil memory.
func (m *memory) watch() {
	if m == nil {
		return
	}
	runtime.SetFinalizer(new(collected), m.collected)
}

// A collected is garbage: its finalizer runs after the next collection.
type collected struct{ _ *byte }

func (m *memory) collected(c *collected) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return
	}
	if m.timer == nil {
		m.timer = time.AfterFunc(m.delay, m.look)
	}
	runtime.SetFinalizer(c, m.collected)
}

// look gives memory back if much more than usual is in use without being needed.
func (m *memory) look() {
	excess := m.inUse() - m.needed()
	if excess > m.usual+wasteful {
		m.free()
		m.usual = max(wasteful, m.inUse()-m.needed())
	} else {
		m.usual = max(wasteful, min(m.usual, excess))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer = nil; !m.stopped && m.inUse() > 2*wasteful {
		m.timer = time.AfterFunc(m.delay, m.look)
	}
}

func (m *memory) stop() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	if m.timer != nil {
		m.timer.Stop()
	}
}

// freeMemory collects twice, since pools outlive one collection.
func freeMemory() {
	runtime.GC()
	debug.FreeOSMemory()
}

// memoryInUse returns how much memory Go has of the kernel.
func memoryInUse() int {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int(s[0].Value.Uint64() - s[1].Value.Uint64())
}
