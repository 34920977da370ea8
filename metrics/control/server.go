package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/metrics/limit"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/reaper/ancillary"
	"github.com/poolinit/poolinit/supervisor"
)

// The limits of the server.
const (
	maxRequest     = 32 << 10               // bytes: room for MaxIDs
	maxConnections = 64                     // a further one replaces the one that has been silent for longest
	requestTime    = 2 * time.Second        // for a request to arrive; less than AnswerTime, as others may wait for the place
	answerTime     = 5 * time.Second        // for a client to read a line
	closeTime      = 200 * time.Millisecond // for requests that Close finds unanswered
	progressTick   = 100 * time.Millisecond // of reload --wait
	retryTime      = 100 * time.Millisecond // after a failed accept, such as one without a free descriptor
)

// A Pool is what requests act on. *supervisor.Pool is one.
type Pool interface {
	Stats() supervisor.Stats
	Stop(why string)
	StopNow(why string)
	ReloadWait(why string) <-chan supervisor.ReloadResult
	// Scale changes how many workers there should be.
	Scale(workers int, why string) error
	// Pause ends the handing out of messages until Resume, or the stop of the pool.
	Pause(why string) error
	Resume(why string) error
	// Queue returns messages that wait for a worker, at most limit.
	Queue(limit int) (List, error)
	// Drop gives up messages that wait, and returns how many of the given ones did.
	Drop(ids []uint64, why string) (dropped int, err error)
}

// A Server answers the requests for one pool.
type Server struct {
	view     *status.View
	pool     Pool
	refused  func(error) // is called for each client without access, by one goroutine
	listener *limit.Listener
	serving  sync.WaitGroup
	closing  chan struct{}
	end      context.Context // when cut ends it, every connection is closed
	cut      context.CancelFunc
	times    times
}

// times are how long a Server waits. Tests shorten them.
type times struct {
	request, close, tick time.Duration
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
	end, cut := context.WithCancel(context.Background())
	return &Server{
		view: view, pool: pool, refused: refused, listener: limit.NewListener(newGate(ln, refused), maxConnections, 0),
		closing: make(chan struct{}), end: end, cut: cut,
		times: times{request: requestTime, close: closeTime, tick: progressTick},
	}, nil
}

// Serve answers requests until Close. It returns at once.
func (s *Server) Serve() { s.serving.Go(s.accept) }

// Close ends the server. Clients that wait for the end of the process learn of it when
// the process ends; all others have closeTime.
func (s *Server) Close() {
	close(s.closing)
	ancillary.CloseListener(s.listener)
	timer := time.AfterFunc(s.times.close, s.cut)
	s.serving.Wait()
	timer.Stop()
	s.cut()
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err == nil {
			s.serving.Go(func() { s.serve(conn) })
			continue
		}
		select {
		case <-s.closing:
			return
		case <-time.After(retryTime):
		}
	}
}

// serve answers one connection.
func (s *Server) serve(conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(s.end, func() { conn.Close() })()
	place := conn.(*limit.Conn)
	who := place.Conn.(*client)
	c := &session{Server: s, conn: who.UnixConn, in: place, begin: func() { place.Begin() }, client: who.String()}
	c.answer()
}

// A session is one connection.
type session struct {
	*Server
	conn   *net.UnixConn
	in     io.Reader // reads conn
	begin  func()    // called when the request has arrived
	client string    // for the log
}

func (c *session) answer() {
	_ = c.conn.SetReadDeadline(time.Now().Add(c.times.request)) // if it is closed, the read reports that
	line, err := bufio.NewReader(io.LimitReader(c.in, maxRequest)).ReadBytes('\n')
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.send(Answer{Error: "no request came in time"})
	case err != nil && len(line) == 0: // the client only tried whether it can connect
	case err != nil:
		c.send(Answer{Error: errNotARequest.Error()})
	default:
		c.begin()
		c.answerLine(line)
	}
}

