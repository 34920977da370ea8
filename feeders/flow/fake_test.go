package flow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/poolinit/poolinit/feeders/internal/pooltest"
	"github.com/poolinit/poolinit/feeders/link"
)

// fakeBroker is a broker in memory. A session that breaks has its messages delivered
// again, as those of a Redis stream that is claimed.
type fakeBroker struct {
	traits Traits

	mu       sync.Mutex
	queue    []*Message // what waits, the next one first
	out      map[string]*Message
	arrived  chan struct{} // closed when there is something new
	acked    []string
	replies  map[string]string
	dead     map[string]string // id -> "reason text attempts"
	delayed  map[string]string
	returned []string
	notes    []string
	keeps    int
	kept     map[string]int
	pulls    []int // the limits
	settles  [][]string
	sessions int
	closed   int

	refuse   bool   // dead letters cannot be written
	down     error  // of Connect
	settleBy func() // called in Settle, before anything
	disowned map[string]bool
	lag      int64
	hang     bool // Pull never returns messages, nor at its deadline
	release  chan struct{}
}

func newBroker(ids ...string) *fakeBroker {
	b := &fakeBroker{out: map[string]*Message{}, arrived: make(chan struct{}), replies: map[string]string{}, dead: map[string]string{},
		delayed: map[string]string{}, kept: map[string]int{}, disowned: map[string]bool{}, release: make(chan struct{})}
	for _, id := range ids {
		b.put(&Message{ID: id, Body: []byte(id)})
	}
	return b
}

func (b *fakeBroker) put(list ...*Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, list...)
	close(b.arrived)
	b.arrived = make(chan struct{})
}

func (b *fakeBroker) Traits() Traits { return b.traits }

func (b *fakeBroker) Owns(m *Message) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.disowned[m.ID]
}

func (b *fakeBroker) Connect(context.Context) (Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return nil, b.down
	}
	b.sessions++
	return &fakeSession{fakeBroker: b, broken: make(chan struct{})}, nil
}

type fakeSession struct {
	*fakeBroker
	once   sync.Once
	broken chan struct{}
}

var errBroken = errors.New("connection reset")

func (s *fakeSession) Pull(ctx context.Context, limit int) ([]*Message, error) {
	s.mu.Lock()
	s.pulls = append(s.pulls, limit)
	hang := s.hang
	s.mu.Unlock()
	if hang {
		<-s.release
		return nil, nil
	}
	for {
		s.mu.Lock()
		n := min(limit, len(s.queue))
		list := slices.Clone(s.queue[:n])
		s.queue = s.queue[n:]
		for _, m := range list {
			s.out[m.ID] = m
		}
		more := s.arrived
		s.mu.Unlock()
		if n > 0 {
			return list, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-s.broken:
			return nil, errBroken
		case <-more:
		}
	}
}

func (s *fakeSession) Settle(_ context.Context, outcomes []*Outcome) error {
	if s.settleBy != nil {
		s.settleBy()
	}
	select {
	case <-s.broken:
		return errBroken
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, o := range outcomes {
		id := o.Message.ID
		ids = append(ids, id)
		switch o.Action {
		case Ack:
			if o.Reply != nil {
				s.replies[id] = o.ReplyType + " " + string(o.Reply)
			}
			s.acked = append(s.acked, id)
		case Dead:
			if s.refuse {
				o.Err = errors.New("no such queue")
				continue
			}
			s.dead[id] = fmt.Sprintf("%s|%s|%d", o.Reason, o.Text, o.Attempts)
		case Return:
			s.returned = append(s.returned, fmt.Sprintf("%s %s %v", id, o.Reason, o.Counted))
			s.queue = append([]*Message{s.out[id]}, s.queue...)
		case Delayed:
			s.delayed[id] = fmt.Sprintf("%v %d", o.Delay, o.Attempts)
		case Note:
			s.notes = append(s.notes, fmt.Sprintf("%s %d", id, o.Attempts))
			continue
		}
		delete(s.out, id)
	}
	s.settles = append(s.settles, ids)
	return nil
}

func (s *fakeSession) Keep(_ context.Context, list []*Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keeps++
	for _, m := range list {
		s.kept[m.ID]++
	}
	return nil
}

func (s *fakeSession) Lag(context.Context) (Lag, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lag < 0 {
		return Lag{}, ErrNoLag
	}
	return Lag{Messages: s.lag + int64(len(s.queue)), MaxPartition: -1}, nil
}

func (s *fakeSession) Close(context.Context) error {
	s.breakIt()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

// breakIt ends the connection: what is out is delivered again.
func (s *fakeSession) breakIt() { s.once.Do(func() { close(s.broken) }) }

// redeliver puts everything that is out into the queue again.
func (b *fakeBroker) redeliver() {
	b.mu.Lock()
	list := slices.Collect(maps.Values(b.out))
	b.mu.Unlock()
	for _, m := range list {
		again := *m
		again.Redelivered, again.Receipt = true, "new"
		b.put(&again)
	}
}

// A feed is a Flow with a fake broker and a fake pool.
type feed struct {
	*fakeBroker
	pool *pooltest.Pool
	flow *Flow
	end  chan error // 1: what Run returned
}

// base is the configuration of most tests.
func base() Config {
	return Config{Source: "fake", Order: OrderNone, Attempts: 3, RetryLeast: time.Second, RetryMost: 5 * time.Minute, Replies: true,
		Linger: 2 * time.Millisecond, MaxMessage: 1000, Credit: 8, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

// run starts a feed inside of a synctest bubble.
func run(t *testing.T, b *fakeBroker, cfg Config, handle func(pooltest.Message) pooltest.Reply) *feed {
	t.Helper()
	ours, theirs := net.Pipe()
	p := pooltest.New(theirs, handle)
	started := make(chan error, 1) // 1: Start ends before it is read
	go func() { started <- p.Start(link.Hello{Feed: "test", Credit: cfg.Credit, MaxMessage: cfg.MaxMessage}) }()
	l, _, err := link.New(ours)
	if err := errors.Join(err, <-started); err != nil {
		t.Fatal(err)
	}
	f := &feed{b, p, New(cfg, b, l), make(chan error, 1)}
	go func() { f.end <- f.flow.Run() }()
	return f
}

// drain ends the feed, which must not have broken the contract.
func (f *feed) drain(t *testing.T) {
	t.Helper()
	f.pool.Drain()
	if err := <-f.end; err != nil {
		t.Errorf("the drain ended with: %v", err)
	}
	<-f.pool.Ended()
	v := f.pool.See()
	if len(v.Faults) > 0 {
		t.Errorf("the feeder broke the contract: %q", v.Faults)
	}
	if v.Stats == 0 {
		t.Error("no stats came at the end")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.out) > 0 {
		t.Errorf("%d messages are neither settled nor given back", len(f.out))
	}
}

// echo answers each message with itself.
func echo(m pooltest.Message) pooltest.Reply { return pooltest.Reply{Text: m.Body} }

// ids returns n names.
func ids(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("m%03d", i))
	}
	return list
}
