package flow

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/feeders/internal/pooltest"
	"github.com/poolinit/poolinit/feeders/link"
)

// What each answer of the pool means to the broker: every row of the table in
// docs/feeders.md.
func TestAnswers(t *testing.T) {
	r := func(code link.Code, text string) pooltest.Reply { return pooltest.Reply{Code: code, Text: text} }
	for _, tt := range []struct {
		name    string
		answers []pooltest.Reply // one an attempt
		gaps    []time.Duration  // between them, +-20 % where slack says so
		slack   bool
		acked   bool
		dead    string
		back    string // and then drain
		notes   string
	}{
		{name: "reply", answers: []pooltest.Reply{{Text: "yes"}}, acked: true},
		{name: "empty reply", answers: []pooltest.Reply{{}}, acked: true},
		{name: "refused", answers: []pooltest.Reply{r("refused", "not mine")}, dead: "refused|not mine|1"},
		{name: "too-big", answers: []pooltest.Reply{r("too-big", "limit")}, dead: "too-big|limit|1"},
		{name: "not-a-line", answers: []pooltest.Reply{r("not-a-line", "")}, dead: "not-a-line||1"},
		{name: "retry, then handled", answers: []pooltest.Reply{r("retry", "30s: db locked"), {}}, gaps: []time.Duration{30 * time.Second},
			acked: true, notes: "m000 2"},
		{name: "retry at once", answers: []pooltest.Reply{r("retry", "0s: "), {}}, gaps: []time.Duration{0}, acked: true, notes: "m000 2"},
		{name: "retry for ever", answers: []pooltest.Reply{r("retry", "1s: a"), r("retry", "2m: b"), r("retry", "1s: c")},
			gaps: []time.Duration{time.Second, 2 * time.Minute}, dead: "attempts|c|3", notes: "m000 2,m000 3"},
		{name: "retry without a delay", answers: []pooltest.Reply{r("retry", "soon"), {}}, gaps: []time.Duration{time.Second}, slack: true,
			acked: true, notes: "m000 2"},
		{name: "given-up", answers: []pooltest.Reply{r("given-up", "exit 1"), r("given-up", "exit 1"), r("given-up", "exit 2")},
			gaps: []time.Duration{time.Second, 2 * time.Second}, slack: true, dead: "attempts|exit 2|3", notes: "m000 2,m000 3"},
		{name: "given-up once", answers: []pooltest.Reply{r("given-up", "x"), {Text: "ok"}}, gaps: []time.Duration{time.Second}, slack: true,
			acked: true, notes: "m000 2"},
		{name: "unknown code", answers: []pooltest.Reply{r("not-tagged", "x"), r("new", "x"), r("new", "y")},
			gaps: []time.Duration{time.Second, 2 * time.Second}, slack: true, dead: "attempts|new: y|3", notes: "m000 2,m000 3"},
		{name: "stopping", answers: []pooltest.Reply{r("stopping", "")}, back: "m000 stopping false"},
		{name: "interrupted", answers: []pooltest.Reply{r("interrupted", "")}, back: "m000 interrupted true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker()
				b.put(&Message{ID: "m000", Body: []byte("body"), ReplyTo: true})
				var at []time.Time
				var attempts []int
				f := run(t, b, base(), func(m pooltest.Message) pooltest.Reply {
					at = append(at, time.Now())
					attempts = append(attempts, m.Meta.Attempt)
					if len(at) > len(tt.answers) {
						return pooltest.Reply{Never: true}
					}
					return tt.answers[len(at)-1]
				})
				if tt.back != "" {
					f.credit(t, 0, tt.name == "interrupted")
				}
				time.Sleep(10 * time.Minute)
				f.drain(t)
				if len(at) != len(tt.answers) {
					t.Fatalf("%d attempts", len(at))
				}
				for i, gap := range tt.gaps {
					got := at[i+1].Sub(at[i])
					if !tt.slack && got != gap || got < gap*8/10 || got > gap*12/10 {
						t.Errorf("attempt %d came after %v, want %v", i+2, got, gap)
					}
					if attempts[i+1] != i+2 {
						t.Errorf("the attempts are numbered %v", attempts)
					}
				}
				if acked := slices.Contains(b.acked, "m000"); acked != tt.acked || len(b.acked) > 1 {
					t.Errorf("acknowledged: %v", b.acked)
				}
				if b.dead["m000"] != tt.dead {
					t.Errorf("dead letter %q, want %q", b.dead["m000"], tt.dead)
				}
				if got := strings.Join(b.returned, ","); got != tt.back {
					t.Errorf("given back: %q, want %q", got, tt.back)
				}
				if got := strings.Join(b.notes, ","); got != tt.notes {
					t.Errorf("noted: %q, want %q", got, tt.notes)
				}
				if want := " " + tt.answers[len(tt.answers)-1].Text; tt.acked && b.replies["m000"] != want {
					t.Errorf("the reply is %q, want %q", b.replies["m000"], want)
				}
			})
		})
	}
}

// credit sets the credit after the first answer, so that what was given back does not
// come again.
func (f *feed) credit(t *testing.T, n int, wait bool) {
	t.Helper()
	if wait {
		f.pool.Wait(func(v pooltest.View) bool { return len(v.Got) > 0 })
		f.pool.Credit(n)
	}
}

// Replies go only where one is due.
func TestRepliesAreOptional(t *testing.T) {
	for _, tt := range []struct {
		replyTo, replies bool
		want             int
	}{{true, true, 1}, {false, true, 0}, {true, false, 0}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker()
			b.put(&Message{ID: "a", ReplyTo: tt.replyTo})
			cfg := base()
			cfg.Replies = tt.replies
			f := run(t, b, cfg, echo)
			synctest.Wait()
			f.drain(t)
			if len(b.replies) != tt.want || len(b.acked) != 1 {
				t.Errorf("%+v: replies %q, acknowledged %v", tt, b.replies, b.acked)
			}
		})
	}
}

