package ipc

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc/netio"
)

// A listener is a source of stream connections, tcp and unix.
type listener struct {
	url        *URL
	queue      *Queue
	log        zerolog.Logger
	maxMessage int
	certs      *certificates // nil: no TLS

	addr       net.Addr
	accepts    *acceptor
	slow       bool // reading and closing a connection may take long: see refuseFiles
	stats      SourceStats
	draining   atomic.Bool
	drainBegan atomic.Int64 // a time.Duration; 0: not yet
	readers    sync.WaitGroup
	complain   *rated

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// newListener takes a bound socket over.
func newListener(u *URL, q *Queue, log zerolog.Logger, ln net.Listener) (*listener, error) {
	defer ln.Close()
	file, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return nil, err
	}
	l := &listener{
		url: u, queue: q, log: log, addr: ln.Addr(), maxMessage: q.cfg.MaxMessage,
		conns: make(map[*conn]struct{}), complain: newRated(log),
	}
	if l.accepts, err = newAcceptor(file, l.welcome); err != nil {
		return nil, err
	}
	if u.once {
		l.accepts.deferUntilData()
	}
	if u.Scheme == "unix" {
		l.slow = !l.accepts.refuseFiles()
	}
	l.stats.Name = boundName(u, ln.Addr())
	return l, nil
}

// boundName is what a source is called: as it was written, but with the port that the
// kernel has chosen instead of port 0.
func boundName(u *URL, addr net.Addr) string {
	host, chosen := strings.CutSuffix(u.Name, ":0")
	if tcp, ok := addr.(*net.TCPAddr); ok && chosen {
		return host + ":" + strconv.Itoa(tcp.Port)
	}
	return u.Name
}

// Addr returns the address that was bound.
func (l *listener) Addr() net.Addr { return l.addr }

// Stats implements Source.
func (l *listener) Stats() *SourceStats { return &l.stats }

// acceptPause is how long accepting rests when the system refuses: it is out of
// descriptors or memory, which only time mends.
const acceptPause = 20 * time.Millisecond

// Serve implements Source.
func (l *listener) Serve() {
	for {
		err := l.accepts.accept()
		switch {
		case err == nil:
		case l.accepts.isShut():
			return
		default:
			l.complain.warn("cannot accept connections", err.Error())
			time.Sleep(acceptPause)
		}
	}
}

// welcome begins to serve a connection, or closes it at once if it is one too
// many or not allowed.
func (l *listener) welcome(fd int, peer netip.Addr) {
	l.stats.Accepted.Add(1)
	if why := l.unwelcome(peer); why != "" {
		l.stats.TurnedAway.Add(1)
		l.complain.warn("connections closed at once", why)
		if l.slow {
			go unix.Close(fd) // ends when what is attached to it has been closed
		} else {
			netio.Close(fd)
		}
		return
	}
	l.stats.Connections.Add(1)
	switch {
	case l.certs != nil:
		l.serveTLS(fd)
	case l.url.once && !l.slow:
		l.serveOnce(fd)
	default:
		file := os.NewFile(uintptr(fd), "connection")
		raw, _ := file.SyscallConn() // fails for a nil file only
		l.readers.Go(l.enter(newConn(l, file, raw, raw, nil)).serve)
	}
}

// enter notes a connection that is open.
func (l *listener) enter(c *conn) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
	return c
}

// serveOnce serves a connection for one message. If that has arrived already,
// as it mostly has, it is handed over right here: no goroutine, no poller.
func (l *listener) serveOnce(fd int) {
	s := netio.NewLate(fd)
	raw := s.Raw()
	c := l.enter(newConn(l, s, raw, raw, nil))
	if !c.in.FillNow() || !c.arrivedOnce() {
		l.readers.Go(c.serve)
	}
}

func (l *listener) unwelcome(peer netip.Addr) string {
	if l.stats.Connections.Load() >= int64(l.url.connections) {
		return "there are as many as connections= allows"
	}
	if len(l.url.allow) > 0 && !l.url.allows(peer) {
		return "allow= does not name the address"
	}
	return ""
}

// gone is called by a connection that was closed.
func (l *listener) gone(c *conn) {
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
	l.stats.Connections.Add(-1)
}

func (l *listener) isDraining() bool { return l.draining.Load() }

func (l *listener) all() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		list = append(list, c)
	}
	return list
}

// drainTick is how often Drain looks whether what had arrived is in the queue.
const drainTick = time.Millisecond

// Drain implements Source: the connections that the kernel has accepted are
// served, then nobody can connect any more. Connections stay open: each message
// that comes from now on is answered "stopping".
func (l *listener) Drain(ctx context.Context) {
	// Closing first would reset those in the backlog. Who connects again and again does not hold the end up.
	l.accepts.rest(func() bool { return ctx.Err() != nil })
	l.accepts.close()
	l.drainBegan.Store(int64(now()))
	l.draining.Store(true)
	for _, c := range l.all() {
		c.markDrain()
	}
	tick := time.NewTicker(drainTick)
	defer tick.Stop()
	for !l.isQuiet() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *listener) isQuiet() bool {
	for _, c := range l.all() {
		if !c.isQuiet() {
			return false
		}
	}
	return true
}

// quietTime is how long a client must have been silent during a stop before its
// connection is closed: by then one that was about to send has sent, and has
// been told "stopping".
const quietTime = 300 * time.Millisecond

// Linger implements Source: connections stay open until their clients close
// them, or have been silent for a while and are owed nothing, or do not read what
// they are.
func (l *listener) Linger(ctx context.Context) {
	began := now()
	if l.drainBegan.Load() > 0 {
		began = time.Duration(l.drainBegan.Load())
	}
	tick := time.NewTicker(drainTick)
	defer tick.Stop()
	for open := l.all(); len(open) > 0; open = l.all() {
		if since := now() - quietTime; since > began {
			for _, c := range open {
				c.retire(since)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Close implements Source.
func (l *listener) Close() {
	l.accepts.close()
	for _, c := range l.all() {
		c.kill()
	}
	l.readers.Wait()
}

// rated logs warnings of a kind that outsiders can cause at will: at most one
// every ten seconds, with how many there were.
type rated struct {
	log zerolog.Logger

	mu    sync.Mutex
	next  time.Time
	count int
}

const ratedEvery = 10 * time.Second

func newRated(log zerolog.Logger) *rated { return &rated{log: log} }

func (r *rated) warn(what, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	if at := time.Now(); at.After(r.next) {
		r.log.Warn().Int("count", r.count).Str("why", why).Msg(what)
		r.next, r.count = at.Add(ratedEvery), 0
	}
}
