package metrics

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The limits of the server. Whoever is slow, or too many, has himself to blame:
// nobody else waits for him.
const (
	maxConnections = 256              // more wait in the kernel's queue
	maxScrapes     = 8                // more get 503: they would all show the same
	maxHeader      = 16 << 10         // bytes
	headerTime     = 5 * time.Second  // for a request's head
	requestTime    = 10 * time.Second // for all of a request
	answerTime     = 20 * time.Second // for an answer to be read; a health check takes up to 1 s to make
	idleTime       = 90 * time.Second // between two requests; more than the usual scrape interval
)

// closeTime is how long Close waits for answers that are under way.
const closeTime = 200 * time.Millisecond

// A Server serves what Options shows.
type Server struct {
	options    *Options
	reloadTime prometheus.Histogram
	listener   net.Listener
	http       http.Server
	serving    sync.WaitGroup
}

// Listen binds an address, such as ":9090", for New.
func Listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot serve HTTP: %w", err)
	}
	return ln, nil
}

// New returns a server for a listener. Nothing is answered before Serve.
func New(ln net.Listener, o *Options) *Server {
	s := &Server{options: o}
	s.listener = newLimited(ln, maxConnections, func(full bool) { s.http.SetKeepAlivesEnabled(!full) })
	s.http = http.Server{
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       requestTime,
		WriteTimeout:      answerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(errorWriter(o.Errors), "", 0),
	}
	return s
}

// Addr returns the address that was bound.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve answers requests until Close. It returns at once. The View must be whole by
// then.
func (s *Server) Serve() {
	s.prepare()
	s.serving.Go(func() {
		if err := s.http.Serve(s.listener); err != http.ErrServerClosed {
			s.options.Errors(err)
		}
	})
}

func (s *Server) prepare() {
	s.reloadTime = newReloadTime()
	s.http.Handler = s.handler()
}

// Close ends the server; answers under way get a moment.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // what still reads has had its time
	}
	s.listener.Close() // in case that Serve was never called
	s.serving.Wait()
}

func (s *Server) metrics() http.Handler {
	return promhttp.HandlerForTransactional(newGatherer(s.options, s.reloadTime), promhttp.HandlerOpts{
		ErrorLog:            errorLog(s.options.Errors),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		EnableOpenMetrics:   true,
		DisableCompression:  true, // it took a third of a scrape's time, and 1 MB of memory
	})
}

// errorWriter and errorLog bring errors of the libraries to one function.
type errorWriter func(error)

// longest is how much of an error is told: client_golang lists all that there are.
const longest = 300

func (f errorWriter) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	if len(text) > longest {
		text = text[:longest] + " ..."
	}
	f(errors.New(text))
	return len(p), nil
}

type errorLog func(error)

func (f errorLog) Println(v ...any) { fmt.Fprintln(errorWriter(f), v...) }

// A limited listener has so many connections at a time. More wait in the
// kernel until one is closed.
type limited struct {
	net.Listener
	room   chan struct{} // as many as the limit: a semaphore
	full   func(bool)    // is told when one waits, and when it has come in
	closed chan struct{}
	once   sync.Once
}

func newLimited(ln net.Listener, n int, full func(bool)) *limited {
	return &limited{Listener: ln, room: make(chan struct{}, n), full: full, closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	default:
		l.full(true) // those that are kept open for a next request make room
		select {
		case l.room <- struct{}{}:
			l.full(false)
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &counted{Conn: conn, leave: sync.OnceFunc(func() { <-l.room })}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// A counted connection gives its place back when it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
