package stream

import (
	"flag"
	"testing"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// Many tests here wait, for a limit or for the kernel, and compute nothing.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	m.Run()
}

// A world has a source on loopback.
type world struct {
	*ipctest.World
	src *listener
}

func newWorld(t testing.TB, params string, change func(*ipc.Config)) *world {
	t.Helper()
	return newWorldOn(t, "127.0.0.1:0", params, change)
}

// newWorldOn is newWorld with another address than loopback's.
func newWorldOn(t testing.TB, addr, params string, change func(*ipc.Config)) *world {
	t.Helper()
	w := &world{World: ipctest.NewWorld(t, change)}
	w.src = w.Serve(parsed(t, "tcp://"+addr+params).open).(*listener)
	return w
}

func (w *world) dial() *ipctest.Client {
	w.T.Helper()
	return w.dialTo(w.src.Addr().String())
}

func (w *world) dialTo(addr string) *ipctest.Client {
	w.T.Helper()
	return ipctest.Dial(w.T, "tcp", addr)
}

// parseURL reads the address of a stream.
func parseURL(s string) (*config, error) {
	a, ok := ipc.ParseAddress(s)
	switch {
	case ok && a.Scheme == "tcp":
		return parseTCP(a)
	case ok && a.Scheme == "unix":
		return parseUnix(a)
	}
	return nil, errShare
}

func parsed(t testing.TB, s string) *config {
	t.Helper()
	c, err := parseURL(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// open opens the source.
func (c *config) open(q *ipc.Queue, log zerolog.Logger) (ipc.Source, error) {
	if c.Scheme == "unix" {
		return c.openUnix(q, log)
	}
	return c.openTCP(q, log)
}
