package stream

import "net/netip"

// newcomers are the connections that no whole frame has come by yet. When all
// places are taken, one of them makes room for the next connection: the youngest
// one of the host that has most of them. So a host that takes places and sends
// nothing takes them from itself. Whatever is done takes the same time however many
// there are. The listener's mutex guards them.
type newcomers struct {
	hosts  map[netip.Addr]*host
	byMany []*host // lists of hosts, by how many newcomers they have
	most   int     // the longest that is not empty; 0: all are
}

// A host is an address, or a network of IPv6, which one client has for itself.
type host struct {
	addr       netip.Addr
	n          int
	youngest   *newcomer
	next, prev *host // of those with as many
}

// A newcomer is one of the connections.
type newcomer struct {
	conn           *conn
	host           *host // nil: it is not one of them any more
	older, younger *newcomer
}

// hostOf returns the address that stands for a peer's host.
func hostOf(peer netip.Addr) netip.Addr {
	if peer.Is6() {
		prefix, _ := peer.WithZone("").Prefix(64) // no error for such an address
		return prefix.Addr()
	}
	return peer
}

// add adds a connection, the youngest one.
func (s *newcomers) add(c *conn, peer netip.Addr) *newcomer {
	addr := hostOf(peer)
	h := s.hosts[addr]
	if h == nil {
		if s.hosts == nil {
			s.hosts = make(map[netip.Addr]*host)
		}
		h = &host{addr: addr}
		s.hosts[addr] = h
	}
	n := &newcomer{conn: c, host: h, older: h.youngest}
	if n.older != nil {
		n.older.younger = n
	}
	h.youngest = n
	s.move(h, h.n+1)
	return n
}

// remove removes a connection, if it is still there.
func (s *newcomers) remove(n *newcomer) {
	h := n.host
	if h == nil {
		return
	}
	n.host = nil
	if n.younger == nil {
		h.youngest = n.older
	} else {
		n.younger.older = n.older
	}
	if n.older != nil {
		n.older.younger = n.younger
	}
	s.move(h, h.n-1)
}

// take removes the connection that has to make room, and returns it, or nil.
func (s *newcomers) take() *conn {
	if s.most == 0 {
		return nil
	}
	n := s.byMany[s.most].youngest
	s.remove(n)
	return n.conn
}

// move notes that a host has n newcomers now, one more or less than before.
func (s *newcomers) move(h *host, n int) {
	if h.n > 0 {
		if h.prev == nil {
			s.byMany[h.n] = h.next
		} else {
			h.prev.next = h.next
		}
		if h.next != nil {
			h.next.prev = h.prev
		}
	}
	h.n = n
	if n == 0 {
		delete(s.hosts, h.addr)
	} else {
		for len(s.byMany) <= n {
			s.byMany = append(s.byMany, nil)
		}
		if h.prev, h.next = nil, s.byMany[n]; h.next != nil {
			h.next.prev = h
		}
		s.byMany[n] = h
	}
	for s.most = max(s.most, n); s.most > 0 && s.byMany[s.most] == nil; s.most-- {
	}
}
