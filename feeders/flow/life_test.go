package flow

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/feeders/internal/pooltest"
	"github.com/poolinit/poolinit/feeders/link"
)

// Never more is open than the credit, however it changes, and with 0 nothing is taken.
func TestCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(ids(500)...)
		cfg := base()
		cfg.Credit = 0
		f := run(t, b, cfg, func(pooltest.Message) pooltest.Reply {
			time.Sleep(time.Second)
			return pooltest.Reply{}
		})
		time.Sleep(time.Hour)
		b.mu.Lock()
		if len(b.pulls) > 0 {
			t.Errorf("with credit 0 it took %v", b.pulls)
		}
		b.mu.Unlock()
		for _, credit := range []int{4, 64, 16, 0, 7} {
			f.pool.Credit(credit)
			time.Sleep(1300 * time.Millisecond) // those of before are answered
			synctest.Wait()
			if open := f.pool.See().Open; open != credit {
				t.Errorf("with credit %d there are %d open", credit, open)
			}
			b.mu.Lock()
			if held := len(b.out); held > 2*64 {
				t.Errorf("with credit %d the feeder has %d", credit, held)
			}
			b.mu.Unlock()
		}
		f.drain(t)
	})
}

// Messages are taken and acknowledged in batches, and nothing waits when there is
// nothing to wait for.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(ids(1000)...)
		cfg := base()
		cfg.Credit = 64
		f := run(t, b, cfg, func(pooltest.Message) pooltest.Reply {
			time.Sleep(time.Millisecond)
			return pooltest.Reply{}
		})
		time.Sleep(time.Second)
		b.mu.Lock()
		if len(b.settles) > 100 || len(b.acked) != 1000 {
			t.Errorf("%d acknowledged in %d calls", len(b.acked), len(b.settles))
		}
		b.mu.Unlock()
		start := time.Now()
		b.settleBy = func() {
			if time.Since(start) > 0 {
				t.Errorf("the acknowledgement of a single message came after %v", time.Since(start))
			}
		}
		f.pool.Handle = echo
		b.put(&Message{ID: "single"})
		time.Sleep(time.Second)
		f.drain(t)
	})
}

// After a lost connection the broker delivers again what the pool is still working on.
// Such a delivery is not handed on: its receipt takes the place of the old one.
func TestMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("a", "b", "c")
		hold := make(chan struct{})
		f := run(t, b, base(), func(m pooltest.Message) pooltest.Reply {
			if m.Body != "c" {
				<-hold
				return pooltest.Reply{}
			}
			return pooltest.Reply{Code: link.Retry, Text: "1h: "}
		})
		time.Sleep(time.Second)
		b.redeliver()
		time.Sleep(time.Second)
		var receipts []any
		b.settleBy = func() {
			for _, o := range f.flow.settle.running {
				receipts = append(receipts, o.Message.Receipt)
			}
		}
		close(hold)
		time.Sleep(2 * time.Hour)
		stats := f.pool.Stats()
		f.drain(t)
		if got := len(f.pool.See().Got); got != 5 { // c three times
			t.Errorf("the pool was given %d messages", got)
		}
		if stats["merged"] != 3.0 || stats["redelivered"] != 3.0 || !slices.Equal(receipts[:2], []any{"new", "new"}) {
			t.Errorf("stats %v, receipts %v", stats, receipts)
		}
		if len(b.acked) != 2 || b.dead["c"] == "" {
			t.Errorf("acknowledged %v, dead %v", b.acked, b.dead)
		}
	})
}

// One that comes again while its acknowledgement is on the way is acknowledged again.
func TestMergeWhileSettling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("a")
		first := true
		b.settleBy = func() {
			if first {
				first = false
				b.redeliver()
				time.Sleep(time.Second)
			}
		}
		f := run(t, b, base(), echo)
		time.Sleep(time.Minute)
		f.drain(t)
		if len(f.pool.See().Got) != 1 || len(b.acked) != 2 || len(b.queue) != 0 {
			t.Errorf("%d handled, acknowledged %v", len(f.pool.See().Got), b.acked)
		}
	})
}

// A connection that breaks loses no outcome: it is told on the next one.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(ids(100)...)
		var log bytes.Buffer
		cfg := base()
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		cfg.Clean = func(s string) string { return strings.ReplaceAll(s, "canary", "***") }
		f := run(t, b, cfg, func(pooltest.Message) pooltest.Reply {
			time.Sleep(100 * time.Millisecond)
			return pooltest.Reply{}
		})
		for range 5 {
			time.Sleep(300 * time.Millisecond)
			b.mu.Lock()
			b.down = errors.New("dial tcp: canary refused")
			b.mu.Unlock()
			f.flow.up.results <- func() { f.flow.up.session.(*fakeSession).breakIt() }
			time.Sleep(time.Minute)
			b.mu.Lock()
			b.down = nil
			b.mu.Unlock()
			time.Sleep(30 * time.Second)
		}
		time.Sleep(time.Minute)
		stats := f.pool.Stats()
		f.drain(t)
		if v := f.pool.See(); len(v.Got) != 100 || v.Ready != 6 || len(v.Downs) < 5 || slices.ContainsFunc(v.Downs, func(s string) bool { return strings.Contains(s, "canary") }) {
			t.Errorf("%d messages, ready %d times, down: %q", len(v.Got), v.Ready, v.Downs)
		}
		if len(b.acked) != 100 || stats["connects"].(map[string]any)["ok"] != 6.0 {
			t.Errorf("%d acknowledged, stats %v", len(b.acked), stats)
		}
		if n := strings.Count(log.String(), "no connection"); n < 5 || n > 12 || strings.Contains(log.String(), "canary") {
			t.Errorf("the log has\n%s", &log)
		}
	})
}

