package ipc

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A socket is what a connection needs of one. *os.File and net.Conn are such.
type socket interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// A bareSocket is a non-blocking socket that the runtime's poller does not know
// until somebody has to wait for it. A connection for one message often never
// gets there, and saves a fifth of what it costs.
//
// It is for one goroutine at a time: the reader first, and when that has ended
// whoever writes the reply; but deadlines may be set at any time. It must not
// be closed while somebody uses it.
type bareSocket struct {
	fd    int
	mu    sync.Mutex
	known atomic.Pointer[polled] // once the poller knows it
}

// polled is a socket that the poller knows.
type polled struct {
	*os.File
	raw syscall.RawConn
}

// promote introduces the socket to the poller.
func (s *bareSocket) promote() *polled {
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

func (s *bareSocket) Read(p []byte) (int, error)         { return s.promote().Read(p) }
func (s *bareSocket) Write(p []byte) (int, error)        { return s.promote().Write(p) }
func (s *bareSocket) SetReadDeadline(t time.Time) error  { return s.promote().SetReadDeadline(t) }
func (s *bareSocket) SetWriteDeadline(t time.Time) error { return s.promote().SetWriteDeadline(t) }

func (s *bareSocket) Close() error {
	if p := s.known.Load(); p != nil {
		return p.Close()
	}
	closeNow(s.fd)
	return nil
}

// rawSocket is the RawConn of a bareSocket, whose own Read and Write are those
// of a stream.
type rawSocket struct{ *bareSocket }

func (s rawSocket) Control(f func(fd uintptr)) error {
	if p := s.known.Load(); p != nil {
		return p.raw.Control(f)
	}
	f(uintptr(s.fd))
	return nil
}

func (s rawSocket) Read(f func(fd uintptr) bool) error {
	if s.known.Load() == nil && f(uintptr(s.fd)) {
		return nil
	}
	return s.promote().raw.Read(f)
}

func (s rawSocket) Write(f func(fd uintptr) bool) error {
	if s.known.Load() == nil && f(uintptr(s.fd)) {
		return nil
	}
	return s.promote().raw.Write(f)
}
