package worker

import (
	"context"
	"sync"
)

// A crew handles messages at the same time. Each of its goroutines handles one
// after the other.
type crew struct {
	*Worker
	ctx   context.Context // of the handlers
	next  chan *Message   // for a goroutine that has nothing to do; closed at the end
	size  int             // how many goroutines there are
	group sync.WaitGroup  // of these
}

// keepBody is the largest buffer that a message keeps for the next one.
const keepBody = 64 << 10

// messages are those that are handled at the same time. Each has bytes of its own.
var messages = sync.Pool{New: func() any { return new(Message) }}

// read hands out messages until the end of the input.
func (c *crew) read() error {
	for {
		if next, ok := c.in.next(); ok {
			m := messages.Get().(*Message)
			m.own(c.Worker, next)
			c.handOut(m)
		} else if err := c.in.fill(); err != nil {
			return err
		}
	}
}

// own is set with a copy of the bytes.
func (m *Message) own(w *Worker, i item) {
	kept := append(append(m.kept[:0], i.body...), i.meta...)
	n := len(i.body)
	m.set(w, item{tag: i.tag, body: kept[:n:n], meta: kept[n:]})
	m.kept = kept
}

// handOut gives a message to a goroutine without one, if possible. It waits while
// there are as many in hand as may be.
func (c *crew) handOut(m *Message) {
	select {
	case c.next <- m:
		return
	default:
	}
	if c.size == c.most() {
		c.next <- m
		return
	}
	c.size++
	c.group.Add(1)
	go func() { // ends when next is closed; serveMany waits for it
		defer c.group.Done()
		c.handle(m)
		for m := range c.next {
			c.handle(m)
		}
	}()
}

func (c *crew) handle(m *Message) {
	reply, err := c.call(c.ctx, m)
	_ = c.out.answer(m.answer(reply, err), false) // that it fails is known at the end of the input
	kept := m.kept[:0]
	if cap(kept) > keepBody {
		kept = nil
	}
	*m = Message{kept: kept}
	messages.Put(m)
}
