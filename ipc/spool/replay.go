package spool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
)

// A Replay is the source of what a spool had kept before this start. It
// implements ipc.Source.
type Replay struct {
	ready chan struct{}
	once  sync.Once // closes it

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
func (s *Spool) Replay(q *ipc.Queue) *Replay {
	r := &Replay{spool: s, queue: q, log: s.log, loop: ipc.NewLoop(), ready: make(chan struct{})}
	r.stats.Name = "spool://" + s.path
	r.flow = ipc.NewFlow(&ipc.Lane{Source: &r.stats, Unheard: true})
	return r
}

// Stats implements ipc.Source.
func (r *Replay) Stats() *ipc.SourceStats { return &r.stats }

// Serve implements ipc.Source.
func (r *Replay) Serve() {
	if !r.loop.Begin() {
		return
	}
	defer r.loop.End()
	defer r.isReady()
	if !r.await(r.spool.opened) {
		return
	}
	if err := r.spool.writer.err; err != nil {
		r.log.Error().Err(err).Msg("spool cannot be used")
		return
	}
	for _, name := range r.spool.found {
		if r.loop.IsStopped() || !r.replay(name) {
			return
		}
	}
}

// replay submits one message. It reports whether there is time for the next.
func (r *Replay) replay(name string) bool {
	var (
		h    header
		body []byte
		err  error
	)
	read := make(chan struct{})
	go func() { // ends when the disk responds
		defer close(read)
		h, body, err = r.spool.read(name, r.queue.MaxMessage())
	}()
	if !r.await(read) {
		return false
	}
	if err != nil {
		why := err.Error()
		r.spool.unread.Add("cannot read spooled message, leaving it in place", func(e *zerolog.Event) { e.Str("file", name).Str("why", why) })
		return true
	}
	r.submit(&message{spool: r.spool, name: name, header: h}, body)
	return true
}

// await waits for the disk. If that hangs, other sources need not wait for this
// one any more. It reports whether it is not time to stop yet.
func (r *Replay) await(done <-chan struct{}) bool {
	late := time.NewTimer(hangsAfter)
	defer late.Stop()
	for {
		select {
		case <-done:
			return true
		case <-r.loop.Stopped():
			return false
		case <-late.C:
			r.log.Warn().Str("silent_for", hangsAfter.String()).Msg("spool does not respond, going on without waiting for it")
			r.isReady()
		}
	}
}

func (r *Replay) isReady() { r.once.Do(func() { close(r.ready) }) }

// Ready returns a channel that is closed when all messages are in the queue, or
// the disk hangs: before that others should not be accepted.
func (r *Replay) Ready() <-chan struct{} { return r.ready }

func (r *Replay) submit(m *message, body []byte) {
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
	switch {
	case m.stays, m.moved:
	case frame.IsFailure(reply): // the sender is not there any more to be told
		m.spool.GiveUp(d, string(frame.Body(reply)), d.Release)
		return
	default:
		m.spool.drop(m.name)
	}
	d.Release()
}

// Flush implements ipc.Origin.
func (m *message) Flush() {}

// Drain implements ipc.Source: what is not in the queue by now stays in the spool.
func (r *Replay) Drain(ctx context.Context) {
	r.loop.Stop()
	select {
	case <-r.loop.Ended():
	case <-ctx.Done():
	}
}

// Close implements ipc.Source.
func (r *Replay) Close() { r.Drain(context.Background()) } // which no disk holds up

// Linger implements ipc.Source: no sender is there to be told.
func (r *Replay) Linger(context.Context) {}
