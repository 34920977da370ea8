package stream

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/poolinit/poolinit/ipc/ipctest"
)

// It is always the youngest one of a host that has most of them that makes room,
// whatever has come and gone before.
func TestNewcomers(t *testing.T) {
	type known struct {
		n    *newcomer
		host netip.Addr
	}
	var (
		s    newcomers
		all  []known // the oldest first
		addr = func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(rand.IntN(5))}) }
	)
	forget := func(i int) { all = slices.Delete(all, i, i+1) }
	for range 20_000 {
		switch what := rand.IntN(10); {
		case what < 5:
			c, from := new(conn), addr()
			all = append(all, known{s.add(c, from), from})
		case what < 8 && len(all) > 0:
			i := rand.IntN(len(all))
			s.remove(all[i].n)
			s.remove(all[i].n) // again: of no effect
			forget(i)
		case what == 8:
			count, most := map[netip.Addr]int{}, 0
			for _, k := range all {
				count[k.host]++
				most = max(most, count[k.host])
			}
			c := s.take()
			i := slices.IndexFunc(all, func(k known) bool { return k.n.conn == c })
			if (c == nil) != (len(all) == 0) {
				t.Fatalf("%v of %d", c, len(all))
			}
			if c == nil {
				continue
			}
			for _, k := range all[i+1:] {
				if k.host == all[i].host {
					t.Fatal("there is a younger one")
				}
			}
			if count[all[i].host] != most {
				t.Fatalf("its host has %d, another one %d", count[all[i].host], most)
			}
			forget(i)
		case rand.IntN(500) == 0:
			for s.take() != nil {
			}
			all = nil
		}
	}
	for s.take() != nil {
	}
	if len(s.hosts) != 0 || s.most != 0 {
		t.Errorf("%d hosts are left, most is %d", len(s.hosts), s.most)
	}
}

func TestHostOf(t *testing.T) {
	for in, want := range map[string]string{"10.1.2.3": "10.1.2.3", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "fe80::1%eth0": "fe80::"} {
		if got := hostOf(netip.MustParseAddr(in)); got.String() != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := hostOf(netip.Addr{}); got.IsValid() {
		t.Errorf("a unix socket has the host %s", got)
	}
}

// dialFrom connects from another address of loopback.
func (w *world) dialFrom(host string) *ipctest.Client {
	w.T.Helper()
	from := &net.TCPAddr{IP: net.ParseIP(host)}
	nc, err := (&net.Dialer{LocalAddr: from}).Dial("tcp", w.src.Addr().String())
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { nc.Close() })
	return ipctest.NewClient(w.T, nc)
}

// Connections that send nothing, or not a whole message, keep nobody out.
func TestNewcomersMakeRoom(t *testing.T) {
	t.Parallel()
	for _, params := range []string{"?reply=always&connections=20", "?once=true&connections=20"} {
		w := newWorld(t, params, nil)
		w.Worker(ipctest.Answering(ipctest.Echo))
		quiet := w.dialFrom("127.0.0.3") // the only one of its host
		var known *ipctest.Client
		if !w.src.url.once {
			known = w.dialFrom("127.0.0.2")
			known.Send("a")
			known.Want("a")
		}
		for i := range 30 {
			if _, err := w.dial().Write([]byte{0, 0, 0, 3, 'x'}[:1+i%5]); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 50 {
			c := w.dialFrom(fmt.Sprintf("127.0.0.%d", 1+i%2))
			c.Send("in")
			c.Want("in")
			c.Close() // known by now, it would keep its place
		}
		if known != nil {
			known.Send("b")
			known.Want("b")
		}
		quiet.Send("c")
		quiet.Want("c")
		if n := w.src.stats.Connections.Load(); n > 20+maxLeaving {
			t.Errorf("%d connections", n)
		}
		if w.src.stats.TurnedAway.Load() == 0 {
			t.Error("none is counted")
		}
	}
}

// Half a handshake of TLS is less than a message.
func TestHandshakesMakeRoom(t *testing.T) {
	t.Parallel()
	w, ca := tlsWorld(t, "&reply=always&connections=20", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	known := w.dialTLS(ca, nil)
	known.Send("a")
	known.Want("a")
	for range 30 {
		if _, err := io.WriteString(w.dial().Conn, "\x16\x03\x01"); err != nil {
			t.Fatal(err)
		}
	}
	c := w.dialTLS(ca, &tls.Config{})
	c.Send("in")
	c.Want("in")
	known.Send("b")
	known.Want("b")
}
