package ipctest

import (
	"net"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A TaggedWorker is a worker's end that the test plays by hand.
type TaggedWorker struct {
	net.Conn
	*ipc.Channel
	w *World
}

// NewTagged returns a worker that is fed from now on. The test closes it, or the
// world.
func (w *World) NewTagged(worker int) *TaggedWorker {
	w.T.Helper()
	c, sock := w.NewChannel(worker)
	w.chans = append(w.chans, c)
	w.T.Cleanup(func() { sock.Close() })
	return &TaggedWorker{Conn: sock, Channel: c, w: w}
}

// Close ends the worker's process, so to speak: its end of the socket.
func (t *TaggedWorker) Close() error { return t.Conn.Close() }

// Next returns the next frame that the worker gets.
func (t *TaggedWorker) Next() frame.Tagged {
	t.w.T.Helper()
	f, err := frame.ReadTagged(t.Conn, frame.MaxTaggedBody)
	if err != nil {
		t.w.T.Fatal(err)
	}
	return f
}

// Take returns the next n frames by their bodies.
func (t *TaggedWorker) Take(n int) map[string]frame.Tagged {
	t.w.T.Helper()
	all := make(map[string]frame.Tagged)
	for range n {
		f := t.Next()
		all[string(f.Body)] = f
	}
	return all
}

// Say writes a frame.
func (t *TaggedWorker) Say(f frame.Tagged) {
	t.w.T.Helper()
	if _, err := t.Write(frame.AppendTagged(nil, f)); err != nil {
		t.w.T.Fatal(err)
	}
}

// Answer answers a message with text, or as a failure.
func (t *TaggedWorker) Answer(f frame.Tagged, text string, failed bool) {
	t.w.T.Helper()
	t.Say(frame.Tagged{Tag: f.Tag, Failed: failed, Body: []byte(text)})
}
