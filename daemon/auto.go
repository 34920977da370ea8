package daemon

import (
	"math"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper/cgroup"
	"github.com/poolinit/poolinit/reaper/proc"
)

// autoWorkers is --workers auto of a pool that runs: how many CPUs there are can
// change. A nil *autoWorkers stands for a number that the user has given.
type autoWorkers struct {
	cpus func() int // 0: not known
	off  atomic.Bool
	log  zerolog.Logger
}

// follow sets the number of workers to what auto is by now. It is called before a
// reload.
func (a *autoWorkers) follow(workers int, scale func(int) error) {
	if a == nil || a.off.Load() {
		return
	}
	n := a.cpus()
	if n == 0 || n == workers {
		return
	}
	if err := scale(n); err != nil {
		a.log.Info().Int("workers", n).Err(err).Msg("--workers auto: the number of CPUs has changed, cannot follow it now")
		return
	}
	a.log.Info().Int("workers", n).Msg("--workers auto: following the number of CPUs")
}

// stop ends the following: an operator has said how many workers there are to be.
func (a *autoWorkers) stop() {
	if a != nil {
		a.off.Store(true)
	}
}

// usableCPUs returns what Go's GOMAXPROCS would be if this program began now: the
// CPUs that it may run on, or fewer by the limit of the cgroup, which is rounded up
// and counts from 2 on.
func usableCPUs() int {
	n := proc.CPUs()
	if limit := cgroup.CPUs(""); limit > 0 {
		n = min(n, max(int(math.Ceil(limit)), 2))
	}
	return n
}
