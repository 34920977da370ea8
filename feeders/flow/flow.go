package flow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/poolinit/poolinit/feeders/link"
)

// Order says which messages wait for one another.
type Order string

// The values of order=.
const (
	OrderNone      Order = "none"
	OrderKey       Order = "key"
	OrderPartition Order = "partition"
	OrderAll       Order = "all"
)

// Config is what a feed's URL says, whatever its broker is.
type Config struct {
	Source     string // the kind of the broker, for the meta
	Order      Order
	Attempts   int
	RetryLeast time.Duration
	RetryMost  time.Duration
	Drop       bool // dead=drop: there are no dead letters
	Replies    bool // reply=auto
	Linger     time.Duration

	MaxMessage int // the pool's longest body
	Credit     int // at the beginning

	Log   *slog.Logger
	Clean func(string) string // takes secrets out of a text
}

const (
	// heldMost is how many messages may wait for their next attempt in the feeder.
	// Beyond it nothing more is taken.
	heldMost = 1000
	// heldLong is the longest delay that the feeder holds itself where the broker can
	// do it, too.
	heldLong = time.Minute
	// pullMost is the most that one Pull takes.
	pullMost = 256
	// lagEvery is how often the broker is asked what waits.
	lagEvery = 15 * time.Second
	// idleMost is how long the feeder may get nothing although messages wait.
	idleMost = time.Minute
	// logEvery is how often the log repeats what goes on.
	logEvery = time.Minute
	// leaveLimit is how long the last outcomes may take after a drain.
	leaveLimit = 10 * time.Second
)

// A Flow is one feed, from the hello to the end of the drain.
type Flow struct {
	cfg    Config
	traits Traits
	owner  Owner // nil: what the broker delivered is the feeder's
	link   *link.Link
	log    *slog.Logger

	up     *upstream
	hand   hand
	lanes  lanes
	ready  fifo // waiting, and free to go
	held   delays
	settle settler
	credit int

	alone    bool      // a message is open that nothing may go beside
	stopping bool      // the pool takes no more
	draining bool      // and the end follows
	leaveBy  time.Time // when the last outcomes have to be settled
	over     bool
	err      error // why it ended

	roomSince time.Time // when there came to be room for a message
	pulling   int       // the limit of the Pull that runs
	gotAt     time.Time // when messages came last, or could not
	nudged    bool      // it has reconnected because none came
	pingAt    time.Time
	keepAt    time.Time
	lagAt     time.Time
	lag       Lag
	lagKnown  bool

	counts counts
	said   map[string]time.Time // when a line was logged
	meta   []byte
}

// An arrival is what the link's reader has read.
type arrival struct {
	batch *link.Batch
	err   error
}

// New makes the flow of a feed.
func New(cfg Config, b Broker, l *link.Link) *Flow {
	if cfg.Clean == nil {
		cfg.Clean = func(s string) string { return s }
	}
	f := &Flow{cfg: cfg, traits: b.Traits(), link: l, log: cfg.Log, hand: newHand(), lanes: lanes{},
		credit: cfg.Credit, said: map[string]time.Time{},
		counts: counts{returned: map[string]uint64{}, dead: map[string]uint64{}}}
	f.owner, _ = b.(Owner)
	f.up = newUpstream(b, f.disconnected)
	return f
}

// ErrLink says that poolinit is gone, or broke the contract. The broker delivers
// again what was in hand.
var ErrLink = errors.New("the link to poolinit is lost")

// Run feeds the pool until it has been drained, or the link is lost.
func (f *Flow) Run() error {
	arrivals := make(chan arrival)
	go f.read(arrivals) // until the link is closed, which is below
	now := time.Now()
	f.pingAt, f.gotAt = now, now
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !f.over {
		select {
		case a := <-arrivals:
			f.arrived(a, time.Now())
		case done := <-f.up.results:
			done()
		case <-timer.C:
		}
		if f.over {
			break
		}
		now := time.Now()
		f.turn(now)
		timer.Reset(max(f.next(now).Sub(now), 0))
	}
	f.up.end()
	if f.err == nil || !errors.Is(f.err, ErrLink) {
		f.link.Stats(statsOf(f, time.Now()))
	}
	_ = f.link.Close()
	return f.err
}

