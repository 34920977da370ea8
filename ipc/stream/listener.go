package stream

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/netio"
	"github.com/poolinit/poolinit/ratelog"
	"github.com/poolinit/poolinit/reaper/ancillary"
)

// A listener is a source of connections. It implements ipc.Source.
type listener struct {
	url   *config
	queue *ipc.Queue
	certs *certificates // nil: no TLS

	addr       net.Addr
	accepts    *acceptor
	files      *ancillary.Closer // of a unix socket whose kernel cannot refuse attached files; or nil
	stats      ipc.SourceStats
	lane       ipc.Lane
	draining   atomic.Bool
	drainBegan atomic.Int64 // a time.Duration; 0: not yet
	readers    sync.WaitGroup

	complain *ratelog.Log // of what clients cause
	evicted  *ratelog.Log // of large messages that do not arrive
	cutOff   *ratelog.Log // of clients that do not read
	tagFault *ratelog.Log // of clients with tags where there are none, and the other way round

	connections int // at most

	mu        sync.Mutex
	conns     map[*conn]struct{}
	newcomers newcomers
}

// openTCP binds a tcp:// source, with TLS if the URL names a certificate.
func (c *config) openTCP(q *ipc.Queue, log zerolog.Logger) (ipc.Source, error) {
	certs, err := openCertificates(c, log)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", c.Name, err)
	}
	ln, err := bindTCP(c)
	if err != nil {
		return nil, err
	}
	return newListener(c, q, log, ln, nil, certs)
}

// openUnix binds a unix:// source. The file is removed when the source is
// drained or closed.
func (c *config) openUnix(q *ipc.Queue, log zerolog.Logger) (ipc.Source, error) {
	ln, file, err := bindUnix(c)
	if err != nil {
		return nil, err
	}
	l, err := newListener(c, q, log, ln, file, nil)
	if err != nil {
		file.remove()
		return nil, err
	}
	return l, nil
}

// newListener takes a bound socket over, and its file if it is a unix one.
func newListener(c *config, q *ipc.Queue, log zerolog.Logger, ln net.Listener, path *socketFile, certs *certificates) (ipc.Source, error) {
	defer ln.Close()
	file, err := fileOf(ln)
	if err != nil {
		return nil, err
	}
	l := &listener{
		url: c, queue: q, certs: certs, addr: ln.Addr(), complain: ratelog.New(log), evicted: ratelog.New(log), tagFault: ratelog.New(log), cutOff: ratelog.New(log),
		connections: c.connections, conns: make(map[*conn]struct{}),
	}
	l.stats.Name = boundName(c.Name, ln.Addr())
	l.lane = ipc.Lane{Source: &l.stats, Priority: c.priority, Expires: c.expires}
	if l.accepts, err = newAcceptor(file, path, l.welcome); err != nil {
		return nil, err
	}
	if c.once {
		l.accepts.deferUntilData()
	}
	if c.Scheme == "unix" {
		_ = l.accepts.raw.Control(func(fd uintptr) { l.files = ancillary.NewCloser().For(int(fd)) }) // it is open
	}
	return l, nil
}

// boundName is what a source is called: as it was written, but with the port that
// the kernel has chosen instead of port 0.
func boundName(name string, addr net.Addr) string {
	host, chosen := strings.CutSuffix(name, ":0")
	if tcp, ok := addr.(*net.TCPAddr); ok && chosen {
		return host + ":" + strconv.Itoa(tcp.Port)
	}
	return name
}

// mayOwe is how much memory of replies may wait for one client before its messages
// wait, too.
func (l *listener) mayOwe() int { return min(maxUnread, l.queue.Debts().Limit()/8) }

// Addr returns the address that was bound.
func (l *listener) Addr() net.Addr { return l.addr }

// Stats implements ipc.Source.
func (l *listener) Stats() *ipc.SourceStats { return &l.stats }

// acceptPause is how long accepting rests when the system refuses: it is out of
// descriptors or memory, which only time mends.
const acceptPause = 20 * time.Millisecond

// Serve implements ipc.Source.
func (l *listener) Serve() {
	for {
		err := l.accepts.accept()
		switch {
		case err == nil:
		case l.accepts.isShut():
			return
		default:
			l.complain.Warn("cannot accept connections", err.Error())
			time.Sleep(acceptPause)
		}
	}
}

