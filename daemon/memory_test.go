package daemon

import (
	"bytes"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/sources"
)

// What auto is depends on the memory that there is; what was given stays.
func TestFitMemory(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		limit                      uint64
		queue, reply               int
		wantQueue, wantReply, soft int
		logs                       bool
	}{
		{0, 0, 0, 64 * mib, 64 * mib, 320 * mib, false},
		{64 * mib, 0, 0, 8 * mib, 8 * mib, 40 * mib, true},
		{64 * mib, 30 * mib, 0, 30 * mib, 8 * mib, 40 * mib, true},
		{64 * mib, 30 * mib, 20 * mib, 30 * mib, 20 * mib, 40 * mib, false},
		{4 * mib, 0, 0, mib, mib, 5 * mib / 2, true},
		{512 * mib, 0, 0, 64 * mib, 64 * mib, 320 * mib, false},
		{1 << 40, 0, 0, 64 * mib, 64 * mib, 320 * mib, false},
		{1<<64 - 1, 0, 3 * mib, 64 * mib, 3 * mib, 198 * mib, false},
	} {
		var text bytes.Buffer
		cfg := Config{Queue: ipc.Config{QueueBytes: tt.queue, ReplyBytes: tt.reply}, MemoryLimit: tt.limit, Listen: []*sources.Endpoint{{}}}
		soft := cfg.fitMemory(testLogger(&text))
		if cfg.Queue.QueueBytes != tt.wantQueue || cfg.Queue.ReplyBytes != tt.wantReply || soft != int64(tt.soft) || text.Len() > 0 != tt.logs {
			t.Errorf("%+v: queue %d, replies %d, soft limit %d, log %q", tt, cfg.Queue.QueueBytes, cfg.Queue.ReplyBytes, soft, text.String())
		}
		if tt.logs && !strings.Contains(text.String(), "an eighth of the memory limit") {
			t.Errorf("log %q", text.String())
		}
	}
}

// Go's memory limit is the user's if the environment has one.
func TestMemoryLimitIsTheUsers(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "123MiB")
	setMemoryLimit(456 << 20)
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("%d in spite of GOMEMLIMIT", got)
	}
	t.Setenv("GOMEMLIMIT", "")
	setMemoryLimit(456 << 20)
	if got := debug.SetMemoryLimit(-1); got != 456<<20 {
		t.Errorf("%d", got)
	}
}

// Memory is given back when it is not needed any more, and not while it is; and if
// that is of no use, not again and again.
func TestMemoryIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var needed, inUse, floor, freed atomic.Int64 // in MiB; of two goroutines
		m := newMemory(func() int { return int(needed.Load()) << 20 })
		m.inUse = func() int { return int(inUse.Load()) << 20 }
		m.free = func() { freed.Add(1); inUse.Store(max(needed.Load(), floor.Load()) + 5) }
		after := func(what string, rounds int, want int64) {
			t.Helper()
			time.Sleep(time.Duration(rounds) * (memoryDelay + time.Millisecond))
			synctest.Wait()
			if got := freed.Load(); got != want {
				t.Errorf("%s: given back %d times, want %d", what, got, want)
			}
		}
		inUse.Store(10)
		m.collected(new(collected))
		after("at rest", 1, 0)
		if m.timer != nil {
			t.Error("it goes on looking")
		}
		needed.Store(100)
		inUse.Store(115)
		m.collected(new(collected))
		after("all of it is needed", 3, 0)
		needed.Store(0)
		after("it is not needed any more", 1, 1)
		after("and was given back", 3, 1)
		floor.Store(80)
		inUse.Store(150)
		m.collected(new(collected))
		after("most of it cannot be given back", 5, 2)
		floor.Store(0)
		inUse.Store(150)
		after("now it can", 1, 3)
		inUse.Store(150)
		m.collected(new(collected))
		m.stop()
		after("stopped", 3, 3)
	})
}

// Each collection of garbage is noticed.
func TestCollectionsAreNoticed(t *testing.T) {
	var looks atomic.Int32
	m := newMemory(func() int { looks.Add(1); return 0 })
	m.delay = time.Millisecond
	m.watch()
	defer m.stop()
	for want := range int32(3) {
		testkit.Eventually(t, "it looks", func() (any, bool) { debug.FreeOSMemory(); return looks.Load(), looks.Load() > want })
	}
}
