package ipc

import (
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/internal/testkit/race"
)

// An endings is an Origin that notes which messages have ended.
type endings []uint64

func (e *endings) Settled(d *Delivery, _ []byte) { *e = append(*e, d.id); d.Release() }
func (e *endings) Flush()                        {}

// backlogOf returns a queue with messages that wait, each flow's in turn.
func backlogOf(t testing.TB, messages, flows int) (*Queue, *endings) {
	t.Helper()
	q := NewQueue(Config{QueueMessages: messages, QueueBytes: 1 << 40, Attempts: 3, RetryDelay: time.Hour, RetryDelayMax: time.Hour}, zerolog.Nop())
	e := new(endings)
	all := make([]Flow, flows)
	lane := &Lane{Source: &SourceStats{Name: "tcp://x:1"}}
	for i := range all {
		all[i] = NewFlow(lane)
	}
	for i := range messages {
		if q.Submit([]*Delivery{NewDelivery(e, &all[i%flows], []byte("body"))}) != 1 {
			t.Fatalf("no room for message %d", i)
		}
	}
	return q, e
}

func ids(list []Waiting) (ids []uint64) {
	for _, w := range list {
		ids = append(ids, w.ID)
	}
	return ids
}

// A list has the messages that have waited longest, whosever they are.
func TestList(t *testing.T) {
	q, _ := backlogOf(t, 10, 3)
	for limit, want := range map[int][]uint64{1: {1}, 4: {1, 2, 3, 4}, 10: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 99: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}} {
		if got, all := q.List(limit); !slices.Equal(ids(got), want) || all != 10 {
			t.Errorf("of %d: %v of %d", limit, ids(got), all)
		}
	}
	first, _ := q.List(1)
	if w := first[0]; w.Source != "tcp://x:1" || w.Bytes != 4 || w.Attempts != 0 || w.Due != 0 || w.Age <= 0 || w.Age > time.Minute {
		t.Errorf("%+v", w)
	}
	if got, all := NewQueue(Config{}, zerolog.Nop()).List(5); len(got) != 0 || all != 0 {
		t.Errorf("of an empty queue: %v of %d", got, all)
	}
}

// A retry that is not due yet is in the list, with the time that is left.
func TestListOfRetries(t *testing.T) {
	q, _ := backlogOf(t, 3, 1)
	q.mu.Lock()
	d := q.backlog.next(nil, false, now())
	d.attempts = 2
	if f := q.retries.wait(d, now(), time.Hour); f != fateAgain {
		t.Fatal(f)
	}
	q.wasDelayed(d, now())
	q.mu.Unlock()
	got, all := q.List(2)
	if !slices.Equal(ids(got), []uint64{1, 2}) || all != 3 {
		t.Fatalf("%v of %d", got, all)
	}
	if w := got[0]; w.Attempts != 2 || w.Due < 59*time.Minute || w.Due > time.Hour || got[1].Due != 0 {
		t.Errorf("%+v", got)
	}
}

// Whoever wants to see a large queue does not hold it up, and takes little memory.
func TestListOfManyMessages(t *testing.T) {
	const messages = 100_000
	q, _ := backlogOf(t, messages, 1000)
	least := time.Hour
	for range 10 { // the machine may be busy
		began := time.Now()
		got, all := q.waiting(1000)
		least = min(least, time.Since(began))
		if len(got) != 1000 || cap(got) > 2000 || all != messages {
			t.Fatalf("%d of %d", len(got), all)
		}
	}
	if most := 5 * time.Millisecond; least > most && !race.On {
		t.Errorf("a list of 1000 messages holds the queue for %v", least)
	}
	t.Logf("1000 of %d messages: %v", messages, least)
}

// What is dropped ends as any message that is given up; the others still wait.
func TestDrop(t *testing.T) {
	q, e := backlogOf(t, 10, 3)
	if n := q.Drop([]uint64{3, 7, 99}); n != 2 {
		t.Errorf("dropped %d", n)
	}
	slices.Sort(*e)
	if got, all := q.List(10); !slices.Equal(*e, endings{3, 7}) || !slices.Equal(ids(got), []uint64{1, 2, 4, 5, 6, 8, 9, 10}) || all != 8 {
		t.Errorf("ended: %v, wait: %v of %d", *e, ids(got), all)
	}
	if n := q.Drop([]uint64{3}); n != 0 {
		t.Errorf("dropped %d again", n)
	}
}
