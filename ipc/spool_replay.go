package ipc

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc/frame"
)

// A replay is the source of what a spool had kept before this start.
type replay struct {
	spool  *Spool
	queue  *Queue
	log    zerolog.Logger
	stats  SourceStats
	taking taking
}

// A spooled is a message from the spool. It is its own origin.
type spooled struct {
	spool  *Spool
	name   string
	header spoolHeader
	stays  bool // in its file, for the next start
	moved  bool // to the given-up ones
}

// Replay returns the source of the undelivered messages that were there when
// the spool was opened. Its Serve returns when all are in the queue, which may
// wait for workers: whoever calls it before Serve of the others has the old
// messages handled first.
func (s *Spool) Replay(q *Queue) Source {
	r := &replay{spool: s, queue: q, log: s.log}
	r.stats.Name = "spool://" + s.dir
	r.taking.init()
	return r
}

// Stats implements Source.
func (r *replay) Stats() *SourceStats { return &r.stats }

// Serve implements Source.
func (r *replay) Serve() {
	if !r.taking.begin() {
		return
	}
	defer r.taking.end()
	for _, name := range r.spool.found {
		if r.taking.isHalted() {
			return
		}
		header, body, err := readSpoolFile(r.spool.path(name), r.queue.cfg.MaxMessage)
		if err != nil {
			r.log.Warn().Str("file", name).Str("why", err.Error()).Msg("a message in the spool cannot be read: left alone")
			continue
		}
		r.take(&spooled{spool: r.spool, name: name, header: header}, body)
	}
}

func (r *replay) take(m *spooled, body []byte) {
	d := NewDelivery(m, &r.stats, body)
	d.attempts = m.header.Attempts
	if most := r.queue.cfg.Attempts; d.attempts >= most {
		r.stats.Received.Add(1)
		d.text = fmt.Sprintf("it was kept after as many attempts as --attempts %d allows", most)
		d.enter(r.queue, now())
		r.queue.giveUp(d)
		return
	}
	for r.queue.Submit([]*Delivery{d}) == 0 {
		select {
		case <-r.taking.halted: // it is on the disk still
			d.Release()
			return
		case <-r.queue.Room():
		}
	}
	r.stats.Received.Add(1)
}

// Settled implements Origin.
func (m *spooled) Settled(d *Delivery, reply []byte) {
	if frame.IsFailure(reply) && !m.stays && !m.moved {
		m.spool.GiveUp(d, string(frame.Body(reply))) // there is nobody else to tell
	}
	if !m.stays {
		m.spool.remove(m.name)
	}
	d.Release()
}

// Flush implements Origin.
func (m *spooled) Flush() {}

// Drain implements Source: what is not in the queue by now stays in the spool.
func (r *replay) Drain(ctx context.Context) {
	r.taking.halt()
	select {
	case <-r.taking.ended:
	case <-ctx.Done():
	}
}

// Close implements Source.
func (r *replay) Close() { r.Drain(context.Background()) }

// Linger implements Source: there is nobody to tell.
func (r *replay) Linger(context.Context) {}
