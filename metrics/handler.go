package metrics

import (
	_ "embed"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/supervisor"
)

// The page is plain files: html/template would cost 2.5 MB.
var (
	//go:embed page/status.html
	pageHTML string
	//go:embed page/status.css
	pageCSS string
	//go:embed page/status.js
	pageJS string
)

// policy lets the page run what comes from here, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const paths = "/metrics /livez /readyz /status /status.json /queue.json"

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics())
	mux.HandleFunc("GET /livez", health(s.options.View.Live))
	mux.HandleFunc("GET /readyz", health(s.options.View.Ready))
	mux.HandleFunc("GET /status.json", s.statusJSON)
	mux.HandleFunc("GET /queue.json", s.queueJSON)
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("GET /status.css", asset(pageCSS, "text/css; charset=utf-8"))
	mux.HandleFunc("GET /status.js", asset(pageJS, "text/javascript; charset=utf-8"))
	mux.Handle("GET /{$}", http.RedirectHandler("/status", http.StatusFound))
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not found; there is "+paths, http.StatusNotFound)
	})
	return secured(mux)
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
func health(ask func() (bool, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if ok, why := ask(); !ok {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n")) // gone: nobody to tell
	}
}

func asset(text, kind string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = io.WriteString(w, text) // gone: nobody to tell
	}
}

// status answers with the page, or with JSON for who prefers that.
func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	accept := r.Header.Get("Accept")
	if strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html") {
		s.statusJSON(w, r)
		return
	}
	asset(pageHTML, "text/html; charset=utf-8")(w, r)
}

func (s *Server) statusJSON(w http.ResponseWriter, _ *http.Request) {
	sendJSON(w, s.options.View.Look().Document())
}

// A load is a few plain numbers for autoscalers.
type load struct {
	Messages int `json:"messages"`  // that wait
	InFlight int `json:"in_flight"` // with workers
	Total    int `json:"total"`     // both
	Workers  int `json:"workers"`   // that can take messages
	Busy     int `json:"busy"`      // of those
}

func (s *Server) queueJSON(w http.ResponseWriter, _ *http.Request) {
	look := s.options.View.Look()
	l := load{Messages: look.Queue.Messages, InFlight: look.Queue.InFlight}
	l.Total = l.Messages + l.InFlight
	for i := range look.Pool.Workers {
		switch look.State(i) {
		case status.Busy:
			l.Busy++
			l.Workers++
		case supervisor.Ready:
			l.Workers++
		}
	}
	sendJSON(w, l)
}

func sendJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // gone: nobody to tell
}
