package ipc_test

import (
	"net"
	"testing"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// Whatever a worker writes, poolinit goes on, and each of the worker's messages ends
// as handled, failed, or waiting for another worker.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02ok\x80\x00\x00\x09refused: "), uint8(0), uint16(3))
	f.Add([]byte("\x00\x20\x00\x00too long to be kept"), uint8(0), uint16(100))
	f.Add([]byte("a line\n\nanother one"), uint8(1), uint16(4))
	f.Add(frame.AppendTagged(nil, frame.Tagged{Tag: 1, Meta: []byte(`{"type":"a/b"}`), Body: []byte("ok")}), uint8(2), uint16(5))
	f.Add(frame.AppendTagged(nil, frame.Tagged{Body: []byte(`{"touch":1}`)}), uint8(2), uint16(50))
	f.Add(frame.AppendTagged(nil, frame.Tagged{Tag: 2, Body: make([]byte, 80_000)}), uint8(2), uint16(9999))
	formats := []ipc.Format{ipc.Frames, ipc.Lines, ipc.Tagged}
	f.Fuzz(func(t *testing.T, written []byte, format uint8, piece uint16) {
		w := ipctest.NewWorld(t, func(c *ipc.Config) {
			c.Format, c.Window, c.Concurrency, c.ReplyBytes, c.Attempts = formats[int(format)%len(formats)], 3, 2, 100_000, 1
		})
		desk := w.NewDesk(nil)
		c, sock := w.NewChannel(0)
		c.Serve(true, time.Time{})
		desk.Send("a", "b", "c")
		go discard(sock)                                       // ends with the socket
		_ = sock.SetWriteDeadline(time.Now().Add(time.Second)) // after a protocol fault nothing reads
		for rest := written; len(rest) > 0; {
			n := min(len(rest), max(1, int(piece), len(written)/1000))
			if _, err := sock.Write(rest[:n]); err != nil {
				break // it broke the protocol
			}
			rest = rest[n:]
		}
		sock.Close()
		c.Close("the worker is gone")
		waiting, _, flying := w.Q.Depth()
		ended, _, _ := desk.Ended()
		if flying != 0 || waiting+len(ended) != 3 {
			t.Errorf("%d wait, %d are in flight, %d have ended", waiting, flying, len(ended))
		}
		if owed := w.Q.Debts().Total(); owed != 0 {
			t.Errorf("%d bytes are owed", owed)
		}
	})
}

// discard reads all that a worker is given.
func discard(sock net.Conn) {
	b := make([]byte, 4<<10)
	for {
		if _, err := sock.Read(b); err != nil {
			return
		}
	}
}
