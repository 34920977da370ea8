package ipc

// A Holding is what is known of the message that a worker has in hand.
type Holding struct {
	ID      uint64 // counts from 1 at poolinit's start
	Attempt int    // counts from 1
	Source  string // the name of its source
}

// InHand returns what is known of the oldest message that the worker has not
// answered, unless it has answered all.
func (c *Channel) InHand() (h Holding, ok bool) {
	c.q.mu.Lock()
	defer c.q.mu.Unlock()
	d := c.flight.head
	if d == nil {
		return Holding{}, false
	}
	return Holding{d.id, d.Attempt(), d.source.Name}, true
}

// HandBack takes back what the worker has in hand, without counting it as an
// attempt: it could not even begin. It gets no more.
func (c *Channel) HandBack() {
	q := c.q
	q.mu.Lock()
	defer q.mu.Unlock()
	c.serving = false
	c.settle()
	flight := c.flight
	c.flight = list{}
	if flight.n > 0 {
		c.rested(now())
	}
	q.flying -= flight.n
	for d := flight.head; d != nil; d = d.next {
		d.last = nil
	}
	q.again(&flight)
}
