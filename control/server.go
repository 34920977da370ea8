package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/poolinit/poolinit/status"
	"github.com/poolinit/poolinit/supervisor"
)

// The limits of the server. Only those who may do anything here count.
const (
	maxRequest     = 1 << 10 // bytes
	maxConnections = 64      // more wait in the kernel's queue
	requestTime    = time.Second
	answerTime     = 5 * time.Second        // for a line to be read
	progressTick   = 100 * time.Millisecond // of reload --wait
)

// A Pool is what requests act on. *supervisor.Pool is one.
type Pool interface {
	Stats() supervisor.Stats
	Stop(why string)
	ReloadWait(why string) <-chan supervisor.ReloadResult
}

// A Server answers the requests for one pool.
type Server struct {
	view     *status.View
	pool     Pool
	refused  func(error) // is told who was turned away
	listener *net.UnixListener
	room     chan struct{} // maxConnections: a semaphore
	serving  sync.WaitGroup
	closing  chan struct{}
}

// Listen opens the socket of this process. Nothing is answered before Serve.
func Listen(view *status.View, pool Pool, refused func(error)) (*Server, error) {
	name, err := prefix()
	if err != nil {
		return nil, err
	}
	addr := &net.UnixAddr{Net: "unix", Name: name + strconv.Itoa(os.Getpid())}
	ln, err := net.ListenUnix("unix", addr)
	if err != nil {
		return nil, err
	}
	return &Server{
		view: view, pool: pool, refused: refused, listener: ln,
		room: make(chan struct{}, maxConnections), closing: make(chan struct{}),
	}, nil
}

// Serve answers until Close. It returns at once.
func (s *Server) Serve() { s.serving.Go(s.accept) }

// Close ends the server. Who waits for the end of the process is left to hear of
// it by its end.
func (s *Server) Close() {
	close(s.closing)
	s.listener.Close()
	s.serving.Wait()
}

func (s *Server) accept() {
	for {
		select {
		case s.room <- struct{}{}:
		case <-s.closing:
			return
		}
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			<-s.room
			select {
			case <-s.closing:
				return
			case <-time.After(progressTick): // out of descriptors, which time may mend
				continue
			}
		}
		if !s.welcome(conn) {
			conn.Close()
			<-s.room
			continue
		}
		s.serving.Go(func() {
			s.serve(conn)
			<-s.room
		})
	}
}

// welcome looks who it is.
func (s *Server) welcome(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	cred, err := peer(raw)
	if err == nil {
		err = trusted(cred)
	}
	if err != nil {
		s.refused(err)
		return false
	}
	return true
}

// A session is one connection.
type session struct {
	*Server
	conn *net.UnixConn
	who  string
}

func (s *Server) serve(conn *net.UnixConn) {
	_ = conn.SetReadDeadline(time.Now().Add(requestTime)) // closed: the read says so
	line, err := bufio.NewReader(io.LimitReader(conn, maxRequest)).ReadBytes('\n')
	var r request
	c := &session{s, conn, caller(conn)}
	switch {
	case err != nil && len(line) == 0: // said nothing
	case err != nil || json.Unmarshal(line, &r) != nil:
		c.say(Answer{Error: "a request is one line of JSON"})
	case r.Command == cmdStatus:
		c.say(s.view.Look().Document())
	case r.Command == cmdHealth:
		c.health()
	case r.Command == cmdReload:
		c.reload(r.Wait)
	case r.Command == cmdStop:
		if c.stop(r.Wait) {
			return
		}
	default:
		c.say(Answer{Error: fmt.Sprintf("there is no command %q", r.Command)})
	}
	conn.Close()
}

// caller names a peer for the log.
func caller(conn *net.UnixConn) string {
	raw, err := conn.SyscallConn()
	if err != nil {
		return "?"
	}
	cred, err := peer(raw)
	if err != nil {
		return "?"
	}
	return fmt.Sprintf("uid %d, pid %d", cred.Uid, cred.Pid)
}

// say sends one line, and reports whether somebody reads.
func (c *session) say(v any) bool {
	_ = c.conn.SetWriteDeadline(time.Now().Add(answerTime)) // closed: the write says so
	return json.NewEncoder(c.conn).Encode(v) == nil
}

func (c *session) health() {
	var a Answer
	var live, ready string
	a.Ready, ready = c.view.Ready()
	if a.Live, live = c.view.Live(); live != "" {
		ready = live
	}
	a.Reason = ready
	c.say(a)
}

func (c *session) reload(wait bool) {
	result := c.pool.ReloadWait("poolinit reload (" + c.who + ")")
	if !wait {
		c.say(Answer{Accepted: true})
		return
	}
	tick := time.NewTicker(progressTick)
	defer tick.Stop()
	last := supervisor.ReloadStats{}
	for {
		select {
		case r := <-result:
			c.progress(&last)
			c.say(Answer{Outcome: string(r.Outcome), Reason: r.Reason, Seconds: r.Took.Seconds()})
			return
		case <-tick.C:
			if !c.progress(&last) {
				return // gone: the reload goes on without
			}
		}
	}
}

// progress says how far the reload is, if that has changed.
func (c *session) progress(last *supervisor.ReloadStats) bool {
	stats := c.pool.Stats()
	now := stats.Reload
	if now.Generation == last.Generation && now.Replaced == last.Replaced || now.Replaced == 0 {
		return true
	}
	*last = now
	return c.say(Answer{Replaced: now.Replaced, Workers: len(stats.Workers)})
}

// stop reports whether the connection is to stay open.
func (c *session) stop(wait bool) bool {
	c.pool.Stop("poolinit stop (" + c.who + ")")
	c.say(Answer{Accepted: true})
	return wait
}
