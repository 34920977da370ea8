package ipctest

import (
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A Desk is a sender of messages in this process: one flow, whose results it
// keeps.
type Desk struct {
	Stats ipc.SourceStats
	Flow  ipc.Flow

	t     testing.TB
	q     *ipc.Queue
	lane  ipc.Lane
	mu    sync.Mutex
	order []string
	ended map[string]string // by body; a failure as "!code: text"
	meta  map[string]string // of the replies
}

// Beside returns another desk of the same lane: another flow.
func (d *Desk) Beside() *Desk {
	return &Desk{t: d.t, q: d.q, Flow: ipc.NewFlow(&d.lane), ended: make(map[string]string), meta: make(map[string]string)}
}

// Try submits messages, and returns how many were taken. The others are lost.
func (d *Desk) Try(bodies ...string) int {
	var batch []*ipc.Delivery
	for _, body := range bodies {
		batch = append(batch, ipc.NewDelivery(d, &d.Flow, []byte(body)))
	}
	return d.q.Submit(batch)
}

// Send submits messages, for which there must be room.
func (d *Desk) Send(bodies ...string) {
	d.t.Helper()
	if n := d.Try(bodies...); n != len(bodies) {
		d.t.Fatalf("%d messages were taken of %d", n, len(bodies))
	}
}

// SendMeta submits a message with meta.
func (d *Desk) SendMeta(body, meta string) {
	d.t.Helper()
	m := ipc.NewDelivery(d, &d.Flow, []byte(body))
	if err := m.SetMeta([]byte(meta)); err != nil {
		d.t.Fatal(err)
	}
	if d.q.Submit([]*ipc.Delivery{m}) != 1 {
		d.t.Fatal("there is no room")
	}
}

// Settled implements ipc.Origin.
func (d *Desk) Settled(m *ipc.Delivery, reply []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	body, result := string(m.Body()), string(frame.Body(reply))
	if frame.IsFailure(reply) {
		result = "!" + result
	}
	if _, twice := d.ended[body]; twice {
		result = "twice: " + result
	}
	d.order = append(d.order, body)
	d.ended[body], d.meta[body] = result, string(m.ReplyMeta())
	m.Release()
}

// Flush implements ipc.Origin.
func (d *Desk) Flush() {}

// Ended returns the results by body, in what order they came, and the replies' meta.
func (d *Desk) Ended() (ended map[string]string, order []string, meta map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.ended), append([]string(nil), d.order...), maps.Clone(d.meta)
}

// Want waits until just these messages have ended, with these results: body and
// result by turns.
func (d *Desk) Want(pairs ...string) {
	d.t.Helper()
	want := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		want[pairs[i]] = pairs[i+1]
	}
	Eventually(d.t, fmt.Sprintf("results %.300q", want), func() bool {
		got, _, _ := d.Ended()
		return maps.Equal(got, want)
	})
}
