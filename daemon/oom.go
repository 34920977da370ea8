package daemon

import (
	"os"
	"sync"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/proc"
)

// mostOwn is up to which oom_score_adj of its own poolinit can count on it that the
// OOM killer takes a worker first. Kubernetes gives 1000 to pods without requests.
const mostOwn = 500

// newOOMOrder returns what makes the OOM killer take a worker rather than poolinit,
// which holds the queue. It is nil if that is not wanted or not possible.
func newOOMOrder(more int, log zerolog.Logger) func(*reaper.Process) {
	own, err := proc.OOMScoreAdj(os.Getpid())
	if more == 0 || err != nil {
		return nil
	}
	adj := min(own+more, proc.MostOOMScoreAdj)
	if own > mostOwn {
		log.Warn().Int("oom_score_adj", own).Int("workers", adj).
			Msg("oom_score_adj of poolinit is above 500: out of memory, the kernel may kill poolinit before a worker")
	}
	if adj == own {
		return nil
	}
	var once sync.Once
	return func(p *reaper.Process) {
		if err := p.SetOOMScoreAdj(adj); err != nil {
			once.Do(func() {
				log.Warn().Err(err).Msg("cannot set the oom_score_adj of a worker (further failures are not logged)")
			})
		}
	}
}
