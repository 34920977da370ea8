package spool

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A replay is the source of what a spool had kept before this start. It
// implements ipc.Source.
type replay struct {
	spool *Spool
	queue *ipc.Queue
	log   zerolog.Logger
	stats ipc.SourceStats
	flow  ipc.Flow
	loop  *ipc.Loop
}

// A message is one from the spool. It is its own origin.
type message struct {
	spool  *Spool
	name   string
	header header
	stays  bool // in its file, for the next start
	moved  bool // to the given-up ones
}

// Replay returns the source of the undelivered messages that were there when
// the spool was opened. Its Serve returns when all are in the queue, which may
// wait for workers: if it is called before Serve of the others, an old message
// goes before each new one.
func (s *Spool) Replay(q *ipc.Queue) ipc.Source {
	r := &replay{spool: s, queue: q, log: s.log, loop: ipc.NewLoop()}
	r.stats.Name = "spool://" + s.dir
	r.flow = ipc.NewFlow(&ipc.Lane{Source: &r.stats, Unheard: true})
	return r
}

// Stats implements ipc.Source.
func (r *replay) Stats() *ipc.SourceStats { return &r.stats }

// Serve implements ipc.Source.
func (r *replay) Serve() {
	if !r.loop.Begin() {
		return
	}
	defer r.loop.End()
	for _, name := range r.spool.found {
		if r.loop.IsStopped() {
			return
		}
		h, body, err := readFile(r.spool.path(name), r.queue.MaxMessage())
		if err != nil {
			r.log.Warn().Str("file", name).Str("why", err.Error()).Msg("cannot read spooled message, leaving it in place")
			continue
		}
		r.submit(&message{spool: r.spool, name: name, header: h}, body)
	}
}

func (r *replay) submit(m *message, body []byte) {
	d := ipc.NewDelivery(m, &r.flow, body)
	d.Resume(m.header.Attempts)
	if most := r.queue.Attempts(); d.Attempts() >= most {
		r.stats.Received.Add(1)
		r.queue.GiveUp(d, fmt.Sprintf("it was kept after as many attempts as --attempts %d allows", most))
		return
	}
	for r.queue.Submit([]*ipc.Delivery{d}) == 0 {
		select {
		case <-r.loop.Stopped(): // it is on the disk still
			r.queue.Leave(&r.flow)
			d.Release()
			return
		case <-r.queue.Room(&r.flow):
		}
	}
	r.stats.Received.Add(1)
}

// Settled implements ipc.Origin.
func (m *message) Settled(d *ipc.Delivery, reply []byte) {
	if frame.IsFailure(reply) && !m.stays && !m.moved {
		m.spool.GiveUp(d, string(frame.Body(reply))) // the sender is not there any more to be told
	}
	if !m.stays {
		m.spool.remove(m.name)
	}
	d.Release()
}

// Flush implements ipc.Origin.
func (m *message) Flush() {}

// Drain implements ipc.Source: what is not in the queue by now stays in the spool.
func (r *replay) Drain(ctx context.Context) {
	r.loop.Stop()
	select {
	case <-r.loop.Ended():
	case <-ctx.Done():
	}
}

// Close implements ipc.Source.
func (r *replay) Close() { r.Drain(context.Background()) }

// Linger implements ipc.Source: no sender is there to be told.
func (r *replay) Linger(context.Context) {}
