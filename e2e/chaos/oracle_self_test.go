package chaos

import (
	"strings"
	"testing"
	"time"
)

// The oracle itself can fail: each case is a message with what the clients and the
// workers have noted about it, and a word of the complaint; "" is none.
func TestOracle(t *testing.T) {
	now := time.Now()
	runs := &life{}
	stopped := &life{stopping: now, ended: now.Add(time.Second)}
	outOfTime := &life{stopping: now, ended: now.Add(stopTimeout)}
	killed := &life{killed: true}
	for _, c := range []struct {
		name string
		m    message
		body string // of the answer
		fail bool
		book []int64 // when it was begun, from now
		says string
	}{
		{name: "answered", m: message{life: runs}, book: []int64{-10}},
		{name: "answered after the second attempt", m: message{life: runs}, book: []int64{-20, -10}},
		{name: "handled again", m: message{life: runs}, book: []int64{-10, 1e9}, says: "after it had been answered"},
		{name: "no worker had it", m: message{life: runs}, says: "no worker had it"},
		{name: "another answer", m: message{life: runs}, body: "ok 1-2", book: []int64{-10}, says: "another body"},
		{name: "answered twice", m: message{life: runs, answer: "reply"}, book: []int64{-10}, says: "and then"},
		{name: "stopping", m: message{life: stopped}, body: "stopping: x", fail: true},
		{name: "stopping, but handled", m: message{life: stopped}, body: "stopping: x", fail: true, book: []int64{-10}, says: "a worker had it"},
		{name: "stopping, without a stop", m: message{life: runs}, body: "stopping: x", fail: true, says: "before the stop"},
		{name: "innocent", m: message{life: runs}, body: "given-up: x", fail: true, book: []int64{-10}, says: "is innocent"},
		{name: "spooled and forgotten", m: message{life: stopped}, body: "spooled: x", fail: true, says: "no worker had it after that"},
		{name: "too often", m: message{life: runs}, book: make([]int64, 20), says: "more than"},
		{name: "unknown code", m: message{life: runs}, body: "expired: x", fail: true, says: "was answered expired"},
		{name: "unanswered", m: message{life: runs}, body: "-", says: "while the pool ran"},
		{name: "unanswered at a stop", m: message{life: stopped, written: now.Add(-time.Second)}, body: "-", says: "before a stop"},
		{name: "unanswered, written late", m: message{life: stopped, written: now.Add(time.Millisecond)}, body: "-"},
		{name: "unanswered, out of time", m: message{life: outOfTime, written: now.Add(-time.Second)}, body: "-"},
		{name: "unanswered, the pool was killed", m: message{life: killed, written: now}, body: "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &round{t: t, attempts: 3, oracle: newOracle()}
			c.m.id = "ok 1-1"
			r.oracle.sent(&c.m)
			if c.body == "" {
				c.body = c.m.id
			}
			if c.body != "-" {
				r.oracle.answered(&c.m, c.m.id, frame{failed: c.fail, body: c.body})
			}
			b := book{}
			for _, at := range c.book {
				b[c.m.id] = append(b[c.m.id], c.m.answeredAt+at)
			}
			r.oracle.judge(r, b)
			got := strings.Join(r.oracle.wrong, "\n")
			if (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
				t.Errorf("complaints: %q", got)
			}
		})
	}
}
