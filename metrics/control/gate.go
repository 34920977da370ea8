package control

import (
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/ancillary"
)

// refusalTime is for writing why a client has no access. It fits into the socket's
// buffer, so that it is not needed.
const refusalTime = 100 * time.Millisecond

// A gate is a listener that lets only those clients in that have access. The others
// are told why not, and nothing that they send is read. They take no place.
type gate struct {
	*net.UnixListener
	access  func(*unix.Ucred) error // says why a client has none
	refused func(error)
	files   *ancillary.Closer // nil: the kernel refuses attached files
}

func newGate(ln *net.UnixListener, refused func(error)) *gate {
	g := &gate{UnixListener: ln, access: trusted, refused: refused}
	if raw, err := ln.SyscallConn(); err == nil { // fails for a nil listener only
		_ = raw.Control(func(fd uintptr) { g.files = ancillary.NewCloser().For(int(fd)) })
	}
	return g
}

// Accept returns the next client that has access.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		c := &client{UnixConn: conn, files: g.files}
		if c.raw, err = conn.SyscallConn(); err == nil {
			c.cred, err = peer(conn)
		}
		if err == nil {
			err = g.access(c.cred)
		}
		if err == nil {
			return c, nil
		}
		g.refuse(c, err)
	}
}

func (g *gate) refuse(c *client, why error) {
	if why != errGone { // a client that ended early, as after Ctrl-C, is not worth a line
		g.refused(why)
	}
	_ = c.SetWriteDeadline(time.Now().Add(refusalTime)) // if it is closed, the write reports that
	_ = json.NewEncoder(c).Encode(Answer{Error: why.Error()})
	_ = c.Close()
}

// A client is a connection of a client that has access.
type client struct {
	*net.UnixConn
	raw    syscall.RawConn
	cred   *unix.Ucred
	files  *ancillary.Closer
	closed sync.Once
}

// String names the client for the log.
func (c *client) String() string { return fmt.Sprintf("uid %d, pid %d", c.cred.Uid, c.cred.Pid) }

// Files returns what reads the connection; see package limit.
func (c *client) Files() *ancillary.Closer { return c.files }

// Close closes the connection. It does not wait for files that are attached to what
// the client has sent.
func (c *client) Close() error {
	if c.files == nil {
		return c.UnixConn.Close()
	}
	c.closed.Do(func() {
		_ = c.SetDeadline(time.Unix(1, 0)) // ends the reader
		c.files.Retire(c.raw, c.UnixConn.Close, nil)
	})
	return nil
}
