package flow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// connectLimit is how long a connection attempt may take.
	connectLimit = 30 * time.Second
	// pullWait is how long Pull waits for a message. Then it is called again, with
	// the credit of that time.
	pullWait = 5 * time.Second
	// callLimit is how long another call may take.
	callLimit = 30 * time.Second
	// closeLimit is how long a session may take to close.
	closeLimit = 5 * time.Second
	// hungAfter is how much longer than its deadline a call may take before the
	// session is thrown away.
	hungAfter = 30 * time.Second

	reconnectLeast = 100 * time.Millisecond
	reconnectMost  = 30 * time.Second
)

// errHung is the error of a session whose call did not return at its deadline.
var errHung = errors.New("the broker does not answer")

// A call is one that runs.
type call struct {
	cancel context.CancelFunc
	due    time.Time // when it has to have returned
}

// upstream is the connection to the broker: it connects, for ever, and runs the calls
// of the session beside the loop. All methods are for the loop.
type upstream struct {
	broker  Broker
	results chan func() // to the loop
	over    chan struct{}
	failed  func(error) // the session is gone, or none came about

	session  Session
	calls    map[string]*call // of this session, by their names
	since    time.Time        // when it was connected
	failures int              // in a row
	again    time.Time        // when to connect
	ok, bad  uint64           // attempts
}

func newUpstream(b Broker, failed func(error)) *upstream {
	return &upstream{broker: b, results: make(chan func()), over: make(chan struct{}), failed: failed, calls: map[string]*call{}}
}

// busy reports whether a call of that name runs.
func (u *upstream) busy(name string) bool { return u.calls[name] != nil }

// can reports whether a call of that name may begin.
func (u *upstream) can(name string) bool { return u.session != nil && !u.busy(name) }

// start runs do on a goroutine of its own, and then what it returned in the loop:
// stale says that the session is not in use any more.
func (u *upstream) start(name string, limit time.Duration, do func(context.Context) func(stale bool)) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	c := &call{cancel, time.Now().Add(limit + hungAfter)}
	u.calls[name] = c
	go func() { // until do returns; a library that never returns keeps it for ever
		defer cancel()
		done := do(ctx)
		select {
		case u.results <- func() {
			stale := u.calls[name] != c
			if !stale {
				delete(u.calls, name)
			}
			done(stale)
		}:
		case <-u.over:
		}
	}()
}

// cancel ends a call early.
func (u *upstream) cancel(name string) {
	if c := u.calls[name]; c != nil {
		c.cancel()
	}
}

// connect connects if it is time to. connected runs in the loop.
func (u *upstream) connect(now time.Time, connected func()) {
	if u.session != nil || u.busy("connect") || now.Before(u.again) {
		return
	}
	u.start("connect", connectLimit, func(ctx context.Context) func(bool) {
		s, err := u.broker.Connect(ctx)
		return func(stale bool) {
			switch {
			case stale:
				if err == nil {
					closeAside(s)
				}
			case err != nil:
				u.bad++
				u.fail(err)
			default:
				u.ok++
				u.session, u.since = s, time.Now()
				connected()
			}
		}
	})
}

// worked notes that the session is of use: the next failure is the first in a row.
func (u *upstream) worked() { u.failures = 0 }

// fail throws the session away. Calls that run end in their own time; their results
// are stale.
func (u *upstream) fail(err error) {
	for _, c := range u.calls {
		c.cancel()
	}
	clear(u.calls)
	if u.session != nil {
		closeAside(u.session)
		u.session = nil
	}
	u.failures++
	most := reconnectMost
	if u.failures < 10 {
		most = min(most, reconnectLeast<<u.failures)
	}
	u.again = time.Now().Add(reconnectLeast/2 + rand.N(most-reconnectLeast/2)) // full jitter: all pods lose the broker at the same time
	u.failed(err)
}

// closeAside closes a session that nothing waits for.
func closeAside(s Session) {
	go func() { // until Close returns; it has a deadline
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		defer cancel()
		_ = s.Close(ctx)
	}()
}

// leave closes the session at the end. done runs in the loop.
func (u *upstream) leave(done func(error)) {
	s := u.session
	u.start("close", closeLimit, func(ctx context.Context) func(bool) {
		err := s.Close(ctx)
		return func(bool) { done(err) }
	})
}

// end leaves everything alone that still runs.
func (u *upstream) end() {
	close(u.over)
	for _, c := range u.calls {
		c.cancel()
	}
}

// watch throws the session away if a call hangs.
func (u *upstream) watch(now time.Time) {
	for name, c := range u.calls {
		if !now.Before(c.due) {
			u.fail(fmt.Errorf("%w: %s took longer than its deadline", errHung, name))
			return
		}
	}
}

// next is when connect or watch has to be called, if nothing else happens; zero: never.
func (u *upstream) next() (t time.Time) {
	if u.session == nil && !u.busy("connect") {
		t = u.again
	}
	for _, c := range u.calls {
		t = earlier(t, c.due)
	}
	return t
}

// earlier returns the earlier one of two times, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
