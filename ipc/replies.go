package ipc

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/netio"
)

// replyBuffer is what a channel's reader reads at once. It is held only while
// something is there to read.
const replyBuffer = 64 << 10

// read is the channel's reader: it settles what the worker answers, until the
// worker closes its end.
func (c *Channel) read() {
	defer close(c.closed)
	var in netio.Reader
	in.Init(netio.ReaderConfig{Raw: c.raw, Size: replyBuffer})
	defer in.Release()
	var err error
	for err == nil {
		if err = in.Fill(); err == nil {
			err = c.answered(&in)
		}
	}
	c.lost(err)
}

// answered settles the whole replies that have arrived.
func (c *Channel) answered(in *netio.Reader) error {
	var (
		batch   [maxAutoWindow]*Delivery
		replies [maxAutoWindow][]byte
	)
	for {
		n, err := c.split(in, replies[:])
		if n > 0 {
			n, err = c.takeAnswered(batch[:n], replies[:n], err)
			c.finish(batch[:n], replies[:n])
		}
		if err != nil || n == 0 {
			return err
		}
	}
}

// split cuts whole replies off what has been read, as many as fit.
func (c *Channel) split(in *netio.Reader, replies [][]byte) (n int, err error) {
	for n < len(replies) && err == nil {
		var reply []byte
		if c.q.cfg.Lines {
			reply, err = nextLine(in)
		} else {
			reply, err = nextFrame(in, frame.MaxReply)
		}
		if reply == nil {
			break
		}
		replies[n] = reply
		n++
	}
	return n, err
}

// nextFrame cuts a whole frame off, or returns nil if there is none yet. The
// frame is valid until the next Fill.
func nextFrame(in *netio.Reader, limit int) ([]byte, error) {
	whole, need, err := frame.Cut(in.Unread(), limit)
	if whole == nil {
		in.Need(need)
		return nil, err
	}
	in.Advance(len(whole))
	return whole, nil
}

// nextLine cuts a line off, and returns it as a frame, or nil if there is none
// yet.
func nextLine(in *netio.Reader) ([]byte, error) {
	line, ok := in.Line()
	switch {
	case ok:
		return frame.Append(nil, line), nil
	case in.Buffered() > frame.MaxReply:
		return nil, frame.ErrTooLong
	}
	return nil, nil
}

var errUnasked = errors.New("the worker answers what it was not asked")

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
		if !frame.IsFailure(replies[i]) { // else it may come back: landed counts it
			q.flying--
		}
	}
	if c.late != nil && c.late != c.flight.head { // it was answered after all: the next ones come back for another reason
		c.late, c.trouble = nil, ""
	}
	failures := c.measured(batch, replies, at)
	if len(batch) > 0 {
		c.win.observe(len(batch), at-c.since)
	}
	c.since = at
	c.count(len(batch))
	if failures == 0 || !c.takeFailures(batch, replies) {
		q.refill(c, at)
	}
	c.settle()
	c.finishIfDone()
	c.out.Flush(false)
	return len(batch), err
}

// takeFailures takes those out of a batch that are to be delivered again, leaving
// nil, and puts them in front of all that wait: before this worker gets more, as that
// is newer. It reports whether there were any. With the queue's mutex held.
func (c *Channel) takeFailures(batch []*Delivery, replies [][]byte) bool {
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
		q.failed(d, string(failure))
		batch[i] = nil
		retried.push(d)
		q.flying--
	}
	if retried.n == 0 {
		return false
	}
	c.settle()
	q.again(&retried)
	return true
}

// count notices when the worker has handled its share.
func (c *Channel) count(n int) {
	c.handled += n
	if c.due > 0 && c.handled >= c.due && c.serving {
		c.due = 0 // it is fed until Finish: only the supervisor knows when its successor is ready
		c.ask(AskRecycle)
	}
}

// finish settles messages with their replies, and flushes each origin once.
func (c *Channel) finish(batch []*Delivery, replies [][]byte) {
	for i, d := range batch {
		if d == nil {
			continue // it is on its way again
		}
		origin := d.origin
		if !frame.IsFailure(replies[i]) {
			c.q.finish(d, replies[i])
		} else {
			c.refused(d, frame.Body(replies[i]))
		}
		if i+1 == len(batch) || batch[i+1] == nil || batch[i+1].origin != origin {
			origin.Flush()
		}
	}
}

// refused deals with a failure that the worker answered. Refused is final;
// anything else is worth another attempt.
func (c *Channel) refused(d *Delivery, failure []byte) {
	defer c.q.landed()
	code, text := frame.ParseFailure(failure)
	if code == frame.Refused {
		c.q.finish(d, frame.AppendFailure(nil, frame.Refused, text))
		return
	}
	c.q.retry(d, string(failure))
}

// starve ends the feeding of a channel that nobody reads any more.
func (c *Channel) starve() {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	c.serving = false
	c.settle()
}

// deathGrace is how long a channel that has ended waits to hear how its worker
// died, which is a better reason for the records than that the channel ended. A
// worker that lives on just closed it.
const deathGrace = 500 * time.Millisecond

// lost ends the channel: what is in flight goes back to the queue.
func (c *Channel) lost(err error) {
	q := c.q
	// With messages unread in it, a socket that is closed says so by ECONNRESET.
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		c.starve()
		c.ask(AskDetach)
		select {
		case <-c.told:
		case <-time.After(deathGrace):
		}
	}
	q.mu.Lock()
	c.serving, c.over = false, true
	c.settle()
	if c.timer != nil {
		c.timer.Stop() // if it is just firing, it finds that it is over
		c.timer = nil
	}
	flight := c.flight
	c.flight = list{}
	q.flying -= flight.n
	q.ended(c, flight.n)
	why := c.reason(err)
	var head *Delivery
	if flight.n > 0 && !c.spared {
		if head = flight.pop(); q.failed(head, why) {
			var one list
			one.push(head)
			flight.prepend(&one)
			head = nil
		}
	}
	q.again(&flight)
	if !isClosed(c.finished) {
		close(c.finished)
	}
	q.mu.Unlock()
	if head != nil {
		q.giveUp(head)
	}
}

// reason says why messages come back, and asks the supervisor to act where the
// worker is to blame.
func (c *Channel) reason(err error) string {
	switch {
	case c.trouble != "":
		return c.trouble
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the worker closed its channel"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, os.ErrClosed):
		return "the worker's channel broke"
	}
	c.q.log.Warn().Int("worker", c.worker).Err(err).Msg("worker's replies break the protocol: stopping it")
	c.ask(AskBroken)
	return err.Error()
}

// around returns n +-10 %.
func around(n int) int {
	if n == 0 {
		return 0
	}
	return max(1, n+int(float64(n)*0.1*(2*rand.Float64()-1)))
}
