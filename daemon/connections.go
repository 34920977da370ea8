package daemon

import (
	"math"
	"syscall"

	"github.com/rs/zerolog"
)

// These are the open files that are kept free of clients: poolinit's own and those of
// the control socket, those of the HTTP server, and for each worker what its start
// needs.
const (
	ownFiles    = 128
	httpFiles   = 256
	workerFiles = 8
)

// reservedFiles returns how many files are kept free of clients.
func reservedFiles(c *Config) int {
	n := ownFiles + workerFiles*c.Pool.Workers
	if c.HTTP != "" {
		n += httpFiles
	}
	return n
}

// openFiles returns how many files this process may have open.
func openFiles() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil { // cannot be
		return math.MaxInt32
	}
	return int(min(limit.Cur, math.MaxInt32))
}

// memoryPart is the part of the memory that connections may take, all together.
const memoryPart = 4

// bounded is a source with connections.
type bounded interface {
	Connections() int
	LimitConnections(n int)
	// ConnectionBytes is how much memory one takes at most, but for large messages.
	ConnectionBytes() int
}

// limitConnections lowers how many connections the sources have together, each by
// the same part, to what the limit of open files leaves, and the memory limit; 0:
// there is none. At least a quarter of all files is for them.
func (in *intake) limitConnections(files, reserved int, memory uint64) {
	left := max(files/4, files-reserved)
	in.lower(left, func(bounded) int { return 1 }, func(e *zerolog.Event) {
		e.Int("open_files", files).Msg("connections= lowered to what the limit of open files leaves")
	})
	if memory == 0 {
		return
	}
	in.lower(int(min(memory/memoryPart, math.MaxInt64)), bounded.ConnectionBytes, func(e *zerolog.Event) {
		e.Uint64("memory_limit", memory).Msg("connections= lowered to what the memory limit leaves")
	})
}

// lower lowers connections until they cost no more than there is.
func (in *intake) lower(left int, cost func(bounded) int, log func(*zerolog.Event)) {
	all := 0.0
	for _, s := range in.sources {
		if b, ok := s.(bounded); ok {
			all += float64(b.Connections()) * float64(cost(b))
		}
	}
	if all <= float64(left) {
		return
	}
	for _, s := range in.sources {
		if b, ok := s.(bounded); ok {
			was := b.Connections()
			b.LimitConnections(max(1, int(float64(was)*(float64(left)/all))))
			log(in.log.Warn().Str("source", s.Stats().Name).Int("wanted", was).Int("connections", b.Connections()))
		}
	}
}