// A broker that is away for long is asked for at most every 30 s, with jitter, for
// ever; the feeder lives.
func TestBrokerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker()
		b.down = errors.New("refused")
		f := run(t, b, base(), echo)
		time.Sleep(time.Hour)
		stats := f.pool.Stats()
		n := stats["connects"].(map[string]any)["failed"].(float64)
		if n < 3600/30 || n > 3600/10 || stats["connected"] != false {
			t.Errorf("%v attempts in an hour; %v", n, stats)
		}
		if v := f.pool.See(); v.Pings < 700 {
			t.Errorf("%d pings", v.Pings)
		}
		f.drain(t)
	})
}

// A call that does not return is left alone, with its connection.
func TestHungCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker()
		b.hang = true
		f := run(t, b, base(), echo)
		time.Sleep(10 * time.Second)
		b.mu.Lock()
		b.hang = false
		b.mu.Unlock()
		b.put(&Message{ID: "a"})
		time.Sleep(time.Minute)
		if len(f.pool.See().Got) != 1 || b.sessions != 2 {
			t.Errorf("%d messages, %d connections", len(f.pool.See().Got), b.sessions)
		}
		close(b.release)
		f.drain(t)
	})
}

// Messages wait and none come: once it connects again.
func TestNothingComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker()
		b.lag = 7
		f := run(t, b, base(), echo)
		time.Sleep(time.Hour)
		if stats := f.pool.Stats(); b.sessions != 2 || stats["lag"] != 7.0 {
			t.Errorf("%d connections, stats %v", b.sessions, stats)
		}
		f.drain(t)
	})
}

// Messages in hand are kept alive, whatever they wait for.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("long", "held")
		b.traits.KeepEvery = 10 * time.Second
		f := run(t, b, base(), func(m pooltest.Message) pooltest.Reply {
			if m.Body == "held" && m.Meta.Attempt == 1 {
				return pooltest.Reply{Code: link.Retry, Text: "10m: "}
			}
			time.Sleep(10 * time.Minute)
			return pooltest.Reply{}
		})
		time.Sleep(9*time.Minute + time.Second)
		b.mu.Lock()
		if b.kept["long"] != 54 || b.kept["held"] != 54 {
			t.Errorf("kept %v in %d calls", b.kept, b.keeps)
		}
		b.mu.Unlock()
		time.Sleep(time.Hour)
		f.drain(t)
	})
}

// The end: what the pool never had goes back, what it has is waited for.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(ids(50)...)
		cfg := base()
		cfg.Order = OrderAll
		f := run(t, b, cfg, func(pooltest.Message) pooltest.Reply {
			time.Sleep(time.Minute)
			return pooltest.Reply{}
		})
		time.Sleep(time.Second)
		start := time.Now()
		f.drain(t)
		if took := time.Since(start); took < 58*time.Second || took > time.Minute {
			t.Errorf("the drain took %v", took)
		}
		if len(b.acked) != 1 || len(b.queue) != 49 || len(b.returned) != 15 || b.closed != 1 {
			t.Errorf("acknowledged %v, given back %v, closed %d times", b.acked, b.returned, b.closed)
		}
		if s := f.pool.LastStats(); s["returned"].(map[string]any)["drain"] != 15.0 || s["in_flight"] != 0.0 {
			t.Errorf("stats %v", s)
		}
	})
}

// A drain while the broker is away: what is given back needs nothing, and what has to be
// acknowledged is tried for a while.
func TestDrainWithoutBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("done", "held")
		cfg := base()
		f := run(t, b, cfg, func(m pooltest.Message) pooltest.Reply {
			if m.Body == "held" {
				return pooltest.Reply{Code: link.Retry, Text: "1h: "}
			}
			time.Sleep(2 * time.Second)
			return pooltest.Reply{}
		})
		time.Sleep(time.Second)
		b.mu.Lock()
		b.down = errors.New("refused")
		b.mu.Unlock()
		f.flow.up.results <- func() { f.flow.up.session.(*fakeSession).breakIt() }
		f.pool.Drain()
		start := time.Now()
		if err := <-f.end; err == nil || !strings.Contains(err.Error(), "1 messages could not be settled") {
			t.Errorf("the drain ended with: %v", err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 13*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// Without the link there is no feeder.
func TestLinkLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("a")
		f := run(t, b, base(), func(pooltest.Message) pooltest.Reply { return pooltest.Reply{Never: true} })
		synctest.Wait()
		_ = f.pool.Close()
		if err := <-f.end; !errors.Is(err, ErrLink) {
			t.Errorf("it ended with: %v", err)
		}
		if len(b.acked)+len(b.returned) > 0 {
			t.Errorf("acknowledged %v, given back %v", b.acked, b.returned)
		}
	})
}

// An answer that answers nothing ends the feeder.
func TestSurplusAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("a")
		f := run(t, b, base(), echo)
		time.Sleep(time.Second)
		f.pool.Answer(1, pooltest.Reply{})
		if err := <-f.end; !errors.Is(err, ErrLink) || !strings.Contains(err.Error(), "tag 1") {
			t.Errorf("it ended with: %v", err)
		}
	})
}

// What is lost before it was handed on is not handed on.
func TestDisowned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("a", "b", "c")
		b.disowned["b"] = true
		cfg := base()
		cfg.Order = OrderAll
		f := run(t, b, cfg, func(m pooltest.Message) pooltest.Reply {
			time.Sleep(time.Second)
			return pooltest.Reply{}
		})
		time.Sleep(time.Minute)
		f.pool.Drain()
		if err := <-f.end; err != nil {
			t.Error(err)
		}
		if len(b.acked) != 2 || len(f.pool.See().Got) != 2 {
			t.Errorf("acknowledged %v", b.acked)
		}
	})
}