// welcome begins to serve a connection, or closes it at once if it is not allowed,
// or one too many and no newcomer makes room for it.
func (l *listener) welcome(fd int, peer netip.Addr) {
	l.stats.Accepted.Add(1)
	if why := l.reject(peer); why != "" {
		l.stats.TurnedAway.Add(1)
		l.complain.Warn("connections rejected", why)
		l.closeRejected(fd)
		return
	}
	l.stats.Connections.Add(1)
	switch {
	case l.certs != nil:
		l.serveTLS(fd, peer)
	case l.url.once && l.files == nil:
		l.serveOnce(fd, peer)
	default:
		file := os.NewFile(uintptr(fd), "connection")
		raw, _ := file.SyscallConn() // fails for a nil file only
		c := newConn(l, file, raw, raw, nil)
		l.add(c)
		l.isNew(c, peer)
		l.readers.Go(c.serve)
	}
}

func (l *listener) closeRejected(fd int) {
	if l.files == nil {
		netio.Close(fd)
		return
	}
	file := os.NewFile(uintptr(fd), "connection")
	raw, _ := file.SyscallConn() // fails for a nil file only
	l.files.Retire(raw, file.Close, nil)
}

// reject returns why a client is not served, or "".
func (l *listener) reject(peer netip.Addr) string {
	if len(l.url.allow) > 0 && !l.url.allows(peer) {
		return "address not in allow="
	}
	if n := l.stats.Connections.Load() - int64(l.connections); n >= 0 && (n > maxLeaving || !l.replace()) {
		return "connections= limit reached"
	}
	return ""
}

// maxLeaving is how many connections may be open beyond the limit, because they are
// just being closed to make room.
const maxLeaving = 32

// replace closes a newcomer to make room, if there is one.
func (l *listener) replace() bool {
	l.mu.Lock()
	c := l.newcomers.take()
	l.mu.Unlock()
	if c == nil {
		return false
	}
	l.stats.TurnedAway.Add(1)
	l.complain.Warn("connections rejected", "connections= limit reached, the youngest that had sent no whole message made room")
	c.kill()
	return true
}

// Connections returns how many may be open.
func (l *listener) Connections() int { return l.connections }

// ConnectionBytes is how much memory one takes at most, but for large messages: what
// was measured of one in the middle of a message.
func (l *listener) ConnectionBytes() int {
	if l.certs != nil {
		return 56 << 10
	}
	return 18 << 10
}

// LimitConnections lowers that. It is for before Serve.
func (l *listener) LimitConnections(n int) { l.connections = min(l.connections, n) }

// serveOnce serves a connection for one message. If that has arrived already,
// as it mostly has, it is submitted right here: no goroutine, no poller.
func (l *listener) serveOnce(fd int, peer netip.Addr) {
	s := netio.NewLate(fd)
	raw := s.Raw()
	c := newConn(l, s, raw, raw, nil)
	l.add(c)
	if !c.in.FillNow() || !c.takeOnce() {
		l.isNew(c, peer)
		l.readers.Go(c.serve)
	}
}

// add notes a connection that is open.
func (l *listener) add(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
}

// isNew notes that no whole frame has come by a connection that was added.
func (l *listener) isNew(c *conn, peer netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.newcomer = l.newcomers.add(c, peer)
}

// isKnown notes that one has come.
func (l *listener) isKnown(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newcomers.remove(c.newcomer)
	c.newcomer = nil
}

// freePlace is for a connection that has been closed.
func (l *listener) freePlace() { l.stats.Connections.Add(-1) }

// remove forgets a connection that is being closed.
func (l *listener) remove(c *conn) {
	l.mu.Lock()
	delete(l.conns, c)
	if c.newcomer != nil {
		l.newcomers.remove(c.newcomer)
	}
	l.mu.Unlock()
}

func (l *listener) all() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		list = append(list, c)
	}
	return list
}

func (l *listener) isDraining() bool { return l.draining.Load() }

// drainTick is how often Drain looks whether what had arrived is in the queue.
const drainTick = time.Millisecond

