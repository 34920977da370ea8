package daemon

import (
	"math"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
)

// A manySource has connections.
type manySource struct {
	fakeSource
	connections, bytes int
}

func (s *manySource) Connections() int       { return s.connections }
func (s *manySource) LimitConnections(n int) { s.connections = n }
func (s *manySource) ConnectionBytes() int   { return s.bytes }

// Connections leave open files for workers, the control socket and probes.
func TestConnectionsLeaveFiles(t *testing.T) {
	for _, tt := range []struct {
		files, workers int
		http           string
		wanted         []int
		want           []int
	}{
		{1 << 20, 2, ":0", []int{1024}, []int{1024}},
		{1024, 2, "", []int{1024}, []int{880}},
		{1024, 2, ":0", []int{1024}, []int{624}},
		{1024, 2, ":0", []int{600}, []int{600}},
		{1024, 2, "", []int{1024, 3072}, []int{220, 660}},
		{1024, 1000, "", []int{1024}, []int{256}},
		{64, 1, "", []int{1, 1 << 30}, []int{1, 15}},
		{math.MaxInt32, 1, "", []int{math.MaxInt32, math.MaxInt32}, []int{1073741755, 1073741755}},
	} {
		log := new(logBook)
		in := &intake{log: zerolog.New(log), sources: []ipc.Source{new(fakeSource)}}
		var all []*manySource
		for _, n := range tt.wanted {
			s := &manySource{connections: n}
			all = append(all, s)
			in.sources = append(in.sources, s)
		}
		cfg := &Config{HTTP: tt.http}
		cfg.Pool.Workers = tt.workers
		in.limitConnections(tt.files, reservedFiles(cfg), 0)
		for i, s := range all {
			if s.connections != tt.want[i] {
				t.Errorf("%+v: source %d has %d", tt, i, s.connections)
			}
		}
		if lowered := all[0].connections != tt.wanted[0] || len(all) > 1; lowered != strings.Contains(log.String(), "lowered") {
			t.Errorf("%+v: log %q", tt, log.String())
		}
	}
	for _, tt := range []struct {
		memory uint64
		wanted []int
		want   []int
	}{
		{0, []int{1024, 1024}, []int{1024, 1024}},
		{512 << 20, []int{1024, 1024}, []int{1024, 1024}},
		{64 << 20, []int{1024}, []int{1024}},
		{64 << 20, []int{1024, 1024}, []int{204, 204}},
		{1 << 63, []int{1024, 1024}, []int{1024, 1024}},
		{1, []int{1024, 1}, []int{1, 1}},
	} {
		log := new(logBook)
		in := &intake{log: zerolog.New(log)}
		for i, n := range tt.wanted {
			in.sources = append(in.sources, &manySource{connections: n, bytes: (16 + 48*i) << 10})
		}
		in.limitConnections(1<<20, 0, tt.memory)
		for i, s := range in.sources {
			if got := s.(bounded).Connections(); got != tt.want[i] {
				t.Errorf("%d bytes of memory: %v became %d in place of %d", tt.memory, tt.wanted, got, tt.want[i])
			}
		}
		if lowered := tt.want[0] < tt.wanted[0]; lowered != strings.Contains(log.String(), "what the memory limit leaves") {
			t.Errorf("log %q", log.String())
		}
	}
	if n := openFiles(); n < 16 {
		t.Errorf("%d open files", n)
	}
}
