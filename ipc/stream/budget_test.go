package stream

import (
	"bytes"
	"net"
	"testing"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// However many clients send large messages to a queue that is full, not more bytes
// of them are in memory than --queue-bytes allows; and then each is handled.
func TestLargeMessagesArriveInTurn(t *testing.T) {
	const clients, size = 40, 1 << 20
	w := newWorld(t, "?reply=always", func(c *ipc.Config) { c.QueueMessages, c.QueueBytes = 2, 4<<20 })
	gate := make(chan bool)
	var all []*ipctest.Client
	for i := range clients {
		c := w.dial()
		all = append(all, c)
		go c.Write(frame.Append(nil, bytes.Repeat([]byte{byte(i)}, size))) // ends when it is read
	}
	ipctest.Eventually(t, "the queue is full and the rest waits", func() bool {
		n, _, _ := w.Q.Depth()
		used, waiting := w.Q.Budget().Depth()
		return n == 2 && used > 3<<20 && waiting >= clients-2-4
	})
	if held := w.held(); held > 4<<20 {
		t.Errorf("connections hold %d bytes", held)
	}
	w.Worker(ipctest.Answering(func(b []byte) []byte { <-gate; return frame.Append(nil, b[:1]) }))
	close(gate)
	for i, c := range all {
		c.Want(string([]byte{byte(i)}))
	}
	ipctest.Eventually(t, "nothing is claimed", func() bool { return w.held() == 0 })
}

// What was claimed is given back however a connection ends.
func TestClaimsEndWithTheirConnection(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *world, c *ipctest.Client){
		"client gone":   func(_ *world, c *ipctest.Client) { c.Close() },
		"partial":       func(*world, *ipctest.Client) {},
		"stopped":       func(w *world, c *ipctest.Client) { w.stopWithin(t, 0); w.src.Close() },
		"too long next": func(_ *world, c *ipctest.Client) { c.Write(bytes.Repeat([]byte{0x7f}, 3<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "?reply=always&partial=1s", nil)
			w.Worker(ipctest.Answering(ipctest.Echo))
			c := w.dial()
			c.Write(frame.Append(nil, make([]byte, 1<<20))[:100_000])
			ipctest.Eventually(t, "it is claimed", func() bool { return w.held() > 0 })
			end(w, c)
			ipctest.Eventually(t, "it is given back", func() bool { return w.held() == 0 })
		})
	}
}

// held returns how many bytes of large messages are on their way.
func (w *world) held() int {
	bytes, _ := w.Q.Budget().Depth()
	return bytes
}

// A large frame is not copied on its way, nor is what follows it lost.
func TestLargeFramesAmongSmallOnes(t *testing.T) {
	for _, params := range []string{"?reply=always", "?reply=always&once=true"} {
		w := newWorld(t, params, nil)
		w.Worker(ipctest.Answering(ipctest.Echo))
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
			if got := c.Next(); got != string(bytes.Repeat([]byte{byte('a' + i)}, n)) {
				t.Fatalf("%s: message %d of %d bytes came back as %.20q... of %d", params, i, n, got, len(got))
			}
		}
	}
}
