package stream

import (
	"strings"
	"testing"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// A message that no worker gets within expires= is answered, plain or tagged.
func TestExpires(t *testing.T) {
	t.Parallel()
	plain := newWorld(t, "?reply=always&expires=50ms", nil).dial()
	plain.Send("late")
	if got := plain.Next(); !strings.HasPrefix(got, "!expired: ") {
		t.Errorf("%q", got)
	}
	c := newWorld(t, "?tagged=true&expires=50ms", nil).dialTagged()
	c.write(hello, tagged(7, "late"))
	c.want(helloAnswer)
	if got := c.next(); !strings.HasPrefix(got, "7 !expired: ") {
		t.Errorf("%q", got)
	}
}

// The messages of a source with a higher priority= go first.
func TestPriority(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.Window = 1 })
	urgent := w.Serve(parsed(t, "tcp://127.0.0.1:0?reply=always&priority=1").open).(*listener)
	gate := make(chan bool)
	var got ipctest.Collector
	w.Worker(ipctest.Answering(func(b []byte) []byte {
		<-gate
		got.Add(b)
		return frame.Append(nil, nil)
	}))
	ordinary := w.dial()
	ordinary.Send("in hand", "a", "b")
	ipctest.Eventually(t, "two wait", func() bool { waiting, _, n := w.Q.Depth(); return waiting == 2 && n == 1 })
	w.dialTo(urgent.Addr().String()).Send("urgent 1", "urgent 2")
	ipctest.Eventually(t, "four wait", func() bool { waiting, _, _ := w.Q.Depth(); return waiting == 4 })
	close(gate)
	got.Expect(t, "in hand", "urgent 1", "urgent 2", "a", "b")
}
