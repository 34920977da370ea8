package metrics

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/supervisor"
)

// The test binary plays the workers, too: processes that wait for their stdin to
// end.
func TestMain(m *testing.M) {
	os.Exit(testkit.Children{"worker": func([]string) int {
		_, _ = os.Stdin.Read(make([]byte, 1)) // ends with the test
		return 0
	}}.Main(m))
}

// The parts of a fake pool. Each returns what the test has set.
type (
	fakePool   struct{ stats func() supervisor.Stats }
	fakeReaper struct{ stats reaper.Stats }
	fakeQueue  struct{ stats func() ipc.QueueStats }
	fakeSource struct {
		ipc.Source
		stats ipc.SourceStats
	}
)

func (p *fakePool) Stats() supervisor.Stats { return p.stats() }
func (r fakeReaper) Stats() reaper.Stats    { return r.stats }

func (q *fakeQueue) Stats(workers int) ipc.QueueStats {
	s := q.stats()
	for len(s.Workers) < workers {
		s.Workers = append(s.Workers, ipc.WorkerStats{})
	}
	return s
}

func (q *fakeQueue) Paused() bool { return q.stats().Paused }

func (s *fakeSource) Stats() *ipc.SourceStats { return &s.stats }

func newSource(name string) *fakeSource {
	s := new(fakeSource)
	s.stats.Name = name
	return s
}

// A fake is a pool that is what its fields say.
type fake struct {
	pool    supervisor.Stats
	queue   ipc.QueueStats
	spool   ipc.SpoolStats
	serving bool
	options Options
}

// newFake returns a pool with a number of workers, which serves and has nothing to do.
func newFake(workers int, sources ...string) *fake {
	f := &fake{serving: true}
	f.pool = supervisor.Stats{
		Began: time.Now(), Generation: 1, Complete: true, Wanted: workers, Workers: make([]supervisor.WorkerStats, workers),
		Exits: map[supervisor.Cause]uint64{}, Reload: supervisor.ReloadStats{Results: map[supervisor.Outcome]uint64{}},
	}
	for i := range f.pool.Workers {
		f.pool.Workers[i] = supervisor.WorkerStats{ID: i, State: supervisor.Ready, Starts: 1, Started: time.Now(), Since: time.Now()}
	}
	view := &status.View{
		Version: "v1.2.3", PID: 1, QueueMessages: 1024, QueueBytes: 64 << 20,
		Pool:    &fakePool{func() supervisor.Stats { return f.pool }},
		Reaper:  fakeReaper{reaper.Stats{Orphans: 17}},
		Serving: func() bool { return f.serving },
	}
	if len(sources) > 0 {
		view.Queue = &fakeQueue{func() ipc.QueueStats { return f.queue }}
		view.Spool = func() *ipc.SpoolStats { return &f.spool }
	}
	for _, name := range sources {
		view.Sources = append(view.Sources, newSource(name))
	}
	f.options = Options{
		View: view, Revision: "abc", Go: "go1.0", Errors: func(error) {},
		Signals: func() map[string]uint64 {
			return map[string]uint64{
				"SIGTERM": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGRTMIN+3": 4, "SIGHUP": 5, "SIGUSR1": 6, "other": 7,
			}
		},
	}
	return f
}

// source returns the counts of a source.
func (f *fake) source(i int) *ipc.SourceStats { return f.options.View.Sources[i].Stats() }

// server returns a server of the pool that listens nowhere.
func (f *fake) server() *Server {
	return New(nil, &f.options)
}

// request makes a GET with header lines.
func request(path string, header ...string) *http.Request {
	r := httptest.NewRequest("GET", "http://localhost"+path, nil)
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	return r
}

// get asks a server for a path.
func get(s *Server, path string, header ...string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, request(path, header...))
	return w
}
