package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/supervisor"
)

// The limits of the server. Only those who may do anything here count.
const (
	maxRequest     = 1 << 10                // bytes
	maxConnections = 64                     // more wait in the kernel's queue
	requestTime    = 2 * time.Second        // for a request to be there; less than AnswerTime of who has to wait for it
	answerTime     = 5 * time.Second        // for a line to be read
	closeTime      = 200 * time.Millisecond // for what is under way at Close
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
	refused  func(error) // is told who was turned away, by several goroutines
	listener *net.UnixListener
	room     chan struct{} // maxConnections: a semaphore
	serving  sync.WaitGroup
	closing  chan struct{}
	end      context.Context // cut ends it, and every connection with it
	cut      context.CancelFunc
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
	s := &Server{
		view: view, pool: pool, refused: refused, listener: ln,
		room: make(chan struct{}, maxConnections), closing: make(chan struct{}),
	}
	s.end, s.cut = context.WithCancel(context.Background())
	return s, nil
}

// Serve answers until Close. It returns at once.
func (s *Server) Serve() { s.serving.Go(s.accept) }

// Close ends the server. Who waits for the end of the process is left to hear of
// it by its end; others have closeTime.
func (s *Server) Close() {
	close(s.closing)
	s.listener.Close()
	timer := time.AfterFunc(closeTime, s.cut)
	s.serving.Wait()
	timer.Stop()
	s.cut()
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
		s.serving.Go(func() {
			s.welcome(conn)
			<-s.room
		})
	}
}

// welcome looks who it is, and serves it if it may be served. What a stranger is
// told fits into the socket's buffer: it cannot keep anybody waiting.
func (s *Server) welcome(conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(s.end, func() { conn.Close() })()
	c := &session{Server: s, conn: conn}
	cred, err := peer(conn)
	if err == nil {
		err = trusted(cred)
	}
	if err != nil {
		if err != errGone { // as one does who thinks that the pool hangs: that is no news
			s.refused(err)
		}
		c.say(Answer{Error: err.Error()})
		return
	}
	c.who = fmt.Sprintf("uid %d, pid %d", cred.Uid, cred.Pid)
	c.serve()
}

// A session is one connection.
type session struct {
	*Server
	conn *net.UnixConn
	who  string // for the log
}

func (c *session) serve() {
	_ = c.conn.SetReadDeadline(time.Now().Add(requestTime)) // closed: the read says so
	line, err := bufio.NewReader(io.LimitReader(c.conn, maxRequest)).ReadBytes('\n')
	var r request
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.say(Answer{Error: "no request came in time"})
	case err != nil && len(line) == 0: // it only looked whether somebody is there
	case err != nil || json.Unmarshal(line, &r) != nil:
		c.say(Answer{Error: "a request is one line of JSON"})
	case r.Command == cmdStatus:
		c.say(c.view.Look().Document())
	case r.Command == cmdHealth:
		c.health()
	case r.Command == cmdReload:
		c.reload(r.Wait)
	case r.Command == cmdStop:
		c.stop(r.Wait)
	default:
		c.say(Answer{Error: fmt.Sprintf("there is no command %q", r.Command)})
	}
}

// say sends one line, and reports whether somebody reads.
func (c *session) say(v any) bool {
	_ = c.conn.SetWriteDeadline(time.Now().Add(answerTime)) // closed: the write says so
	return json.NewEncoder(c.conn).Encode(v) == nil
}

// gone returns a channel that is closed when the client has hung up, or is cut
// off.
func (c *session) gone() <-chan struct{} {
	_ = c.conn.SetReadDeadline(time.Time{}) // closed: the read says so
	gone := make(chan struct{})
	c.serving.Go(func() {
		_, _ = io.Copy(io.Discard, c.conn) // it has nothing more to say
		close(gone)
	})
	return gone
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
	// The pool has the request by now: if it had begun to stop before, that can be seen.
	if !wait && c.pool.Stats().Stopping != "" {
		c.say(Answer{Outcome: string(supervisor.Interrupted), Reason: "the pool stops"})
		return
	}
	if !c.say(Answer{Accepted: true}) || !wait {
		return
	}
	tick := time.NewTicker(progressTick)
	defer tick.Stop()
	gone := c.gone()
	last := supervisor.ReloadStats{}
	for {
		select {
		case r := <-result:
			if stats := c.pool.Stats(); stats.Reload.Generation == r.Generation {
				c.progress(&stats, &last)
			}
			c.say(Answer{Generation: r.Generation, Outcome: string(r.Outcome), Reason: r.Reason, Seconds: r.Took.Seconds()})
			return
		case <-tick.C:
			if stats := c.pool.Stats(); stats.Reload.Running { // not one that ended before
				c.progress(&stats, &last)
			}
		case <-gone:
			return // the reload goes on without
		}
	}
}

// progress says how far a reload is, if that has changed. It may be one that has
// to end before that which was asked for.
func (c *session) progress(stats *supervisor.Stats, last *supervisor.ReloadStats) {
	now := stats.Reload
	if now.Generation == last.Generation && now.Replaced == last.Replaced || now.Replaced == 0 {
		return
	}
	*last = now
	c.say(Answer{Generation: now.Generation, Replaced: now.Replaced, Workers: len(stats.Workers)})
}

func (c *session) stop(wait bool) {
	again := c.pool.Stats().Stopping != ""
	c.pool.Stop("poolinit stop (" + c.who + ")")
	if !c.say(Answer{Accepted: true, Kills: again}) || !wait {
		return
	}
	select {
	case <-c.gone():
	case <-c.closing:
		c.keep()
	}
}

// keep has the connection end with the process, and not before, by a second
// descriptor that nobody closes.
func (c *session) keep() {
	if raw, err := c.conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }) // failed: it ends a little early
	}
}
