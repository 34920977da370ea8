package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"testing"
)

// said is what the log would say of a command that this process asks for.
func said(command string) string {
	return fmt.Sprintf("poolinit %s (uid %d, pid %d)", command, os.Geteuid(), os.Getpid())
}

// Each command that changes the pool does so, and the log says who asked.
func TestOperate(t *testing.T) {
	for _, tt := range []struct {
		command string
		ask     func(*Client) error
		done    func(*fakePool) bool
	}{
		{"scale", func(c *Client) error { return c.Scale(5) }, func(p *fakePool) bool { return len(p.stats.Workers) == 5 }},
		{"pause", func(c *Client) error { return c.Pause() }, func(p *fakePool) bool { return p.paused }},
		{"resume", func(c *Client) error { return c.Resume() }, func(p *fakePool) bool { return !p.paused }},
		{"queue drop", func(c *Client) error {
			n, err := c.Drop([]uint64{7, 8, math.MaxUint64})
			if err == nil && n != 1 {
				return fmt.Errorf("dropped %d", n)
			}
			return err
		}, func(p *fakePool) bool { return len(p.waiting) == 0 }},
	} {
		t.Run(tt.command, func(t *testing.T) {
			w := newWorld(t)
			w.pool.paused, w.pool.waiting = tt.command == "resume", []Waiting{{ID: 7}}
			if err := tt.ask(w.client()); err != nil || !tt.done(w.pool) {
				t.Errorf("%v, %+v", err, w.pool)
			}
			if asked := w.pool.asks(); asked != said(tt.command) {
				t.Errorf("the log would say %q", asked)
			}
			w.pool.fails = errors.New("the pool is stopping")
			wantError(t, tt.ask(w.client()), "the pool refuses: the pool is stopping")
		})
	}
}

// The largest requests that are allowed fit.
func TestDropOfManyIDs(t *testing.T) {
	w := newWorld(t)
	ids := make([]uint64, MaxIDs)
	for i := range ids {
		ids[i] = math.MaxUint64 - uint64(i)
		w.pool.waiting = append(w.pool.waiting, Waiting{ID: ids[i]})
	}
	if n, err := w.client().Drop(ids); n != MaxIDs || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	_, err := w.client().Drop(make([]uint64, MaxIDs+1))
	wantError(t, err, "the number of ids must be from 1 to 1000, not 1001")
}

func TestQueue(t *testing.T) {
	w := newWorld(t)
	l, raw, err := w.client().Queue(10)
	if err != nil || string(raw) != `{"messages":[],"more":0}`+"\n" || len(l.Messages) != 0 {
		t.Errorf("%s, %v", raw, err)
	}
	w.pool.waiting = []Waiting{
		{ID: 7, Source: "tcp://[::]:9000", Age: 1.5, Bytes: 12, Attempts: 2, Due: 1},
		{ID: 9, Source: "sysv://0x1", Age: .001},
		{ID: 10},
	}
	l, raw, err = w.client().Queue(2)
	want := &List{Messages: []Waiting{{7, "tcp://[::]:9000", 1.5, 12, 2, 1}, {ID: 9, Source: "sysv://0x1", Age: .001}}, More: 1}
	if err != nil || !reflect.DeepEqual(l, want) || !json.Valid(raw) {
		t.Errorf("%+v, %v, %s; want %+v", l, err, raw, want)
	}
	if asked := w.pool.asks(); asked != "" {
		t.Errorf("the log would say %q of a look", asked)
	}
	w.pool.fails = errors.New("the workers get no messages")
	_, _, err = w.client().Queue(2)
	wantError(t, err, "the pool refuses: the workers get no messages")
}

// A list of the most messages is more than fits into a socket's buffer.
func TestQueueOfManyMessages(t *testing.T) {
	w := newWorld(t)
	w.pool.waiting = make([]Waiting, 100_000)
	for i := range w.pool.waiting {
		w.pool.waiting[i] = Waiting{ID: uint64(i + 1), Source: "tcp://0.0.0.0:8089", Age: 3600, Bytes: 1 << 20}
	}
	l, raw, err := w.client().Queue(MaxList)
	if err != nil || len(l.Messages) != MaxList || l.More != 90_000 {
		t.Errorf("%d messages, %d more, %v", len(l.Messages), l.More, err)
	}
	if len(raw) > 200*MaxList {
		t.Errorf("the answer has %d bytes", len(raw))
	}
}
