package ipc

import "time"

// What follows keeps the timer of a channel's message timeout. A time for which
// this program itself slept is not held against the worker. The caller holds the
// queue's mutex.

func startTimeout(c *Channel) {
	c.naps = c.q.cfg.Awake.Naps()
	c.timer = time.AfterFunc(c.q.cfg.MessageTimeout, c.checkTimeout)
	c.q.cfg.Awake.Cover(c.q.cfg.MessageTimeout)
}

func resetTimeout(c *Channel, d time.Duration) {
	c.timer.Reset(d)
	c.q.cfg.Awake.Cover(d)
}

// grantAgain has the message timeout of all that the worker works on begin anew if
// this program has slept: the worker may have had no time to answer.
func grantAgain(c *Channel) {
	naps := c.q.cfg.Awake.Naps()
	if naps == c.naps {
		return
	}
	c.naps = naps
	for d := c.flight.head; d != c.ahead; d = d.next {
		d.touched = now()
	}
}
