package ipc

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/ipc/frame"
)

// Replies that come in any order go out in that of the messages, and hold memory
// only until then.
func TestReplies(t *testing.T) {
	var (
		r     Replies
		flow  = NewFlow(&Lane{Source: new(SourceStats)})
		all   []*Delivery
		order string
	)
	const letters = "abcdefghijklmnopqrstuvwxyz"
	for _, name := range strings.Split(letters, "") {
		d := NewDelivery(nil, &flow, []byte(name))
		all = append(all, d)
		r.Expect([]*Delivery{d})
	}
	for _, i := range rand.Perm(len(all)) {
		body := string(all[i].Body())
		reply := frame.Append(nil, []byte(body))
		if !r.Settle(all[i], reply) {
			clear(reply) // it is valid during the call only
			continue
		}
		for d := all[i]; d != nil; {
			order += string(frame.Body(reply))
			d, reply = r.Next()
		}
	}
	if order != letters || r.Len() != 0 || r.Held() != 0 {
		t.Errorf("%s, %d to come, %d bytes held", order, r.Len(), r.Held())
	}
}

// A loop that was stopped before it began never does.
func TestLoop(t *testing.T) {
	l := NewLoop()
	l.Stop()
	l.Stop()
	<-l.Ended()
	if l.Begin() || !l.IsStopped() {
		t.Error("it begins")
	}
	l = NewLoop()
	if !l.Begin() || l.IsStopped() {
		t.Error("it does not begin")
	}
	l.Stop()
	<-l.Stopped()
	select {
	case <-l.Ended():
		t.Error("it has ended by itself")
	default:
	}
	l.End()
	<-l.Ended()
}
