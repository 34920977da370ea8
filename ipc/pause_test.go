package ipc_test

import (
	"fmt"
	"testing"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// Pauses come and go while a client sends more than the queue holds and workers
// fail at some of it: each message is answered once, in order.
func TestPausesUnderLoad(t *testing.T) {
	const all = 3000
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.QueueMessages, c.Attempts = 32, 1000 })
	failed := 0
	w.Worker(ipctest.Answering(ipctest.Echo))
	w.Worker(ipctest.Answering(func(body []byte) []byte {
		if failed++; failed%50 == 0 {
			return frame.AppendFailure(nil, "busy", "not this time")
		}
		return ipctest.Echo(body)
	}))
	over, done := make(chan struct{}), make(chan int)
	go func() { // ends with over
		n := 0
		for ; !ipctest.IsClosed(over); n++ {
			w.Q.Pause()
			if !w.Q.Paused() {
				t.Error("not paused")
			}
			w.Q.List(10)
			w.Q.Resume()
		}
		done <- n
	}()
	c := w.dial()
	sent := make(chan struct{})
	go func() { // ends with the connection
		defer close(sent)
		for i := range all {
			c.Send(fmt.Sprint(i))
		}
	}()
	for i := range all {
		c.Want(fmt.Sprint(i))
	}
	<-sent
	close(over)
	if n := <-done; n == 0 {
		t.Error("there was no pause")
	}
	if n, _, inFlight := w.Q.Depth(); n != 0 || inFlight != 0 {
		t.Errorf("%d wait, %d are in flight", n, inFlight)
	}
}
