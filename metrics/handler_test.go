package metrics

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/supervisor"
)

// Every path answers, with the headers that keep a browser from doing anything
// but what the page needs.
func TestPaths(t *testing.T) {
	s := newFake(2, "tcp://a:1").server()
	kinds := map[string]string{
		"/metrics": "text/plain", "/livez": "text/plain", "/readyz": "text/plain", "/status": "text/html",
		"/status.json": "application/json", "/queue.json": "application/json", "/status.css": "text/css", "/status.js": "text/javascript",
	}
	for path, kind := range kinds {
		w := get(s, path)
		h := w.Header()
		if w.Code != 200 || !strings.HasPrefix(h.Get("Content-Type"), kind) || w.Body.Len() == 0 {
			t.Errorf("%s: %d, %q", path, w.Code, h.Get("Content-Type"))
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Content-Security-Policy": policy,
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q", path, name, h.Get(name))
			}
		}
		if head := respond(s, "HEAD", path); head.Code != 200 || head.Header().Get("Content-Type") != h.Get("Content-Type") {
			t.Errorf("HEAD %s: %d, %v", path, head.Code, head.Header())
		}
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"} {
			w := respond(s, method, path)
			if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" || w.Header().Get("Content-Security-Policy") != policy {
				t.Errorf("%s %s: %d, %v", method, path, w.Code, w.Header())
			}
		}
	}
	for path := range strings.FieldsSeq(paths) {
		if kinds[path] == "" {
			t.Errorf("%s is named as a path, but not tested", path)
		}
	}
	if w := get(s, "/"); w.Code != 302 || w.Header().Get("Location") != "/status" {
		t.Errorf("/: %d %v", w.Code, w.Header())
	}
	if w := get(s, "/nothing"); w.Code != 404 || !strings.Contains(w.Body.String(), paths) {
		t.Errorf("/nothing: %d %s", w.Code, w.Body)
	}
}

func respond(s *Server, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, httptest.NewRequest(method, "http://localhost"+path, nil))
	return w
}

// /readyz and poolinit_ready say the same, and why.
func TestReadyz(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*fake)
		why    string // "": it is ready
	}{
		"all well": {func(*fake) {}, ""},
		"all busy": {func(f *fake) { f.queue.Workers = []ipc.WorkerStats{{InHand: 1}, {InHand: 9}} }, ""},
		"one left": {func(f *fake) { f.pool.Workers[0].State = supervisor.Backoff }, ""},
		"none left": {func(f *fake) {
			f.pool.Workers[0].State, f.pool.Workers[1].State = supervisor.Backoff, supervisor.Starting
		}, "no worker is ready"},
		"just starting":    {func(f *fake) { f.pool.Complete = false }, "not every worker has been ready yet"},
		"stopping":         {func(f *fake) { f.pool.Stopping = "SIGTERM" }, "the pool stops: SIGTERM"},
		"not open":         {func(f *fake) { f.serving = false }, "messages are not taken yet"},
		"stopping, closed": {func(f *fake) { f.pool.Stopping, f.serving = "SIGTERM", false }, "the pool stops: SIGTERM"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(2, "tcp://a:1")
			tt.change(f)
			s := f.server()
			w := get(s, "/readyz")
			code, body, metric := 200, "ok", "1"
			if tt.why != "" {
				code, body, metric = 503, tt.why, "0"
			}
			if w.Code != code || strings.TrimSpace(w.Body.String()) != body {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, code, body)
			}
			if got := values(s)["poolinit_ready"]; got != metric {
				t.Errorf("poolinit_ready is %s, want %s", got, metric)
			}
		})
	}
}

// Workers that get no messages need no source to be ready.
func TestReadyzWithoutMessages(t *testing.T) {
	f := newFake(1)
	f.serving = false
	if w := get(f.server(), "/readyz"); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// /livez says no if the same message waits for a second beside a worker that has
// nothing to do, and only then. It takes no time if all is well.
func TestLivez(t *testing.T) {
	stuck := ipc.QueueStats{Messages: 3, OldestID: 7, Oldest: 4 * time.Second, Idle: 1}
	for name, tt := range map[string]struct {
		queue  ipc.QueueStats
		moving time.Duration // after this time it is another message
		code   int
		took   time.Duration
	}{
		"nothing waits":    {ipc.QueueStats{Idle: 2}, 0, 200, 0},
		"all busy":         {ipc.QueueStats{Messages: 1000, OldestID: 7, Oldest: time.Hour}, 0, 200, 0},
		"stuck":            {stuck, 0, 503, time.Second},
		"handed over late": {stuck, 500 * time.Millisecond, 200, 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, began := newFake(2, "tcp://a:1"), time.Now()
				f.options.View.Queue = &fakeQueue{func() ipc.QueueStats {
					q := tt.queue
					if tt.moving > 0 && time.Since(began) >= tt.moving {
						q.OldestID++
					}
					return q
				}}
				s := f.server()
				w := get(s, "/livez")
				if took := time.Since(began); took < tt.took || took > tt.took+100*time.Millisecond {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				if w.Code != tt.code || w.Code == 503 && !strings.Contains(w.Body.String(), "a message has waited for 4s while") {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		})
	}
	if w := get(newFake(1).server(), "/livez"); w.Code != 200 {
		t.Errorf("without messages: %d", w.Code)
	}
}

// /queue.json has the numbers that an autoscaler needs.
func TestQueueJSON(t *testing.T) {
	f := newFake(5, "tcp://a:1")
	f.queue = ipc.QueueStats{Messages: 7, InFlight: 9, Workers: []ipc.WorkerStats{{InHand: 4}, {InHand: 5}}}
	f.pool.Workers[3].State = supervisor.Starting
	f.pool.Workers[4].State = supervisor.Backoff
	want := map[string]int{"messages": 7, "in_flight": 9, "total": 16, "workers": 3, "busy": 2}
	var got map[string]int
	if err := json.Unmarshal(get(f.server(), "/queue.json").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
	for name, n := range want {
		if got[name] != n {
			t.Errorf("%s is %d, want %d", name, got[name], n)
		}
	}
	if text := get(newFake(2).server(), "/queue.json").Body.String(); text != `{"messages":0,"in_flight":0,"total":0,"workers":2,"busy":0}`+"\n" {
		t.Errorf("without messages: %s", text)
	}
}

// /status is for people, unless a program asks.
func TestStatusByAccept(t *testing.T) {
	s := newFake(1).server()
	for accept, want := range map[string]string{
		"":                             "text/html",
		"*/*":                          "text/html",
		"text/html,application/json":   "text/html",
		"application/json":             "application/json",
		"application/json;q=0.9, */*":  "application/json",
		"application/jsonp, text/html": "text/html",
	} {
		w := get(s, "/status", "Accept: "+accept)
		if kind := w.Header().Get("Content-Type"); !strings.HasPrefix(kind, want) || w.Header().Get("Vary") != "Accept" {
			t.Errorf("%q: %s", accept, kind)
		}
	}
}
