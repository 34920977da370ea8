package ipc

// slotBits are the bits of a tag that tell the place of the message, which is
// found without a search. The bits above count, so that a late answer is told from
// that of the next message in the same place.
const slotBits = 14

// tags are the messages that a worker has, by the numbers that it got with them.
type tags struct {
	open  []*Delivery // by place; nil: free
	free  []int
	count uint64
}

// add gives a message its number.
func (t *tags) add(d *Delivery) {
	var place int
	if n := len(t.free); n > 0 {
		place, t.free = t.free[n-1], t.free[:n-1]
	} else {
		place = len(t.open)
		t.open = append(t.open, nil)
	}
	t.open[place] = d
	t.count++
	d.number = t.count<<slotBits | uint64(place)
}

// find returns the message with a number, or nil.
func (t *tags) find(number uint64) *Delivery {
	place := int(number & (1<<slotBits - 1))
	if place >= len(t.open) || t.open[place] == nil || t.open[place].number != number {
		return nil
	}
	return t.open[place]
}

func (t *tags) remove(d *Delivery) {
	place := int(d.number & (1<<slotBits - 1))
	t.open[place] = nil
	t.free = append(t.free, place)
	d.number = 0
}