// A pool that stops says stopping as fast as it is fed: nothing of that is a failed
// attempt, nothing becomes a dead letter, and the rest stays at the broker.
func TestStoppingPoolBuriesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(ids(5000)...)
		cfg := base()
		cfg.Credit = 64
		f := run(t, b, cfg, func(m pooltest.Message) pooltest.Reply {
			if m.Tag <= 100 {
				return pooltest.Reply{}
			}
			return pooltest.Reply{Code: link.Stopping}
		})
		time.Sleep(time.Minute)
		f.drain(t)
		if len(b.dead) != 0 || len(b.acked) != 100 || len(b.queue) != 4900 {
			t.Errorf("%d dead letters, %d acknowledged, %d at the broker", len(b.dead), len(b.acked), len(b.queue))
		}
		if got := len(f.pool.See().Got); got > 100+2*64 {
			t.Errorf("the pool was given %d messages", got)
		}
	})
}

// A message that cannot be one for the pool is not sent, and one that has had all its
// attempts neither: they died with their feeders.
func TestNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker()
		b.put(&Message{ID: "big", Body: make([]byte, 1001)}, &Message{ID: "poison", Attempt: 4, TakenOver: true}, &Message{ID: "third", Attempt: 3, TakenOver: true})
		f := run(t, b, base(), func(m pooltest.Message) pooltest.Reply { return pooltest.Reply{Code: link.GivenUp, Text: m.Meta.ID} })
		synctest.Wait()
		time.Sleep(time.Second)
		stats := f.pool.Stats()
		f.drain(t)
		if !strings.HasPrefix(b.dead["big"], "too-big|") || !strings.HasSuffix(b.dead["poison"], "|3") || b.dead["third"] != "attempts|third|3" {
			t.Errorf("dead letters %q", b.dead)
		}
		if got := f.pool.See().Got; len(got) != 1 || got[0].Meta.Attempt != 3 {
			t.Errorf("sent: %+v", got)
		}
		if stats["taken_over"] != 2.0 {
			t.Errorf("stats %v", stats)
		}
	})
}

// dead=drop acknowledges, and counts as a dead letter.
func TestDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("a")
		cfg := base()
		cfg.Drop = true
		f := run(t, b, cfg, func(pooltest.Message) pooltest.Reply { return pooltest.Reply{Code: link.Refused} })
		synctest.Wait()
		stats := f.pool.Stats()
		f.drain(t)
		if len(b.dead) != 0 || len(b.acked) != 1 || stats["dead"].(map[string]any)["refused"] != 1.0 || stats["acked"] != 0.0 {
			t.Errorf("dead %v, acknowledged %v, stats %v", b.dead, b.acked, stats)
		}
	})
}

// A dead letter that cannot be written keeps its message, for as long as it takes.
func TestDeadLetterIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("a", "b")
		b.refuse = true
		f := run(t, b, base(), func(m pooltest.Message) pooltest.Reply {
			if m.Body == "b" {
				return pooltest.Reply{}
			}
			return pooltest.Reply{Code: link.Refused}
		})
		time.Sleep(time.Hour)
		inFlight := f.pool.Stats()["in_flight"]
		b.mu.Lock()
		if len(b.dead) != 0 || len(b.acked) != 1 || inFlight != 1.0 {
			t.Errorf("dead %v, acknowledged %v, in flight %v", b.dead, b.acked, inFlight)
		}
		b.refuse = false
		b.mu.Unlock()
		time.Sleep(time.Minute)
		f.drain(t)
		if b.dead["a"] != "refused||1" {
			t.Errorf("dead %v", b.dead)
		}
	})
}

// Where the broker delays by itself it does; where that has a price it does so for long
// delays only.
func TestDelaysOfTheBroker(t *testing.T) {
	for _, tt := range []struct {
		traits Traits
		after  string
		order  Order
		want   string
	}{
		{Traits{Delays: true}, "1s: ", OrderNone, "1s 2"},
		{Traits{Parks: true}, "1m0s: ", OrderNone, ""},
		{Traits{Parks: true}, "2m0s: ", OrderNone, "2m0s 2"},
		{Traits{}, "2m0s: ", OrderNone, ""},
		{Traits{Delays: true, Parks: true}, "2m0s: ", OrderAll, ""}, // it holds its lane
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker("a")
			b.traits = tt.traits
			cfg := base()
			cfg.Order = tt.order
			f := run(t, b, cfg, func(pooltest.Message) pooltest.Reply { return pooltest.Reply{Code: link.Retry, Text: tt.after} })
			time.Sleep(500 * time.Millisecond)
			delayed := f.pool.Stats()["delayed"]
			f.drain(t)
			if b.delayed["a"] != tt.want || (delayed == 1.0) != (tt.want == "") {
				t.Errorf("%+v: delayed by the broker %q, want %q; %v in the feeder", tt, b.delayed["a"], tt.want, delayed)
			}
		})
	}
}

// At most so many messages wait for their next attempt; they use no credit.
func TestHeldMessagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(ids(3000)...)
		f := run(t, b, base(), func(pooltest.Message) pooltest.Reply { return pooltest.Reply{Code: link.Retry, Text: "10m: "} })
		time.Sleep(time.Minute)
		stats := f.pool.Stats()
		if d := stats["delayed"].(float64); d < heldMost || d > heldMost+8 {
			t.Errorf("%v messages are held", d)
		}
		f.drain(t)
		if len(b.queue) != 3000 {
			t.Errorf("%d messages are at the broker", len(b.queue))
		}
	})
}
