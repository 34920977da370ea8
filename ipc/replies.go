package ipc

// Replies bring the replies of one client into the order of its messages. A
// reply that comes too early waits in its Delivery. The owner's mutex guards
// them.
type Replies struct {
	head, tail *Delivery // the messages that are not answered, oldest first
	n          int
	held       int
}

// Expect notes messages that are about to be submitted.
func (r *Replies) Expect(batch []*Delivery) {
	for _, d := range batch {
		d.follows = nil
		if r.tail == nil {
			r.head = d
		} else {
			r.tail.follows = d
		}
		r.tail = d
	}
	r.n += len(batch)
}

// Settle notes a reply, and reports whether it is the next one for the client.
// If so, Next must follow when the reply is written.
func (r *Replies) Settle(d *Delivery, reply []byte) (next bool) {
	if d == r.head {
		return true
	}
	d.keepReply(reply)
	r.held += d.holds()
	return false
}

// Drop is Settle of a client that does not get replies any more.
func (r *Replies) Drop(d *Delivery) (next bool) {
	if d == r.head {
		return true
	}
	d.dropReply()
	r.held += d.holds()
	return false
}

// DropAll drops what waits for an earlier reply.
func (r *Replies) DropAll() {
	r.held = 0
	for d := r.head; d != nil; d = d.follows {
		if d.done {
			d.dropReply()
			r.held += d.holds()
		}
	}
}

// Next removes the oldest message, whose reply is written, and returns the one after
// it with its reply if that waits, or nil. Both are valid until the next call.
func (r *Replies) Next() (d *Delivery, reply []byte) {
	d = r.head
	if r.head = d.follows; r.head == nil {
		r.tail = nil
	}
	r.n--
	d.Release()
	if r.head == nil || !r.head.done {
		return nil, nil
	}
	r.held -= r.head.holds()
	return r.head, r.head.frame
}

// Len is how many messages are not answered.
func (r *Replies) Len() int { return r.n }

// Held is how many bytes of memory the replies take that wait for an earlier one.
func (r *Replies) Held() int { return r.held }
