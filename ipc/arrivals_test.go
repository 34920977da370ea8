package ipc

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/poolinit/poolinit/ipc/frame"
)

func TestArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := arrivals{limit: 10}
		var granted sync.Map // those of one release come in any order
		claim := func(name string, n int) {
			go func() { // ends when it is granted
				a.claim(n)
				granted.Store(name, true)
			}()
			synctest.Wait()
		}
		want := func(names string) {
			t.Helper()
			synctest.Wait()
			got := ""
			for _, name := range strings.Split("abcdef", "") {
				if _, ok := granted.Load(name); ok {
					got += name
				}
			}
			if got != names {
				t.Errorf("granted %s, want %s", got, names)
			}
		}
		claim("a", 6)
		claim("b", 4)
		claim("c", 5)  // has to wait
		claim("d", 1)  // would fit when b is gone, but c was first
		claim("e", 50) // alone, when all others are gone
		want("ab")
		a.release(4)
		want("ab")
		a.release(6)
		want("abcd")
		a.release(5)
		want("abcd")
		a.release(1)
		want("abcde")
		claim("f", 1)
		want("abcde")
		a.release(50)
		want("abcdef")
		if a.used != 1 || len(a.waiting) != 0 {
			t.Errorf("%d used, %d wait", a.used, len(a.waiting))
		}
	})
}

// However many clients send large messages to a queue that is full, only so many
// bytes of them are in memory as --queue-bytes allows; and then each is handled.
func TestLargeMessagesArriveInTurn(t *testing.T) {
	const clients, size = 40, 1 << 20
	w := newWorld(t, "?reply=always", func(c *Config) { c.Messages, c.Bytes = 2, 4<<20 })
	gate := make(chan bool)
	var all []*client
	for i := range clients {
		c := w.dial()
		all = append(all, c)
		go c.Write(frame.Append(nil, bytes.Repeat([]byte{byte(i)}, size))) // ends when it is read
	}
	eventually(t, "the queue is full and the rest waits", func() bool {
		n, _, _ := w.q.Depth()
		a := &w.q.arriving
		a.mu.Lock()
		defer a.mu.Unlock()
		return n == 2 && a.used > 3<<20 && len(a.waiting) >= clients-2-4
	})
	if held := w.q.arriving.held(); held > 4<<20 {
		t.Errorf("connections hold %d bytes", held)
	}
	w.worker(answering(func(b []byte) []byte { <-gate; return frame.Append(nil, b[:1]) }))
	close(gate)
	for i, c := range all {
		c.want(string([]byte{byte(i)}))
	}
	eventually(t, "nothing is claimed", func() bool { return w.q.arriving.held() == 0 })
}

// What was claimed is given back however a connection ends.
func TestClaimsEndWithTheirConnection(t *testing.T) {
	for name, end := range map[string]func(w *world, c *client){
		"client gone":   func(_ *world, c *client) { c.Close() },
		"partial":       func(*world, *client) {},
		"stopped":       func(w *world, c *client) { w.stopWithin(t, 0) },
		"too long next": func(_ *world, c *client) { c.Write(bytes.Repeat([]byte{0x7f}, 3<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "?reply=always&partial=1s", nil)
			w.worker(answering(echo))
			c := w.dial()
			c.Write(frame.Append(nil, make([]byte, 1<<20))[:100_000])
			eventually(t, "it is claimed", func() bool { return w.q.arriving.held() > 0 })
			end(w, c)
			eventually(t, "it is given back", func() bool { return w.q.arriving.held() == 0 })
		})
	}
}

func (a *arrivals) held() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used
}

// A large frame is not copied on its way, nor is what follows it lost.
func TestLargeFramesAmongSmallOnes(t *testing.T) {
	for _, params := range []string{"?reply=always", "?reply=always&once=true"} {
		w := newWorld(t, params, nil)
		w.worker(answering(echo))
		sizes := []int{0, 5, 16 << 10, 16<<10 - 4, 16<<10 - 3, 100_000, 1, 2 << 20, 2<<20 - 1, 3}
		if params != "?reply=always" {
			sizes = []int{2 << 20}
		}
		c := w.dial()
		var wire []byte
		for i, n := range sizes {
			wire = frame.Append(wire, bytes.Repeat([]byte{byte('a' + i)}, n))
		}
		go func(nc net.Conn) { // in odd pieces; ends when all is read
			for len(wire) > 0 {
				n := min(len(wire), 70_001)
				if _, err := nc.Write(wire[:n]); err != nil {
					return
				}
				wire = wire[n:]
			}
		}(c.Conn)
		for i, n := range sizes {
			if got := c.next(); got != string(bytes.Repeat([]byte{byte('a' + i)}, n)) {
				t.Fatalf("%s: message %d of %d bytes came back as %.20q... of %d", params, i, n, got, len(got))
			}
		}
	}
}
