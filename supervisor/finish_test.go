package supervisor

import (
	"testing"
	"time"

	"github.com/poolinit/poolinit/supervisor/notify"
)

// What a worker says is read until its end: poolinit notify waits for that.
func TestWorkerSpeaksWhileItStops(t *testing.T) {
	inWorld(t, func(c *Config) { c.Workers = 1 }, func(w *world) {
		w.obey = deaf
		w.run()
		w.pool.Stop("test")
		w.pass(time.Second)
		began := time.Now()
		p := w.last(0)
		p.say(notify.Message{Status: "tidying up"})
		p.say(notify.Message{}) // a BARRIER
		w.want("how long it took to be heard", time.Since(began), time.Duration(0))
		w.want("its status", w.pool.Stats().Workers[0].Status, "tidying up")
		close(p.notices) // it may be, at any time
		w.want("killed", w.wait(time.Minute).Killed, 1)
	})
}
