package netio

import "testing"

// A buffer has room for what was asked for, and is used again; of large ones only a
// few are kept.
func TestBuffers(t *testing.T) {
	for _, n := range []int{0, 1, 512, 513, 64<<10 - 1, 64 << 10, 64<<10 + 1, 4 << 20, 4<<20 + 1} {
		b := GetBuffer(n)
		if len(b) != 0 || cap(b) < n {
			t.Errorf("GetBuffer(%d) has %d of %d", n, len(b), cap(b))
		}
		PutBuffer(append(b, make([]byte, n)...))
	}
	PutBuffer(nil)
	PutBuffer(make([]byte, 100<<10)) // not one of these
	var all [][]byte
	for range 100 {
		all = append(all, GetBuffer(1<<20))
	}
	for _, b := range all {
		PutBuffer(b)
	}
	if kept := largeBuffers.bytes; kept > 8<<20 || kept < 4<<20 {
		t.Errorf("%d bytes of large buffers are kept", kept)
	}
	again := 0
	for range 100 {
		b := GetBuffer(1 << 20)
		for _, was := range all {
			if &was[:1][0] == &b[:1][0] {
				again++
			}
		}
	}
	if again < 3 || again > 8 {
		t.Errorf("%d were used again", again)
	}
}
