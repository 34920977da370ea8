package daemon

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
)

// A pool that stops is not paused, whichever comes first; and who asks is in the log.
func TestPauseAndStop(t *testing.T) {
	var text bytes.Buffer
	log := zerolog.New(&text)
	in := &intake{queue: ipc.NewQueue(ipc.Config{}, log), log: log}
	r := newRequests(nil, nil, time.Second, Signals{}, log)
	o := &operator{r, in.queue, log}
	if err := o.Pause("poolinit pause (x)"); err != nil || !in.queue.Paused() {
		t.Errorf("%v, paused %v", err, in.queue.Paused())
	}
	if err := o.Resume("poolinit resume (x)"); err != nil || in.queue.Paused() {
		t.Errorf("%v, paused %v", err, in.queue.Paused())
	}
	if err := o.Pause("poolinit pause (x)"); err != nil {
		t.Error(err)
	}
	r.deadline = time.Now() // as the stop sets it
	in.resume()
	if in.queue.Paused() {
		t.Error("the stop does not end the pause")
	}
	if err := o.Pause("poolinit pause (late)"); err != errStopping || in.queue.Paused() {
		t.Errorf("%v, paused %v", err, in.queue.Paused())
	}
	for _, want := range []string{
		`"why":"poolinit pause (x)","message":"paused, handing out no messages"`,
		`"why":"poolinit resume (x)","message":"resumed, handing out messages"`,
		`"why":"the pool is stopping","message":"resumed, handing out messages"`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%s is not in\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "late") {
		t.Errorf("the log says what was not done:\n%s", text.String())
	}
}

// Without a message source there is nothing to pause or to list.
func TestOperatorWithoutMessages(t *testing.T) {
	o := &operator{requests: newRequests(nil, nil, time.Second, Signals{}, zerolog.Nop())}
	_, list := o.Queue(1)
	_, drop := o.Drop([]uint64{1}, "x")
	for what, err := range map[string]error{"pause": o.Pause("x"), "resume": o.Resume("x"), "list": list, "drop": drop} {
		if err != errNoMessages {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An ending is an origin that notes the last reply.
type ending string

func (e *ending) Settled(d *ipc.Delivery, reply []byte) { *e = ending(reply[4:]); d.Release() }
func (e *ending) Flush()                                {}

func TestOperatorQueue(t *testing.T) {
	q := ipc.NewQueue(ipc.Config{QueueMessages: 10, QueueBytes: 1000, Attempts: 1}, zerolog.Nop())
	o := &operator{newRequests(nil, nil, time.Second, Signals{}, zerolog.Nop()), q, zerolog.Nop()}
	if l, err := o.Queue(5); err != nil || l.Messages == nil || len(l.Messages) != 0 || l.More != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	flow := ipc.NewFlow(&ipc.Lane{Source: &ipc.SourceStats{Name: "tcp://x:1"}})
	var end ending
	for range 3 {
		q.Submit([]*ipc.Delivery{ipc.NewDelivery(&end, &flow, []byte("body"))})
	}
	l, err := o.Queue(2)
	if err != nil || len(l.Messages) != 2 || l.More != 1 || l.Messages[1].ID != 2 || l.Messages[0].Source != "tcp://x:1" || l.Messages[0].Bytes != 4 {
		t.Errorf("%+v, %v", l, err)
	}
	if n, err := o.Drop([]uint64{2, 17}, "x"); n != 1 || err != nil || !strings.HasPrefix(string(end), "given-up: ") {
		t.Errorf("%d, %v, %q", n, err, end)
	}
	q.Close()
}