// read reads the link. Two batches take turns: the loop is done with one when it takes
// the other.
func (f *Flow) read(to chan<- arrival) {
	var two [2]link.Batch
	for i := 0; ; i++ {
		b := &two[i%2]
		err := f.link.Next(b)
		select {
		case to <- arrival{b, err}:
		case <-f.up.over:
			return
		}
		if err != nil {
			return
		}
	}
}

// arrived deals with what poolinit said.
func (f *Flow) arrived(a arrival, now time.Time) {
	for _, answer := range a.batch.Answers {
		if err := f.answered(answer, now); err != nil {
			f.end(err)
			return
		}
	}
	if a.batch.Credit >= 0 && a.batch.Credit != f.credit {
		if f.credit == 0 {
			f.gotAt = now
		}
		if f.credit = a.batch.Credit; f.pulling > f.credit {
			f.up.cancel("pull") // with the new credit another one follows
		}
	}
	if a.batch.Stats {
		f.link.Stats(statsOf(f, now))
	}
	if a.batch.Drain {
		f.drain(now)
	}
	switch {
	case a.err == io.EOF && f.draining && f.hand.size() == 0:
	case a.err != nil:
		f.end(fmt.Errorf("%w: %w", ErrLink, a.err))
	}
}

func (f *Flow) end(err error) { f.over, f.err = true, err }

// turn does what is to be done now.
func (f *Flow) turn(now time.Time) {
	f.up.watch(now)
	for e := f.held.ready(now); e != nil; e = f.held.ready(now) {
		f.hand.move(e, waiting)
		f.ready.pushFront(e)
	}
	f.send()
	f.flush(now)
	f.pull(now)
	if f.up.session != nil {
		f.keep(now)
		f.askLag(now)
	}
	if !now.Before(f.pingAt) {
		f.link.Ping()
		f.pingAt = now.Add(link.PingEvery)
	}
	if !f.draining || f.settle.size() > 0 {
		f.up.connect(now, f.connected)
	}
	if f.draining {
		f.leave(now)
	}
}

// next is when the next turn is due, if nothing else happens.
func (f *Flow) next(now time.Time) time.Time {
	t := earlier(f.pingAt, f.up.next())
	if f.up.session != nil {
		if !f.up.busy("settle") {
			t = earlier(t, f.settle.next(f.cfg.Linger))
		}
		if f.traits.KeepEvery > 0 && !f.up.busy("keep") {
			t = earlier(t, f.keepAt)
		}
		if !f.up.busy("lag") {
			t = earlier(t, f.lagAt)
		}
		if !f.roomSince.IsZero() && !f.up.busy("pull") {
			t = earlier(t, f.roomSince.Add(f.cfg.Linger))
		}
	}
	if len(f.held) > 0 {
		t = earlier(t, f.held[0].due)
	}
	if !f.leaveBy.IsZero() {
		t = earlier(t, f.leaveBy)
	}
	return t
}

func (f *Flow) connected() {
	now := time.Now()
	f.log.Info("connected to the broker")
	delete(f.said, "down")
	f.keepAt, f.lagAt, f.gotAt = now, now, now
	f.link.Ready()
}

// disconnected notes that there is no session, or not any more.
func (f *Flow) disconnected(err error) {
	f.settle.failed(time.Now())
	f.pulling = 0
	f.lagKnown = false
	reason := f.cfg.Clean(err.Error())
	f.link.Down(reason)
	f.say("down", slog.LevelWarn, "no connection to the broker, trying again", "error", reason)
}

// say logs a line, unless it has just been logged.
func (f *Flow) say(key string, level slog.Level, text string, args ...any) {
	now := time.Now()
	if last, ok := f.said[key]; ok && now.Sub(last) < logEvery {
		return
	}
	f.said[key] = now
	f.log.Log(context.Background(), level, text, args...)
}

