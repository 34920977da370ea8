package flow

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/feeders/internal/pooltest"
	"github.com/poolinit/poolinit/feeders/link"
)

// What order= promises, in each mode: messages of one lane are handled one after the
// other, in the broker's order, whatever fails and however long it takes; and those of
// different lanes do not wait for each other.
func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		order Order
		lane  func(pooltest.Message) string // "": none
		wide  bool                          // more than one at a time
	}{
		{OrderNone, func(pooltest.Message) string { return "" }, true},
		{OrderKey, func(m pooltest.Message) string { return m.Meta.Key }, true},
		{OrderPartition, func(m pooltest.Message) string { return "p" + m.Body[len(m.Body)-1:] }, true},
		{OrderAll, func(pooltest.Message) string { return "all" }, false},
	} {
		t.Run(string(tt.order), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker()
				for i := range 300 {
					m := &Message{ID: fmt.Sprint(i), Lane: fmt.Sprint("p", i%4), Body: []byte(fmt.Sprintf("%d-%d", i, i%4))}
					if k := i % 7; k > 0 { // 0: without a key
						m.Key = fmt.Sprint("k", k)
					}
					b.put(m)
				}
				w := newWitness(t, tt.lane)
				cfg := base()
				cfg.Order = tt.order
				f := run(t, b, cfg, w.handle)
				time.Sleep(time.Hour)
				f.drain(t)
				if len(b.acked)+len(b.dead) != 300 || len(b.dead) == 0 {
					t.Errorf("%d acknowledged, %d dead letters", len(b.acked), len(b.dead))
				}
				if (w.most > 1) != tt.wide || f.pool.See().Most > cfg.Credit {
					t.Errorf("%d handled at a time, %d open", w.most, f.pool.See().Most)
				}
			})
		})
	}
}

// A witness handles messages, some of which fail, and sees whether their order holds.
type witness struct {
	t    *testing.T
	lane func(pooltest.Message) string

	mu   sync.Mutex
	busy map[string]string // message by lane
	last map[string]int    // that was finished, by lane
	now  int
	most int
}

func newWitness(t *testing.T, lane func(pooltest.Message) string) *witness {
	return &witness{t: t, lane: lane, busy: map[string]string{}, last: map[string]int{}}
}

func (w *witness) handle(m pooltest.Message) pooltest.Reply {
	lane := w.lane(m)
	w.begin(lane, m)
	time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
	r := pooltest.Reply{}
	switch rand.IntN(10) {
	case 0:
		r = pooltest.Reply{Code: link.Refused}
	case 1:
		r = pooltest.Reply{Code: link.GivenUp}
	case 2:
		r = pooltest.Reply{Code: link.Retry, Text: "9s: later"}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now--
	delete(w.busy, lane)
	return r
}

func (w *witness) begin(lane string, m pooltest.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now++
	w.most = max(w.most, w.now)
	if lane == "" {
		return
	}
	if other := w.busy[lane]; other != "" {
		w.t.Errorf("lane %s: %s began while %s was handled", lane, m.Body, other)
	}
	var n int
	_, _ = fmt.Sscanf(m.Body, "%d", &n)
	if n < w.last[lane] {
		w.t.Errorf("lane %s: %d came after %d", lane, n, w.last[lane])
	}
	w.busy[lane], w.last[lane] = m.Body, n
}

// A dead letter that cannot be written holds its lane: what follows must not be done
// before it.
func TestDeadLetterHoldsItsLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("a", "b")
		b.refuse = true
		cfg := base()
		cfg.Order = OrderAll
		f := run(t, b, cfg, func(m pooltest.Message) pooltest.Reply {
			if m.Body == "a" {
				return pooltest.Reply{Code: link.Refused}
			}
			return pooltest.Reply{}
		})
		time.Sleep(time.Minute)
		if got := f.pool.See().Got; len(got) != 1 {
			t.Errorf("%d messages were handed on", len(got))
		}
		b.mu.Lock()
		b.refuse = false
		b.mu.Unlock()
		time.Sleep(time.Minute)
		f.drain(t)
		if len(b.dead) != 1 || len(b.acked) != 1 {
			t.Errorf("dead %v, acknowledged %v", b.dead, b.acked)
		}
	})
}

// What is given back goes back newest first, so that the oldest one is at the end that
// is taken from.
func TestGivenBackInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(ids(10)...)
		cfg := base()
		cfg.Order = OrderAll
		hold := make(chan struct{})
		f := run(t, b, cfg, func(pooltest.Message) pooltest.Reply {
			<-hold
			return pooltest.Reply{Code: link.Interrupted}
		})
		synctest.Wait()
		f.pool.Drain()
		time.Sleep(time.Second)
		close(hold)
		if err := <-f.end; err != nil {
			t.Error(err)
		}
		var got []string
		for _, m := range b.queue {
			got = append(got, m.ID)
		}
		if !slices.Equal(got, ids(10)) {
			t.Errorf("the broker has %v, given back were %v", got, b.returned)
		}
	})
}

// A message that may have killed a pool goes alone.
func TestSuspectGoesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(ids(20)...)
		b.put(&Message{ID: "suspect", Body: []byte("suspect"), Redelivered: true, Alone: true})
		for _, id := range ids(40)[20:] {
			b.put(&Message{ID: id, Body: []byte(id)})
		}
		var mu sync.Mutex
		now := map[string]bool{}
		f := run(t, b, base(), func(m pooltest.Message) pooltest.Reply {
			mu.Lock()
			now[m.Body] = true
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if now["suspect"] && len(now) > 1 {
				t.Errorf("at a time: %v", now)
			}
			delete(now, m.Body)
			return pooltest.Reply{}
		})
		time.Sleep(time.Minute)
		f.drain(t)
		if len(b.acked) != 41 {
			t.Errorf("%d acknowledged", len(b.acked))
		}
	})
}

// A retried message goes before newer ones.
func TestRetriedGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(ids(100)...)
		cfg := base()
		cfg.Credit = 1
		var order []string
		f := run(t, b, cfg, func(m pooltest.Message) pooltest.Reply {
			order = append(order, m.Body)
			time.Sleep(time.Second)
			if m.Body == "m000" && m.Meta.Attempt == 1 {
				return pooltest.Reply{Code: link.Retry, Text: "5s500ms: "}
			}
			return pooltest.Reply{}
		})
		time.Sleep(20*time.Second + 500*time.Millisecond)
		synctest.Wait()
		if i := slices.Index(order[1:], "m000"); i < 5 || i > 7 {
			t.Errorf("the order is %s", strings.Join(order, " "))
		}
		f.drain(t)
	})
}
