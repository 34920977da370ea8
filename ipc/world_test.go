package ipc_test

import (
	"strings"
	"testing"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/ipctest"
	"github.com/poolinit/poolinit/ipc/sources"
)

// A world has a source on loopback.
type world struct {
	*ipctest.World
	src ipc.Source
}

func newWorld(t testing.TB, params string, change func(*ipc.Config)) *world {
	t.Helper()
	w := &world{World: ipctest.NewWorld(t, change)}
	u, err := sources.Parse("tcp://127.0.0.1:0" + params)
	if err != nil {
		t.Fatal(err)
	}
	w.src = w.Serve(u.Open)
	return w
}

func (w *world) dial() *ipctest.Client {
	w.T.Helper()
	return ipctest.Dial(w.T, "tcp", strings.TrimPrefix(w.src.Stats().Name, "tcp://"))
}
