package ipc

import (
	"errors"
	"fmt"
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
	in.Init(netio.ReaderConfig{Raw: c.raw, Size: replyBuffer, Files: c.files, Exact: true})
	defer in.Release()
	defer c.large.close()
	var err error
	for err == nil {
		c.large.makeRoom(&in)
		before := in.Buffered()
		err = in.Fill()
		c.large.arrived(in.Buffered() - before)
		if err == nil {
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
		c.large.forget()
		if err != nil || n == 0 {
			return err
		}
	}
}

// cutReplies cuts whole replies off what has been read, as many as fit.
func (c *Channel) cutReplies(in *netio.Reader, replies [][]byte) (n int, err error) {
	for n < len(replies) && err == nil {
		var reply []byte
		switch {
		case c.large.left > 0:
			if reply = c.large.rest(in); reply != nil && c.cut != nil {
				c.cut.note(reply, n)
			}
		case c.q.cfg.Format == Tagged:
			reply, err = c.cut.cut(in, &c.large, n, c.touch)
		case c.q.cfg.Format == Lines:
			reply, err = c.large.cutLine(in)
		default:
			reply, err = c.large.cutFrame(in)
		}
		if reply == nil {
			break
		}
		replies[n] = reply
		n++
	}
	return n, err
}

var errUnasked = errors.New("the worker sent a reply that no message asked for")

// takeAnswered takes the answered messages out of flight, gives the worker new
// ones, and writes those at once, so that it is at work while its replies go
// their way.
func (c *Channel) takeAnswered(batch []*Delivery, replies [][]byte, err error) (int, error) {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	at := now()
	n, failed, atEnd := 0, 0, 0
	for n < len(batch) {
		d := c.flight.head
		if c.tags != nil {
			d = c.tags.find(c.cut.tags[n])
		}
		if d == nil {
			err = errUnasked
			break
		}
		c.takeOut(d)
		if c.tags != nil {
			replies[n] = c.cut.plain(replies[n], n, d)
		}
		batch[n] = d
		if frame.IsFailure(replies[n]) { // finish, or requeueFailures, counts it
			failed++
			atEnd++
		} else {
			q.inFlight--
			atEnd = 0
		}
		n++
	}
	if n == 0 {
		return 0, err
	}
	batch, replies = batch[:n], replies[:n]
	c.measure(batch, at)
	c.totals.handled += uint64(n - failed)
	c.totals.failed += uint64(failed)
	c.win.observe(n, at-c.since)
	c.since = at
	c.beginNext(at)
	c.stoppedWorking(at)
	if c.flight.n == 0 {
		c.isAlone = false
		if q.reserved == c {
			q.reserved = nil
		}
	}
	c.countHandled(n)
	c.noteAnswers(n, failed, atEnd, at)
	if failed > 0 {
		c.requeueFailures(batch, replies, at)
	}
	q.refill(c, at)
	c.refile()
	c.endIfDone()
	c.out.Flush(false)
	return n, err
}

// requeueFailures takes those out of a batch that are to be delivered again,
// leaving nil, and puts them in front of all that wait: before this worker gets
// more, as that is newer. With the queue's mutex held.
func (c *Channel) requeueFailures(batch []*Delivery, replies [][]byte, at time.Duration) {
	q := c.q
	var retried list
	for i, d := range batch {
		if !frame.IsFailure(replies[i]) {
			continue
		}
		var now bool
		d.fate, now = q.retries.judge(d, frame.Body(replies[i]), at)
		switch {
		case d.fate != fateAgain:
			continue
		case q.closed:
			if !now {
				q.retries.remove(d)
			}
			d.fate = fateStopped
			continue
		}
		d.source.Retried.Add(1)
		q.inFlight--
		batch[i] = nil
		if now {
			retried.push(d)
		} else {
			q.wasDelayed(d, at)
		}
	}
	if retried.n > 0 {
		c.refile()
		q.requeue(&retried)
	}
}

// countHandled notices when the worker has handled its share.
func (c *Channel) countHandled(n int) {
	c.handled += n
	if c.due > 0 && c.handled >= c.due && c.serving {
		c.due = 0 // it is fed until Finish: only the supervisor knows when its successor is ready
		c.ask(AskRecycle)
	}
}

// measure counts messages that a worker has just answered, all at once. With the
// queue's mutex held.
func (c *Channel) measure(batch []*Delivery, at time.Duration) {
	if c.tags != nil {
		for _, d := range batch {
			began := d.began
			if began == 0 {
				began = at // it was not its turn
			}
			c.q.handling.Observe(at-began, 1)
			c.q.waited.Observe(began-d.arrived, 1)
		}
		return
	}
	each := (at - batch[0].began) / time.Duration(len(batch))
	c.q.handling.Observe(each, len(batch))
	first := 0 // of those that arrived together
	for i, d := range batch {
		if i+1 == len(batch) || batch[i+1].arrived != d.arrived {
			waited := at - d.arrived - each*time.Duration(len(batch)-i)
			c.q.waited.ObserveRun(waited-each*time.Duration(i-first), waited, i+1-first)
			first = i + 1
		}
	}
}

// settle settles messages with their replies, and flushes each origin once.
func (c *Channel) settle(batch []*Delivery, replies [][]byte) {
	for i, d := range batch {
		if d == nil {
			continue // it is delivered again
		}
		if frame.IsFailure(replies[i]) {
			c.q.finish(d)
			continue
		}
		origin := d.origin
		c.q.settle(d, c.large.handOver(d, replies[i]))
		if !comesAgain(origin, batch[i+1:], replies[i+1:]) {
			origin.Flush()
		}
	}
}

// lookAhead is how far comesAgain looks: flows take turns, so that the next message
// of an origin is seldom the next one.
const lookAhead = 16

// comesAgain reports whether an origin gets another reply soon, and so need not be
// flushed before.
func comesAgain(origin Origin, batch []*Delivery, replies [][]byte) bool {
	for i, d := range batch[:min(len(batch), lookAhead)] {
		switch {
		case d == nil:
		case frame.IsFailure(replies[i]):
			return false // it may take long: the spool is on a disk
		case d.origin == origin:
			return true
		}
	}
	return false
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
	c.awaitWrite()
	q.mu.Lock()
	c.over = true
	c.stopFeeding()
	if c.timer != nil {
		c.timer.Stop() // if it is just firing, it finds that it is over
		c.timer = nil
	}
	c.conduct.end()
	c.life.Held = c.flight.n > 0
	at := now()
	suspects := c.suspects(errors.Is(err, syscall.ECONNRESET))
	flight := c.takeFlight()
	c.totals.remove(c)
	why := c.reason(err)
	var over []*Delivery
	if len(suspects) > 1 && q.cfg.Attempts > 1 {
		for _, d := range suspects {
			d.isSuspect = true
		}
	} else {
		over = c.charge(&flight, suspects, why, at)
	}
	q.requeue(&flight)
	c.done()
	q.mu.Unlock()
	for _, d := range over {
		q.finish(d)
	}
}

// suspects returns the messages that the worker's end may be the fault of. reset
// says that it left input unread. What it cannot have read is not to blame, but
// twice at most: of a message in parts it may have read the beginning.
func (c *Channel) suspects(reset bool) (suspects []*Delivery) {
	switch {
	case c.flight.n == 0 || c.spared:
		return nil
	case c.late != nil:
		return []*Delivery{c.late}
	}
	for d := c.flight.head; d != c.ahead; d = d.next {
		if unread := d.end > c.out.Taken() || reset && c.flight.n == 1; unread && d.free < maxFree {
			d.free++
			c.q.endedAfter = c.handled
			continue
		}
		suspects = append(suspects, d)
	}
	return suspects
}

// maxFree is how many deaths a message is not charged with because the worker
// had left input unread.
const maxFree = 2

// charge counts an attempt of each message that is to blame, and takes those out of
// flight that are not delivered again at once. It returns those whose last attempt
// that was; they count as in flight until finish.
func (c *Channel) charge(flight *list, guilty []*Delivery, why string, at time.Duration) (over []*Delivery) {
	q := c.q
	for _, d := range guilty {
		c.totals.failed++
		var now bool
		if d.fate, now = q.retries.charge(d, why, at); now {
			d.source.Retried.Add(1)
			continue
		}
		flight.remove(d)
		switch {
		case d.fate != fateAgain:
			q.inFlight++
			over = append(over, d)
		case q.closed:
			q.retries.remove(d)
			flight.push(d)
		default:
			d.source.Retried.Add(1)
			q.wasDelayed(d, at)
		}
	}
	return over
}

// writeGrace is how long a write to a worker that has ended may take to fail.
const writeGrace = 20 * time.Millisecond

// awaitWrite waits for a write that is under way: only then it is known how much of
// it the worker can have read.
func (c *Channel) awaitWrite() {
	c.q.mu.Lock()
	var flushed chan struct{}
	if c.out.Busy() {
		flushed = make(chan struct{})
		c.flushed = flushed
	}
	c.q.mu.Unlock()
	if flushed == nil {
		return
	}
	select {
	case <-flushed:
	case <-time.After(writeGrace):
	}
}

// wrote is called when something has been written.
func (c *Channel) wrote() {
	if c.flushed != nil && !c.out.Busy() {
		close(c.flushed)
		c.flushed = nil
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

// takeOut takes a message out of flight that was answered. beginNext must follow.
func (c *Channel) takeOut(d *Delivery) {
	if d == c.ahead {
		c.ahead = d.next
	}
	if d.began > 0 {
		c.begun--
	}
	c.flight.remove(d)
	if c.tags != nil {
		c.tags.remove(d)
	}
	if d == c.late { // it was answered after all: the next ones come back for another reason
		c.late, c.trouble = nil, ""
	}
}

// beginNext notes which messages the worker can begin with now.
func (c *Channel) beginNext(at time.Duration) {
	for c.ahead != nil && c.begun < c.q.cfg.Concurrency {
		c.ahead.began = at
		c.ahead = c.ahead.next
		c.begun++
	}
}

// touch has the message timeout of a message begin anew.
func (c *Channel) touch(tag uint64) {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if d := c.tags.find(tag); d != nil {
		d.touched = now()
	}
}

// checkTimeout is called without the queue's mutex.
func (c *Channel) checkTimeout() {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	if c.over || c.flight.n == 0 {
		c.timer = nil // the next message starts it again
		return
	}
	grantAgain(c)
	oldest, since := c.longestHeld()
	if held := now() - since; held < c.q.cfg.MessageTimeout {
		resetTimeout(c, c.q.cfg.MessageTimeout-held)
		return
	}
	c.trouble = fmt.Sprintf("no answer within %s", c.q.cfg.MessageTimeout)
	c.late = oldest
	c.stopFeeding()
	c.ask(AskTimeout)
}

// longestHeld returns the message that the worker has worked on longest without a
// word, and since when.
func (c *Channel) longestHeld() (oldest *Delivery, since time.Duration) {
	for d := c.flight.head; d != c.ahead; d = d.next {
		if at := max(d.began, d.touched, c.graceNow()); oldest == nil || at < since {
			oldest, since = d, at
		}
	}
	return oldest, since
}

// noteAnswers keeps what the answers say of the worker: failed of them are
// failures, and so many of those the last ones.
func (c *Channel) noteAnswers(n, failed, atEnd int, at time.Duration) {
	c.life.Answered = true
	c.q.answered = at
	if failed < n {
		c.conduct.recover(c.q)
		if !c.life.proven {
			c.life.proven = true
			close(c.answered)
		}
		c.proven = true
	}
	if atEnd > 0 {
		c.conduct.failed(c, atEnd)
	}
}

// turnLength is how many messages of one flow may go to the worker one after the
// other: one, or for a worker that is so fast that its window has grown a part of
// it, since replies to one connection in a row share a write. All of it is far
// below a millisecond of work.
func (c *Channel) turnLength() int {
	if c == nil || c.win.fixed {
		return 1
	}
	return max(1, c.win.size/turnPart)
}