func (c *session) answerLine(line []byte) {
	r, err := parseRequest(line)
	if err != nil {
		c.send(Answer{Error: err.Error()})
		return
	}
	switch r.Command {
	case cmdStatus:
		c.send(c.view.Look().Document())
	case cmdHealth:
		c.health()
	case cmdReload:
		c.reload(r.Wait)
	case cmdStop:
		c.stop(r.Wait, r.Now)
	case cmdScale:
		c.done(c.pool.Scale(r.Workers, c.who(cmdScale)), Answer{Workers: r.Workers})
	case cmdPause:
		c.done(c.pool.Pause(c.who(cmdPause)), Answer{})
	case cmdResume:
		c.done(c.pool.Resume(c.who(cmdResume)), Answer{})
	case cmdQueue:
		c.list(r.Limit)
	case cmdDrop:
		n, err := c.pool.Drop(r.IDs, c.who("queue drop"))
		c.done(err, Answer{Dropped: n})
	}
}

// who returns who asks for a command, for the log.
func (c *session) who(command string) string { return "poolinit " + command + " (" + c.client + ")" }

// done sends an answer, or the error.
func (c *session) done(err error, a Answer) {
	if err != nil {
		c.send(Answer{Error: err.Error()})
		return
	}
	a.Accepted = true
	c.send(a)
}

func (c *session) list(limit int) {
	l, err := c.pool.Queue(limit)
	if err != nil {
		c.done(err, Answer{})
		return
	}
	c.send(l)
}

// send sends one line, and reports whether that succeeded.
func (c *session) send(v any) bool {
	_ = c.conn.SetWriteDeadline(time.Now().Add(answerTime)) // if it is closed, the write reports that
	return json.NewEncoder(c.conn).Encode(v) == nil
}

// gone returns a channel that is closed when the client has closed the connection, or
// the server has.
func (c *session) gone() <-chan struct{} {
	_ = c.conn.SetReadDeadline(time.Time{}) // if it is closed, the read reports that
	gone := make(chan struct{})
	c.serving.Go(func() {
		_, _ = io.Copy(io.Discard, c.in) // clients send nothing more
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
	c.send(a)
}

func (c *session) reload(wait bool) {
	result := c.pool.ReloadWait(c.who(cmdReload))
	// The pool has the request now. If it had begun to stop before, that can be seen.
	if !wait && c.pool.Stats().Stopping != "" {
		c.send(Answer{Outcome: string(supervisor.Interrupted), Reason: "the pool is stopping"})
		return
	}
	if !c.send(Answer{Accepted: true}) || !wait {
		return
	}
	tick := time.NewTicker(c.times.tick)
	defer tick.Stop()
	gone := c.gone()
	last := supervisor.ReloadStats{}
	for {
		select {
		case r := <-result:
			if stats := c.pool.Stats(); stats.Reload.Generation == r.Generation {
				c.progress(&stats, &last)
			}
			c.send(Answer{Generation: r.Generation, Outcome: string(r.Outcome), Reason: r.Reason, Stderr: r.LastLines, Seconds: r.Took.Seconds()})
			return
		case <-tick.C:
			if stats := c.pool.Stats(); stats.Reload.Running { // not a reload that ended before
				c.progress(&stats, &last)
			}
		case <-gone:
			return // the reload continues
		}
	}
}

// progress sends how far a reload is, if that has changed. It may be an earlier reload
// that has to end first.
func (c *session) progress(stats *supervisor.Stats, last *supervisor.ReloadStats) {
	now := stats.Reload
	if now.Generation == last.Generation && now.Replaced == last.Replaced || now.Replaced == 0 {
		return
	}
	*last = now
	c.send(Answer{Generation: now.Generation, Replaced: now.Replaced, Workers: len(stats.Workers)})
}

func (c *session) stop(wait, now bool) {
	if now {
		c.pool.StopNow(c.who("stop --now"))
	} else {
		c.pool.Stop(c.who(cmdStop))
	}
	if !c.send(Answer{Accepted: true, Kills: now}) || !wait {
		return
	}
	select {
	case <-c.gone():
	case <-c.closing:
		c.keep()
	}
}

// keep makes the connection end with the process, and not before: it makes a second
// descriptor, which is never closed.
func (c *session) keep() {
	if raw, err := c.conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }) // after an error it ends a little earlier
	}
}
