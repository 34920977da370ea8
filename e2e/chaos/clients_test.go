package chaos

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
)

// A clientKind is how an honest client speaks.
type clientKind struct {
	network, addr string // the address of a unix socket is r.path's
	tagged, tls   bool
}

var clientKinds = []clientKind{
	{network: "tcp", addr: "127.0.0.1:7001"},
	{network: "tcp", addr: "127.0.0.1:7002", tagged: true},
	{network: "tcp", addr: "127.0.0.1:7003", tls: true},
	{network: "unix", addr: "sock"},
}

// client has connections, one after the other, until the round is over.
func (r *round) client(kind clientKind, id int) {
	s := &sender{round: r, kind: kind, id: id, rng: rand.New(rand.NewPCG(r.seed, uint64(id)+10))}
	for !r.over.Load() {
		s.connection()
	}
}

// A sender is an honest client: it reads what it is answered, and is never silent for
// long.
type sender struct {
	*round
	kind clientKind
	id   int
	n    int // messages so far
	rng  *rand.Rand
}

// mood is what the next message asks of its worker.
func (s *sender) mood() string {
	switch n := s.rng.IntN(2000); {
	case n < 4:
		return "fail"
	case n < 8 && s.poison:
		return "crash"
	case n < 9 && s.poison:
		return "hang"
	case n < 100:
		return "slow"
	}
	return "ok"
}

func (s *sender) body() string {
	s.n++
	body := fmt.Sprintf("%s %d-%d", s.mood(), s.id, s.n)
	if s.rng.IntN(100) == 0 {
		body += " " + strings.Repeat("x", s.rng.IntN(200_000))
	}
	return body
}

// dial returns a connection, or nil if the pool does not serve now.
func (s *sender) connect() (net.Conn, *life) {
	addr := s.kind.addr
	if s.kind.network == "unix" {
		addr = s.path(addr)
	}
	l := s.life()
	nc, err := l.dial(s.kind.network, addr)
	if err != nil {
		time.Sleep(20 * time.Millisecond) // between two attempts
		return nil, nil
	}
	_ = nc.SetDeadline(time.Now().Add(roundTime + 4*testkit.Patience))
	if s.kind.tls {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
		if err := nc.(*tls.Conn).Handshake(); err != nil {
			nc.Close()
			return nil, nil
		}
	}
	return nc, l
}

// A session is a connection with the messages that are open on it.
type session struct {
	*sender
	nc     net.Conn
	life   *life
	room   chan struct{} // holds one for each open message: as many as may be open
	ended  chan struct{} // closed when there are no more answers
	ending atomic.Bool   // nothing new is sent

	mu    sync.Mutex
	order []uint64 // of the open ones
	open  map[uint64]sentMessage
}

type sentMessage struct {
	m    *message
	body string
}

// connection sends messages on a connection until it or the round ends, and reads all answers.
func (s *sender) connection() {
	nc, l := s.connect()
	if nc == nil {
		return
	}
	defer nc.Close()
	c := &session{sender: s, nc: nc, life: l, room: make(chan struct{}, 8), ended: make(chan struct{}), open: make(map[uint64]sentMessage)}
	var writer sync.WaitGroup
	writer.Go(c.send)
	err := c.receive()
	close(c.ended)
	writer.Wait()
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		s.oracle.complain("client %d has waited too long for an answer", s.id)
	}
}

func (c *session) send() {
	defer func() {
		if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	if c.kind.tagged {
		_, _ = c.nc.Write(frame{body: `{"hello":1}`}.bytes(true)) // an error is the next write's, too
	}
	last := 200 + c.rng.IntN(2000) // messages; then there is another connection
	for tag := uint64(1); !c.ending.Load() && !c.over.Load() && tag < uint64(last); tag++ {
		select {
		case c.room <- struct{}{}:
		case <-c.ended:
			return
		}
		body := c.body()
		m := &message{id: idOf(body), life: c.life}
		c.mu.Lock()
		c.open[tag] = sentMessage{m, body}
		c.order = append(c.order, tag)
		c.mu.Unlock()
		c.oracle.sent(m)
		if _, err := c.nc.Write(frame{tag: tag, body: body}.bytes(c.kind.tagged)); err != nil {
			return
		}
		c.oracle.wroteWhole(m)
		time.Sleep(time.Duration(c.rng.IntN(4)) * time.Millisecond) // the client's own pace
	}
}

// receive reads answers until the connection ends. Without tags they come in order.
func (c *session) receive() error {
	in := bufio.NewReader(c.nc)
	for {
		f, err := readFrame(in, c.kind.tagged)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case c.kind.tagged && f.tag == 0 && !f.failed:
			continue
		case f.failed && (strings.HasPrefix(f.body, "stopping: ") || strings.HasPrefix(f.body, "spooled: ")):
			c.ending.Store(true)
		}
		c.settle(f)
	}
}

func (c *session) settle(f frame) {
	c.mu.Lock()
	if !c.kind.tagged && len(c.order) > 0 {
		f.tag, c.order = c.order[0], c.order[1:]
	}
	m, found := c.open[f.tag]
	delete(c.open, f.tag)
	c.mu.Unlock()
	if !found {
		c.oracle.complain("client %d got an answer to nothing: tag %d, %.80q", c.id, f.tag, f.body)
		return
	}
	<-c.room
	c.oracle.answered(m.m, m.body, f)
}

// producer puts messages into the System V queue.
func (r *round) producer() {
	for n := 0; !r.over.Load(); n++ {
		id, at := fmt.Sprintf("ok q-%d", n), time.Now()
		if r.queue.TrySend(id) == nil {
			r.oracle.mu.Lock()
			r.oracle.queued[id] = at
			r.oracle.mu.Unlock()
		}
		time.Sleep(5 * time.Millisecond) // the producer's own pace
	}
}
