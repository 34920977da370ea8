package netio

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Socket is what a connection needs of one. *os.File and net.Conn are such.
type Socket interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// A Late is a non-blocking socket that the runtime's poller does not know until
// something has to wait for it. A connection for one message often never gets
// there, and saves a fifth of what it costs.
//
// It is for one goroutine at a time: the reader first, and when that has ended
// the one that writes the reply; but deadlines may be set at any time. It must
// not be closed while it is in use.
type Late struct {
	fd    int
	mu    sync.Mutex
	known atomic.Pointer[polled] // once the poller knows it
}

// NewLate returns the socket of a descriptor, which it owns.
func NewLate(fd int) *Late { return &Late{fd: fd} }

// polled is a socket that the poller knows.
type polled struct {
	*os.File
	raw syscall.RawConn
}

// promote introduces the socket to the poller.
func (s *Late) promote() *polled {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.known.Load(); p != nil {
		return p
	}
	file := os.NewFile(uintptr(s.fd), "connection")
	raw, _ := file.SyscallConn() // fails for a nil file only
	p := &polled{file, raw}
	s.known.Store(p)
	return p
}

func (s *Late) Read(p []byte) (int, error)         { return s.promote().Read(p) }
func (s *Late) Write(p []byte) (int, error)        { return s.promote().Write(p) }
func (s *Late) SetReadDeadline(t time.Time) error  { return s.promote().SetReadDeadline(t) }
func (s *Late) SetWriteDeadline(t time.Time) error { return s.promote().SetWriteDeadline(t) }

// Close closes the socket.
func (s *Late) Close() error {
	if p := s.known.Load(); p != nil {
		return p.Close()
	}
	Close(s.fd)
	return nil
}

// Raw returns the RawConn of the socket. The methods Read and Write of the two
// have the same names, so that one type cannot have both.
func (s *Late) Raw() syscall.RawConn { return lateRaw{s} }

type lateRaw struct{ *Late }

func (s lateRaw) Control(f func(fd uintptr)) error {
	if p := s.known.Load(); p != nil {
		return p.raw.Control(f)
	}
	f(uintptr(s.fd))
	return nil
}

func (s lateRaw) Read(f func(fd uintptr) bool) error {
	if s.known.Load() == nil && f(uintptr(s.fd)) {
		return nil
	}
	return s.promote().raw.Read(f)
}

func (s lateRaw) Write(f func(fd uintptr) bool) error {
	if s.known.Load() == nil && f(uintptr(s.fd)) {
		return nil
	}
	return s.promote().raw.Write(f)
}
