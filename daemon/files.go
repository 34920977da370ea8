package daemon

import (
	"math"
	"syscall"
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

// limitConnections lowers what the sources take together to what the limit of open
// files leaves, each by the same part. At least a quarter of all files is for them.
func (in *intake) limitConnections(files, reserved int) {
	type bounded interface {
		Connections() int
		LimitConnections(n int)
	}
	all := 0
	for _, s := range in.sources {
		if b, ok := s.(bounded); ok {
			all = min(all+b.Connections(), math.MaxInt32)
		}
	}
	left := max(files/4, files-reserved)
	if all <= left {
		return
	}
	for _, s := range in.sources {
		if b, ok := s.(bounded); ok {
			was := b.Connections()
			b.LimitConnections(max(1, int(int64(min(was, all))*int64(left)/int64(all))))
			in.log.Warn().Str("source", s.Stats().Name).Int("wanted", was).Int("connections", b.Connections()).Int("open_files", files).
				Msg("connections= lowered to what the limit of open files leaves")
		}
	}
}
