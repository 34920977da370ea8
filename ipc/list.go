package ipc

// A list is a queue of deliveries.
type list struct {
	head, tail *Delivery
	n          int
	bytes      int // see Delivery.Size
}

func (l *list) push(d *Delivery) {
	d.next, d.prev = nil, l.tail
	if l.tail == nil {
		l.head = d
	} else {
		l.tail.next = d
	}
	l.tail = d
	l.n++
	l.bytes += d.Size()
}

func (l *list) pop() *Delivery {
	d := l.head
	l.head = d.next
	if l.head == nil {
		l.tail = nil
	} else {
		l.head.prev = nil
	}
	d.next = nil
	l.n--
	l.bytes -= d.Size()
	return d
}

// remove takes out a message that is in the list.
func (l *list) remove(d *Delivery) {
	if d.prev == nil {
		l.head = d.next
	} else {
		d.prev.next = d.next
	}
	if d.next == nil {
		l.tail = d.prev
	} else {
		d.next.prev = d.prev
	}
	d.next, d.prev = nil, nil
	l.n--
	l.bytes -= d.Size()
}

// prepend puts all of another list before this one, and empties it.
func (l *list) prepend(o *list) {
	if o.head == nil {
		return
	}
	o.tail.next = l.head
	if l.head == nil {
		l.tail = o.tail
	} else {
		l.head.prev = o.tail
	}
	l.head = o.head
	l.n += o.n
	l.bytes += o.bytes
	*o = list{}
}
