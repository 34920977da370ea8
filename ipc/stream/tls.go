package stream

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// serveTLS serves a connection over TLS. The handshake is made by its reader, so
// that a client that is slow at it delays nothing else.
func (l *listener) serveTLS(fd int) {
	file := os.NewFile(uintptr(fd), "connection")
	raw, _ := file.SyscallConn() // fails for a nil file only
	below := &tlsSocket{File: file, raw: raw, addr: l.addr}
	nc := &tlsConn{tls.Server(below, l.certs.forServer()), below}
	c := l.add(newConn(l, nc, nil, raw, &below.starved))
	l.readers.Go(func() {
		if err := c.shakeHands(nc); err != nil {
			l.handshakeFailed(err)
			if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
				resetOnClose(raw)
			}
			c.end(nil)
			return
		}
		c.serve()
	})
}

// resetOnClose makes the closing of the connection reset it. A client that spoke
// no TLS has ended its side, perhaps, and would take a mere end for that of its
// replies.
func resetOnClose(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// tlsBuffer is as much as a tls.Conn has read from its socket and not handed
// out, at most: two records.
const tlsBuffer = 40 << 10

func (l *listener) handshakeFailed(err error) {
	l.stats.HandshakesFailed.Add(1)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET):
		// It went away by itself, as a client does that only checks the port.
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.certs.failures.Warn("TLS handshakes failed", "not complete in time")
	default:
		l.certs.failures.Warn("TLS handshakes failed", err.Error())
	}
}

// A tlsConn is a tls.Conn whose Close never waits for a client that does not
// read: the goroutines that settle messages call it.
type tlsConn struct {
	*tls.Conn
	below *tlsSocket
}

// Close says goodbye if the socket takes it.
func (c *tlsConn) Close() error {
	c.below.closing.Store(true)
	return c.Conn.Close()
}

// A tlsSocket is the socket below a tls.Conn.
type tlsSocket struct {
	*os.File
	raw     syscall.RawConn
	addr    net.Addr
	closing atomic.Bool

	// starved is for the connection's Reader: the socket is empty, and TLS has
	// handed out all that it had, since it reads only for want of a whole record.
	starved atomic.Bool
}

// Read reads once, when there is something.
func (s *tlsSocket) Read(p []byte) (n int, err error) {
	waited := s.raw.Read(func(fd uintptr) bool {
		s.starved.Store(false)
		n, err = unix.Read(int(fd), p)
		for err == unix.EINTR {
			n, err = unix.Read(int(fd), p)
		}
		if err == unix.EAGAIN {
			s.starved.Store(true)
		}
		return err != unix.EAGAIN
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write does not wait once the connection is being closed.
func (s *tlsSocket) Write(p []byte) (n int, err error) {
	if !s.closing.Load() {
		return s.File.Write(p)
	}
	broken := s.raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), p)
		return true
	})
	if broken != nil {
		err = broken
	}
	return max(n, 0), err
}

// LocalAddr implements net.Conn.
func (s *tlsSocket) LocalAddr() net.Addr { return s.addr }

// RemoteAddr implements net.Conn. TLS does not care.
func (s *tlsSocket) RemoteAddr() net.Addr { return s.addr }