// Drain implements ipc.Source: the connections that the kernel has accepted are
// served, then the socket is closed. Connections stay open: each message that
// comes from now on is answered "stopping".
func (l *listener) Drain(ctx context.Context) {
	// Closing first would reset those in the backlog. Clients that connect again
	// and again do not delay the end.
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

// Linger implements ipc.Source: connections stay open until their clients close
// them, or have been silent for quietTime and have all their replies, or do not
// read those.
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

// Close implements ipc.Source.
func (l *listener) Close() {
	l.accepts.close()
	for _, c := range l.all() {
		c.kill()
	}
	l.readers.Wait()
}

// An acceptor accepts connections by hand. net.Listener spends three system
// calls on each that a connection here does not need.
type acceptor struct {
	file    *os.File // of the listening socket
	raw     syscall.RawConn
	unlink  *socketFile // to be removed before the socket is closed; or nil
	welcome func(fd int, peer netip.Addr)

	door sync.Mutex          // held from before a connection is accepted until it was welcomed
	shut bool                // none is accepted any more; guarded by door
	peer unix.RawSockaddrAny // of the connection that is being accepted; guarded by door

	err error // of attempt
	try func(fd uintptr) bool
}

// newAcceptor takes a listening socket over; file is the acceptor's own, and is
// closed if that fails. welcome gets each connection.
func newAcceptor(file *os.File, unlink *socketFile, welcome func(fd int, peer netip.Addr)) (*acceptor, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	a := &acceptor{file: file, raw: raw, unlink: unlink, welcome: welcome}
	a.try = a.attempt
	// Accepted sockets inherit it. A unix socket has no such option, and no need.
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) })
	return a, nil
}

// deferUntilData makes the kernel keep a connection back until something has
// arrived on it, or for a second. A connection for one message then mostly needs
// no waiting at all. It is for TCP; a unix socket refuses, and needs none.
func (a *acceptor) deferUntilData() {
	_ = a.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	})
}

// accept waits for a connection. It is for one goroutine.
func (a *acceptor) accept() error {
	if err := a.raw.Read(a.try); err != nil {
		return err
	}
	return a.err
}

func (a *acceptor) attempt(fd uintptr) bool {
	a.err = a.one(int(fd))
	return a.err != unix.EAGAIN
}

// one accepts a connection, if one is there. While the door is held each
// connection is either welcomed or still with the kernel.
func (a *acceptor) one(fd int) error {
	a.door.Lock()
	defer a.door.Unlock()
	if a.shut {
		return net.ErrClosed
	}
	n, err := netio.Accept(fd, &a.peer)
	if err == nil {
		a.welcome(n, addressOf(&a.peer))
	}
	return err
}

// rest accepts what is in the backlog, until over says that time is up.
func (a *acceptor) rest(over func() bool) {
	_ = a.raw.Control(func(fd uintptr) {
		for !over() && a.one(int(fd)) == nil {
		}
	})
}

// close closes the listening socket. All connections that were accepted have
// been welcomed when it returns.
func (a *acceptor) close() {
	a.door.Lock()
	was := a.shut
	a.shut = true
	a.door.Unlock()
	if was {
		return
	}
	if a.unlink != nil {
		a.unlink.remove() // first: another process may bind the path as soon as this one does not listen
	}
	ancillary.CloseListener(a.file) // waits for attempt and rest
}

func (a *acceptor) isShut() bool {
	a.door.Lock()
	defer a.door.Unlock()
	return a.shut
}

// addressOf returns a peer's address; it is not valid for a unix socket.
func addressOf(peer *unix.RawSockaddrAny) netip.Addr {
	switch peer.Addr.Family {
	case unix.AF_INET:
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(peer)).Addr)
	case unix.AF_INET6:
		return netip.AddrFrom16((*unix.RawSockaddrInet6)(unsafe.Pointer(peer)).Addr).Unmap()
	}
	return netip.Addr{}
}

// notTagged counts and logs a fault in the use of tags.
func (l *listener) notTagged(why string) {
	l.stats.FramesNotTagged.Add(1)
	l.tagFault.Warn("clients broke the rules of tagged frames", why)
}

// helloStart is how the first frame of a client that speaks tagged frames begins
// behind its header.
var helloStart = append(make([]byte, frame.TagSize), `{"hello":`...)

// noteHello notes that a client speaks tagged frames to a source that does not. To
// this one they are messages like others.
func (l *listener) noteHello(body []byte) {
	if len(body) <= maxHello && bytes.HasPrefix(body, helloStart) {
		l.notTagged("a client speaks tagged frames, and this source has no tagged=true: its frames are taken for messages")
	}
}
