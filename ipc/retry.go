package ipc

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/poolinit/poolinit/ipc/frame"
)

// maxFailure is how many bytes of what a worker says with a failure are kept: as
// many as a failure frame has room for. maxReason is how many of those the log and
// the spool get.
const (
	maxFailure = 4<<10 + 64
	maxReason  = 1 << 10
)

// shorten cuts a text to about so many bytes, and says how long it was.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return fmt.Sprintf("%s... (%d bytes)", text[:boundary(text, most)], len(text))
}

// boundary returns where a text that may have so many bytes ends: between two
// characters.
func boundary[T string | []byte](text T, most int) int {
	if len(text) <= most {
		return len(text)
	}
	for end := most; end > most-utf8.UTFMax && end > 0; end-- {
		if utf8.RuneStart(text[end]) {
			return end
		}
	}
	return most // it is not UTF-8
}

// A fate is what becomes of a message after a failed delivery.
type fate int

// The fates.
const (
	fateAgain   fate = iota // it waits, and is delivered again
	fateGivenUp             // all attempts failed
	fateRefused             // the worker refused it, which is final
	fateRetry               // its client is told to send it again later
	fateDropped             // an operator wants it
	fateStopped             // it is kept for the next start, or its client is told that it was interrupted
)

// retries are the messages that are delivered again after a while, and what
// decides about that. The queue's mutex guards them.
type retries struct {
	cfg   *Config
	due   dueHeap
	bytes int
	timer *time.Timer
	until time.Duration // what is due later is not waited for; 0: no end is known
}

// judge says what becomes of a message that a worker has answered with a failure.
// now says that it is to be delivered again at once; otherwise, with fateAgain, it
// is in r.
func (r *retries) judge(d *Delivery, failure []byte, at time.Duration) (f fate, now bool) {
	f, now = r.decide(d, failure[:boundary(failure, maxFailure)], at)
	if f == fateAgain {
		d.text = shorten(d.text, maxReason) // many may wait
	}
	return f, now
}

func (r *retries) decide(d *Delivery, failure []byte, at time.Duration) (f fate, now bool) {
	code, text := frame.ParseFailure(failure)
	if code == frame.Refused {
		d.text = text
		return fateRefused, false
	}
	d.attempts++
	d.text = string(failure)
	delay, asked := parseRetry(code, text)
	switch {
	case asked && delay > r.cfg.RetryDelayMax:
		return r.tell(d, text), false
	case d.attempts >= r.cfg.Attempts:
		return fateGivenUp, false
	case !asked:
		return r.schedule(d, at)
	}
	f = r.wait(d, at, delay)
	if f == fateGivenUp {
		f = r.tell(d, text)
	}
	return f, false
}

// tell has the client send the message again later, if it hears of that.
func (r *retries) tell(d *Delivery, text string) fate {
	if d.flow.lane.Unheard {
		return fateGivenUp
	}
	d.text = text
	return fateRetry
}

// charge says what becomes of a message that its worker's end is an attempt of.
func (r *retries) charge(d *Delivery, why string, at time.Duration) (f fate, now bool) {
	d.attempts++
	d.text = why
	if d.attempts >= r.cfg.Attempts {
		return fateGivenUp, false
	}
	return r.schedule(d, at)
}

// schedule has the second delivery be at once, and a later one after a delay.
func (r *retries) schedule(d *Delivery, at time.Duration) (f fate, now bool) {
	delay := r.delay(d.attempts)
	if delay == 0 {
		return fateAgain, true
	}
	return r.wait(d, at, delay), false
}

// delay returns how long a message waits after so many failed deliveries.
func (r *retries) delay(attempts int) time.Duration {
	if attempts < 2 {
		return 0
	}
	d := r.cfg.RetryDelay
	for i := 2; i < attempts && d < r.cfg.RetryDelayMax; i++ {
		d *= 2
	}
	d = min(d, r.cfg.RetryDelayMax)
	return d + time.Duration(float64(d)*0.2*(2*rand.Float64()-1))
}

// wait has a message wait for its time. There must not be too many of these, or
// they would leave no room for others.
func (r *retries) wait(d *Delivery, at, delay time.Duration) fate {
	d.again = at + delay
	switch {
	case r.until > 0 && d.again > r.until:
		return fateStopped
	case len(r.due)+1 > max(1, r.cfg.QueueMessages/2) || len(r.due) > 0 && r.bytes+d.Size() > r.cfg.QueueBytes/2:
		return fateGivenUp
	}
	heap.Push(&r.due, d)
	r.bytes += d.Size()
	return fateAgain
}

// remove takes out a message that waits for its time.
func (r *retries) remove(d *Delivery) {
	heap.Remove(&r.due, d.place)
	r.bytes -= d.Size()
}

// next takes out a message that has waited long enough, or returns nil.
func (r *retries) next(at time.Duration) *Delivery {
	if len(r.due) == 0 || r.due[0].again > at {
		return nil
	}
	d := r.due[0]
	r.remove(d)
	return d
}

// start has the timer fire when the next message is due.
func (r *retries) start(at time.Duration, fire func()) {
	if len(r.due) == 0 {
		return
	}
	wait := max(0, r.due[0].again-at)
	if r.timer == nil {
		r.timer = time.AfterFunc(wait, fire)
		return
	}
	r.timer.Reset(wait)
}

// parseRetry reads what a worker asks for with "retry: 30s: text".
func parseRetry(code frame.Code, text string) (delay time.Duration, ok bool) {
	if code != frame.Retry {
		return 0, false
	}
	wait, _, _ := strings.Cut(text, ": ")
	delay, err := time.ParseDuration(wait)
	return delay, err == nil && delay >= 0
}

// A dueHeap has the message on top that is due first. It implements
// heap.Interface.
type dueHeap []*Delivery

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].again < h[j].again }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	d := x.(*Delivery)
	d.place = len(*h)
	*h = append(*h, d)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	last := len(old) - 1
	d := old[last]
	old[last] = nil
	*h = old[:last]
	return d
}
