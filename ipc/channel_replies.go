package ipc

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/netio"
)

// replyBuffer is what a channel's reader reads at once. It is held only while
// something is there to read.
const replyBuffer = 64 << 10

// readReplies is the channel's goroutine: it settles what the worker answers,
// until the worker closes its end.
func (c *Channel) readReplies() {
	var in netio.Reader
	in.Init(netio.ReaderConfig{Raw: c.raw, Size: replyBuffer})
	defer in.Release()
	var err error
	for err == nil {
		if err = in.Fill(); err == nil {
			err = c.takeReplies(&in)
		}
	}
	c.end(err)
}

// takeReplies settles the whole replies that have arrived.
func (c *Channel) takeReplies(in *netio.Reader) error {
	var (
		batch   [maxAutoWindow]*Delivery
		replies [maxAutoWindow][]byte
	)
	for {
		n, err := c.cutReplies(in, replies[:])
		if n > 0 {
			n, err = c.takeAnswered(batch[:n], replies[:n], err)
			c.settle(batch[:n], replies[:n])
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// cutReplies cuts whole replies off what has been read, as many as fit.
func (c *Channel) cutReplies(in *netio.Reader, replies [][]byte) (n int, err error) {
	for n < len(replies) && err == nil {
		var reply []byte
		if c.q.cfg.Format == Lines {
			reply, err = cutLine(in)
		} else {
			reply, err = cutFrame(in)
		}
		if reply == nil {
			break
		}
		replies[n] = reply
		n++
	}
	return n, err
}

// cutFrame returns a whole frame, or nil if there is none yet. It is valid until
// the next Fill.
func cutFrame(in *netio.Reader) ([]byte, error) {
	whole, need, err := frame.Cut(in.Unread(), frame.MaxReply)
	if whole == nil {
		in.Need(need)
		return nil, err
	}
	in.Advance(len(whole))
	return whole, nil
}

// cutLine returns a line as a frame, or nil if there is none yet.
func cutLine(in *netio.Reader) ([]byte, error) {
	line, ok := in.Line()
	switch {
	case ok:
		return frame.Append(nil, line), nil
	case in.Buffered() > frame.MaxReply:
		return nil, frame.ErrTooLong
	}
	return nil, nil
}

var errUnasked = errors.New("the worker sent a reply that no message asked for")

// takeAnswered takes the oldest messages out of flight, gives the worker new
// ones, and writes those at once, so that it is at work while its replies go
// their way.
func (c *Channel) takeAnswered(batch []*Delivery, replies [][]byte, err error) (int, error) {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(batch) > c.flight.n {
		batch, err = batch[:c.flight.n], errUnasked
	}
	at := now()
	for i := range batch {
		batch[i] = c.flight.pop()
		if !frame.IsFailure(replies[i]) { // a failure may come back: doneInFlight counts it
			q.inFlight--
		}
	}
	if c.late != nil && c.late != c.flight.head { // it was answered after all: the next ones come back for another reason
		c.late, c.trouble = nil, ""
	}
	failures := c.measure(batch, replies, at)
	if len(batch) > 0 {
		c.win.observe(len(batch), at-c.since)
	}
	c.since = at
	c.countHandled(len(batch))
	if failures == 0 || !c.requeueFailures(batch, replies) {
		q.refill(c, at)
	}
	c.refile()
	c.endIfDone()
	c.out.Flush(false)
	return len(batch), err
}

// requeueFailures takes those out of a batch that are to be delivered again,
// leaving nil, and puts them in front of all that wait: before this worker gets
// more, as that is newer. It reports whether there were any. With the queue's
// mutex held.
func (c *Channel) requeueFailures(batch []*Delivery, replies [][]byte) bool {
	q := c.q
	if q.closed {
		return false // retry settles them
	}
	var retried list
	for i, d := range batch {
		if !frame.IsFailure(replies[i]) || d.attempts+1 >= q.cfg.Attempts {
			continue
		}
		failure := frame.Body(replies[i])
		if code, _ := frame.ParseFailure(failure); code == frame.Refused {
			continue
		}
		q.chargeAttempt(d, string(failure))
		batch[i] = nil
		retried.push(d)
		q.inFlight--
	}
	if retried.n == 0 {
		return false
	}
	c.refile()
	q.requeue(&retried)
	return true
}

// countHandled notices when the worker has handled its share.
func (c *Channel) countHandled(n int) {
	c.handled += n
	if c.due > 0 && c.handled >= c.due && c.serving {
		c.due = 0 // it is fed until Finish: only the supervisor knows when its successor is ready
		c.ask(AskRecycle)
	}
}

// measure counts messages that a worker has just answered, all at once, and
// returns how many of the answers are failures. With the queue's mutex held.
func (c *Channel) measure(batch []*Delivery, replies [][]byte, at time.Duration) (failed int) {
	if len(batch) == 0 {
		return 0
	}
	each := (at - max(c.since, batch[0].given)) / time.Duration(len(batch))
	c.q.handling.Observe(each, len(batch))
	first := 0 // of those that arrived together
	for i, d := range batch {
		if frame.IsFailure(replies[i]) {
			failed++
		}
		if i+1 == len(batch) || batch[i+1].arrived != d.arrived {
			waited := at - d.arrived - each*time.Duration(len(batch)-i)
			c.q.waited.ObserveRun(waited-each*time.Duration(i-first), waited, i+1-first)
			first = i + 1
		}
	}
	c.totals.handled += uint64(len(batch) - failed)
	c.totals.failed += uint64(failed)
	c.stoppedWorking(at)
	return failed
}

// settle settles messages with their replies, and flushes each origin once.
func (c *Channel) settle(batch []*Delivery, replies [][]byte) {
	for i, d := range batch {
		if d == nil {
			continue // it is delivered again
		}
		origin := d.origin
		if !frame.IsFailure(replies[i]) {
			c.q.settle(d, replies[i])
		} else {
			c.settleFailure(d, frame.Body(replies[i]))
		}
		if i+1 == len(batch) || batch[i+1] == nil || batch[i+1].origin != origin {
			origin.Flush()
		}
	}
}

// settleFailure deals with a failure that the worker answered. Refused is final;
// anything else is worth another attempt.
func (c *Channel) settleFailure(d *Delivery, failure []byte) {
	defer c.q.doneInFlight()
	code, text := frame.ParseFailure(failure)
	if code == frame.Refused {
		c.q.settle(d, frame.AppendFailure(nil, frame.Refused, text))
		return
	}
	c.q.retry(d, string(failure))
}

// deathGrace is how long a channel that has ended waits to hear how its worker
// died, which is a better reason for the records than that the channel ended. A
// worker that lives on just closed it.
const deathGrace = 500 * time.Millisecond

// end ends the channel: what is in flight goes back to the queue.
func (c *Channel) end(err error) {
	q := c.q
	// With messages unread in it, a socket that is closed says so by ECONNRESET.
	if isEOF(err) || errors.Is(err, syscall.ECONNRESET) {
		q.mu.Lock()
		c.stopFeeding()
		q.mu.Unlock()
		c.ask(AskDetach)
		select {
		case <-c.told:
		case <-time.After(deathGrace):
		}
	}
	q.mu.Lock()
	c.over = true
	c.stopFeeding()
	if c.timer != nil {
		c.timer.Stop() // if it is just firing, it finds that it is over
		c.timer = nil
	}
	flight := c.takeFlight()
	c.totals.remove(c)
	if flight.n > 0 {
		c.totals.failed++ // the oldest is charged
	}
	why := c.reason(err)
	var head *Delivery
	if flight.n > 0 && !c.spared {
		if head = flight.pop(); q.chargeAttempt(head, why) {
			var one list
			one.push(head)
			flight.prepend(&one)
			head = nil
		}
	}
	q.requeue(&flight)
	c.done()
	q.mu.Unlock()
	if head != nil {
		q.giveUp(head)
	}
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// reason says why messages come back, and asks the supervisor to act where the
// worker is to blame.
func (c *Channel) reason(err error) string {
	switch {
	case c.trouble != "":
		return c.trouble
	case isEOF(err):
		return "the worker closed its channel"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, os.ErrClosed):
		return "the worker's channel broke"
	}
	c.q.log.Warn().Int("worker", c.worker).Err(err).Msg("worker broke the protocol, stopping it")
	c.ask(AskBroken)
	return err.Error()
}
