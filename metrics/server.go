package metrics

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/poolinit/poolinit/metrics/limit"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/supervisor"
)

// The limits of the server. A client that is slow, or opens too many connections, does
// not delay others.
const (
	maxConnections = 256              // a further one replaces one that is silent, or slow
	maxScrapes     = 8                // more get 503: they would all show the same
	maxHeader      = 16 << 10         // bytes
	headerTime     = 5 * time.Second  // for the head of a request; then the connection is closed
	requestTime    = 10 * time.Second // for a whole request
	answerTime     = 20 * time.Second // for a client to read an answer; a health check takes up to 1 s to make
	slowTime       = 2 * time.Second  // for an answer; then the connection may be replaced
	idleTime       = 90 * time.Second // between two requests; more than the usual scrape interval
)

// closeTime is how long Close waits for answers that are being sent.
const closeTime = 200 * time.Millisecond

// Options says what a Server shows.
type Options struct {
	View     *status.View             // its fields may be set until Serve
	Signals  func() map[string]uint64 // counts by name; every name from the start
	Revision string                   // of the source; may be empty
	Go       string                   // the version of Go
	Errors   func(error)              // is called when a single request fails
	Hosts    []string                 // that the Host header may have, beside localhost and IP addresses
}

// A Server serves what Options says.
type Server struct {
	options    *Options
	reloadTime prometheus.Histogram
	listener   *limit.Listener
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

// New returns a server for a listener, which Close closes. Nothing is answered before
// Serve.
func New(ln net.Listener, o *Options) *Server {
	s := &Server{options: o, reloadTime: newReloadTime()}
	s.listener = limit.NewListener(ln, maxConnections, slowTime)
	s.http = http.Server{
		Handler:           answering(s.handler()),
		ConnContext:       func(ctx context.Context, nc net.Conn) context.Context { return context.WithValue(ctx, connKey{}, nc) },
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       requestTime,
		WriteTimeout:      answerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(errorWriter(o.Errors), "", 0),
	}
	return s
}

// A connKey is the key of a request's connection in its context.
type connKey struct{}

// answering tells the listener which connections have a request.
func answering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*limit.Conn); ok {
			if c.Begin() {
				w.Header().Set("Connection", "close") // rather than being replaced while the next request is on its way
			}
			defer c.End()
		}
		next.ServeHTTP(w, r)
	})
}

// Addr returns the address that was bound.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve answers requests until Close. It returns at once. The View must be complete
// by then.
func (s *Server) Serve() {
	s.serving.Go(func() {
		if err := s.http.Serve(s.listener); err != http.ErrServerClosed {
			s.options.Errors(err)
		}
	})
}

// Close ends the server. Answers that are being sent have closeTime.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // clients that still read have had their time
	}
	s.listener.Close() // Serve may never have been called
	s.serving.Wait()
}

// ReloadEnded records the duration of a reload. It is supervisor.Config's OnReload.
func (s *Server) ReloadEnded(r supervisor.ReloadResult) {
	s.reloadTime.Observe(r.Took.Seconds())
}

// The page is plain files: html/template would add 2.5 MB to the binary.
var (
	//go:embed page/status.html
	pageHTML string
	//go:embed page/status.css
	pageCSS string
	//go:embed page/status.js
	pageJS string
)

// policy lets the page load what this server serves, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const paths = "/metrics /livez /readyz /status /status.json /queue.json"

func (s *Server) handler() http.Handler {
	view := s.options.View
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics())
	mux.HandleFunc("GET /livez", health(view.Live))
	mux.HandleFunc("GET /readyz", health(view.Ready))
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) {
		sendJSON(w, view.Look().Document())
	})
	mux.HandleFunc("GET /queue.json", func(w http.ResponseWriter, _ *http.Request) {
		sendJSON(w, loadOf(view.Look()))
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept")
		if prefersJSON(r) {
			sendJSON(w, view.Look().Document())
			return
		}
		asset(pageHTML, "text/html; charset=utf-8")(w, r)
	})
	mux.HandleFunc("GET /status.css", asset(pageCSS, "text/css; charset=utf-8"))
	mux.HandleFunc("GET /status.js", asset(pageJS, "text/javascript; charset=utf-8"))
	mux.Handle("GET /{$}", http.RedirectHandler("/status", http.StatusFound))
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not found; there is "+paths, http.StatusNotFound)
	})
	return secured(checkHost(s.options.Hosts, mux))
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

// secured sets the headers that all answers have.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// health answers 200, or 503 and the reason.
func health(check func() (bool, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if ok, why := check(); !ok {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // an error means that the client has gone
	}
}

func asset(text, kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, text) // an error means that the client has gone
	}
}

func prefersJSON(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

func sendJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // an error means that the client has gone
}

// A load is a few plain numbers for autoscalers.
type load struct {
	Messages int `json:"messages"`  // that wait
	InFlight int `json:"in_flight"` // with workers
	Total    int `json:"total"`     // both
	Workers  int `json:"workers"`   // that can take messages
	Busy     int `json:"busy"`      // of those
}

func loadOf(s *status.Snapshot) load {
	l := load{Messages: s.Queue.Messages, InFlight: s.Queue.InFlight}
	l.Total = l.Messages + l.InFlight
	for i := range s.Pool.Workers {
		switch s.State(i) {
		case status.Busy:
			l.Busy++
			l.Workers++
		case supervisor.Ready:
			l.Workers++
		}
	}
	return l
}

// errorWriter and errorLog pass the errors of the libraries to one function.
type errorWriter func(error)

// maxErrorText is how much of an error is reported, in bytes: client_golang lists
// all errors of a scrape.
const maxErrorText = 300

func (f errorWriter) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + " ..."
	}
	f(errors.New(text))
	return len(p), nil
}

type errorLog func(error)

func (f errorLog) Println(v ...any) { fmt.Fprintln(errorWriter(f), v...) }
