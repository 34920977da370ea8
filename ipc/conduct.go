package ipc

import (
	"math/rand/v2"
	"time"
)

// A conduct is what a worker's failures say of it. One that fails everything is
// fed less while another worker does better. The queue's mutex guards it.
type conduct struct {
	failures  int         // that it has answered in a row
	isFailing bool        // these are many
	isResting bool        // it is not fed for a while
	hasTold   bool        // that was logged
	hasAsked  bool        // for a successor, at --max-failures
	rest      *time.Timer // ends isResting
}

// failsAfter is how many failures in a row make a worker one that fails
// everything.
const failsAfter = 5

// firstRest is how long such a worker rests after a failure, doubled with each one
// more up to maxRest.
const (
	firstRest = 50 * time.Millisecond
	maxRest   = time.Second
)

// failed counts failures that the worker has answered in a row.
func (k *conduct) failed(c *Channel, n int) {
	k.failures += n
	if most := c.q.cfg.MaxFailures; most > 0 && k.failures >= most && c.serving && !k.hasAsked {
		k.hasAsked = true
		c.ask(AskFailing)
	}
	if k.failures < failsAfter || !c.serving {
		return
	}
	k.setFailing(c.q, true)
	if c.q.serving == c.q.failing || k.isResting {
		return // none does better: the messages are to blame, or what all of them need
	}
	if !k.hasTold {
		k.hasTold = true
		c.q.log.Warn().Int("worker", c.worker).Int("failures", k.failures).Msg("worker fails every message: giving it fewer")
	}
	k.isResting = true
	k.rest = time.AfterFunc(min(firstRest<<min(k.failures-failsAfter, 10), maxRest), func() {
		c.q.mu.Lock()
		defer c.q.mu.Unlock()
		k.isResting = false
		c.refile()
		c.q.dispatch()
	})
}

// recover notes that the worker has handled a message.
func (k *conduct) recover(q *Queue) {
	k.failures = 0
	k.setFailing(q, false)
}

func (k *conduct) setFailing(q *Queue, failing bool) {
	if k.isFailing == failing {
		return
	}
	k.isFailing = failing
	if failing {
		q.failing++
	} else {
		q.failing--
	}
}

// end stops what runs. The channel is not fed any more.
func (k *conduct) end() {
	if k.rest != nil {
		k.rest.Stop() // if it is just firing, it feeds nobody
	}
}

// around returns n +-10 %.
func around(n int) int {
	if n == 0 {
		return 0
	}
	return max(1, n+int(float64(n)*0.1*(2*rand.Float64()-1)))
}
