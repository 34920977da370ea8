package ipc

import "testing"

// A flow that waits for room hears of it when there is room for as many messages
// as one turn has, and not more than it has itself: its messages stay together,
// and so do their replies. With slow workers one place is enough.
func TestRoomForATurn(t *testing.T) {
	for _, tt := range []struct {
		name              string
		turn, left, freed int // messages
		granted           int // 0: it waits on
	}{
		{"slow workers", 1, 32, 1, 1},
		{"slow workers, more room", 1, 32, 9, 1},
		{"fast workers, too little", 32, 32, 31, 0},
		{"fast workers", 32, 32, 32, 32},
		{"fast workers, few messages", 32, 5, 5, 5},
		{"fast workers, few messages, too little", 32, 5, 4, 0},
		{"not more than an eighth of the queue", 64, 64, 32, 32},
	} {
		q, _ := backlogOf(t, 256, 1)
		b := &q.backlog
		b.turnLength = tt.turn
		flow := NewFlow(&Lane{Source: new(SourceStats)})
		var batch []*Delivery
		for range tt.left {
			batch = append(batch, NewDelivery(new(endings), &flow, []byte("body")))
		}
		if n := q.Submit(batch); n != 0 {
			t.Fatalf("%s: a full queue took %d", tt.name, n)
		}
		room := q.Room(&flow)
		for range tt.freed {
			b.takeNew(b.heads()[0])
		}
		q.wake()
		got := flow.turn.granted
		if got != tt.granted {
			t.Errorf("%s: told of %d places, want %d", tt.name, got, tt.granted)
		}
		select {
		case <-room:
			if got == 0 {
				t.Errorf("%s: told of room, but of none", tt.name)
			}
		default:
			if got > 0 {
				t.Errorf("%s: places are kept, but it was not told", tt.name)
			}
		}
		if n := q.Submit(batch); n < got || got > 0 && flow.turn == nil && b.granted != 0 {
			t.Errorf("%s: took %d of %d, and keeps %d", tt.name, n, got, b.granted)
		}
	}
}

// A fast worker that has most of its window in hand does not get a part of a turn.
func TestTurnsAreNotSplit(t *testing.T) {
	for _, tt := range []struct {
		name                         string
		window, inHand, waiting, run int
		again, want                  bool
	}{
		{"no room for all of it", 64, 40, 32, 0, false, true},
		{"room for all of it", 64, 32, 32, 0, false, false},
		{"a short one", 64, 54, 10, 0, false, false},
		{"the rest of one", 64, 40, 32, 8, false, false},
		{"nothing in hand", 64, 0, 99, 0, false, false},
		{"slow workers", 2, 1, 99, 0, false, false},
		{"a message that is delivered again goes first", 64, 40, 32, 0, true, false},
	} {
		q, _ := backlogOf(t, tt.waiting+tt.inHand+1, 1)
		c := &Channel{q: q, proven: true, win: window{size: tt.window}}
		b := &q.backlog
		take := func() *Delivery {
			d := b.heads()[0]
			b.takeNew(d)
			return d
		}
		for range tt.inHand {
			c.flight.push(take())
		}
		d := take()
		if tt.again {
			b.pushAgain(d, true)
		}
		b.levels[0].ring.first.run = tt.run
		if got := b.wouldSplit(c); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}
