package daemon

import (
	"runtime"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// The number of workers follows the CPUs at a reload, until an operator sets it.
func TestAutoFollowsCPUs(t *testing.T) {
	cpus := 3
	inWorld(t, func(c *setup) { c.auto = &autoWorkers{cpus: func() int { return cpus }, log: zerolog.Nop()} }, func(w *world) {
		w.run()
		reload := func(want int) {
			t.Helper()
			<-w.d.pool.ReloadWait("test")
			if n := w.d.pool.Workers(); n != want {
				t.Errorf("%d workers with %d CPUs, want %d", n, cpus, want)
			}
		}
		reload(3)
		cpus = 5
		reload(5)
		cpus = 0 // not known
		reload(5)
		cpus = 1
		w.d.pool.Reload("test")
		time.Sleep(time.Minute)
		if n := w.d.pool.Workers(); n != 1 {
			t.Errorf("%d workers", n)
		}
		o := &operator{requests: w.d.pool, log: zerolog.Nop()}
		if err := o.Scale(2, "test"); err != nil {
			t.Fatal(err)
		}
		cpus = 4
		reload(2)
	})
}

// What auto follows is what it began with.
func TestUsableCPUs(t *testing.T) {
	runtime.SetDefaultGOMAXPROCS()
	if n := runtime.GOMAXPROCS(0); usableCPUs() != n {
		t.Errorf("%d CPUs, Go uses %d", usableCPUs(), n)
	}
}
