package ipc

// An aside is messages that wait in the queue and do not count for its limits,
// because their client has to read replies before they are handed out: however
// long that takes, others have all the room that there is.
type aside struct {
	n      int
	bytes  int // as the queue counts them
	memory int
}

func (a *aside) add(d *Delivery) {
	d.isAside = true
	a.n++
	a.bytes += d.Size()
	a.memory += d.holds()
}

func (a *aside) remove(d *Delivery) {
	d.isAside = false
	a.n--
	a.bytes -= d.Size()
	a.memory -= d.holds()
}

// hold takes the messages of a flow out of their turn. It reports whether there was
// memory to put all of them aside.
func (b *backlog) hold(f *Flow) (kept bool) {
	t := f.turn
	if f.isHeld || t == nil || t.list.n == 0 {
		f.isHeld = true
		return true
	}
	b.ringOf(t).remove(t)
	f.isHeld = true
	b.held.push(t)
	b.ready -= t.list.n
	b.noteEmpty(f.lane.Priority)
	for d := t.list.tail; d != nil && !d.isAside; d = d.prev { // those before it were put aside earlier
		if b.aside.memory+d.holds() > b.maxAside {
			return false
		}
		b.aside.add(d)
	}
	return true
}

// unhold gives a flow its turns back. What is aside stays so until it is handed out.
func (b *backlog) unhold(f *Flow) {
	t := f.turn
	if !f.isHeld || t == nil || t.list.n == 0 {
		f.isHeld = false
		return
	}
	b.held.remove(t)
	f.isHeld = false
	b.ringOf(t).push(t)
	b.ready += t.list.n
	b.some |= 1 << f.lane.Priority
}

// noteEmpty notes that a level may have no messages any more.
func (b *backlog) noteEmpty(priority int) {
	if l := &b.levels[priority]; l.again.n == 0 && l.ring.first == nil {
		b.some &^= 1 << priority
	}
}

// ringOf returns the ring where a flow with messages is.
func (b *backlog) ringOf(t *turn) *ring {
	if t.flow.isHeld {
		return &b.held
	}
	return &b.levels[t.flow.lane.Priority].ring
}