// room is how many messages may be taken now.
func (f *Flow) room() int {
	if f.stopping || f.credit == 0 || f.hand.count[held] >= heldMost || f.settle.size() > 4*f.credit+heldMost {
		return 0
	}
	limit := f.credit
	if f.cfg.Order != OrderNone {
		limit *= 2 // some wait for others
	}
	return min(limit-f.hand.count[open]-f.hand.count[waiting], pullMost)
}

// pull takes messages if there is room: for a quarter of the credit, so that they
// come in batches, or for any since linger=.
func (f *Flow) pull(now time.Time) {
	room := f.room()
	if room <= 0 {
		f.roomSince, f.gotAt = time.Time{}, now
		return
	}
	if f.roomSince.IsZero() {
		f.roomSince = now
	}
	idle := f.hand.count[open]+f.hand.count[waiting] == 0
	if !f.up.can("pull") || !idle && room < f.credit/4 && now.Before(f.roomSince.Add(f.cfg.Linger)) {
		return
	}
	f.roomSince, f.pulling = time.Time{}, room
	s := f.up.session
	f.up.start("pull", pullWait, func(ctx context.Context) func(bool) {
		list, err := s.Pull(ctx, room)
		return func(stale bool) {
			now := time.Now()
			if !stale {
				f.pulling = 0
			}
			f.received(list, now)
			switch {
			case stale:
			case err != nil:
				f.up.fail(fmt.Errorf("cannot take messages: %w", err))
			default:
				f.up.worked()
			}
		}
	})
}

// flush tells the broker what became of messages.
func (f *Flow) flush(now time.Time) {
	idle := f.draining || f.hand.count[open]+f.hand.count[waiting] == 0
	if !f.up.can("settle") || !f.settle.due(now, idle, max(f.credit/2, 1), f.cfg.Linger) {
		return
	}
	batch := f.settle.take()
	for _, o := range batch {
		o.Message = o.entry.m // a later delivery may have brought another receipt
	}
	s := f.up.session
	f.up.start("settle", callLimit, func(ctx context.Context) func(bool) {
		err := s.Settle(ctx, batch)
		return func(stale bool) {
			switch {
			case stale: // they are in the queue again
			case err != nil:
				f.up.fail(fmt.Errorf("cannot acknowledge: %w", err))
			default:
				f.settled(time.Now())
			}
		}
	})
}

// keep tells the broker that messages are worked on.
func (f *Flow) keep(now time.Time) {
	if f.traits.KeepEvery == 0 || now.Before(f.keepAt) || !f.up.can("keep") {
		return
	}
	f.keepAt = now.Add(f.traits.KeepEvery)
	list := make([]*Message, 0, f.hand.size())
	for _, e := range f.hand.byTag {
		list = append(list, e.m)
	}
	s := f.up.session
	f.up.start("keep", callLimit, func(ctx context.Context) func(bool) {
		err := s.Keep(ctx, list)
		return func(stale bool) {
			if err != nil && !stale {
				f.up.fail(fmt.Errorf("cannot keep messages from being delivered again: %w", err))
			}
		}
	})
}

// askLag asks what waits, and makes a new connection if messages wait and none come.
func (f *Flow) askLag(now time.Time) {
	if now.Before(f.lagAt) || !f.up.can("lag") {
		return
	}
	f.lagAt = now.Add(lagEvery)
	s := f.up.session
	f.up.start("lag", callLimit, func(ctx context.Context) func(bool) {
		lag, err := s.Lag(ctx)
		return func(stale bool) {
			if f.lag, f.lagKnown = lag, err == nil; stale {
				return
			}
			if err != nil && !errors.Is(err, ErrNoLag) {
				f.say("lag", slog.LevelWarn, "cannot count what waits at the broker", "error", f.cfg.Clean(err.Error()))
			}
			now := time.Now()
			if err == nil && lag.Messages > 0 && !f.nudged && now.Sub(f.gotAt) >= idleMost {
				f.nudged = true
				f.log.Warn("messages wait at the broker and none arrive, connecting again", "lag", lag.Messages)
				f.up.fail(errors.New("messages wait at the broker and none arrive"))
			}
		}
	})
}
