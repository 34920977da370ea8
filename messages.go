package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/supervisor/output"
)

// messages is everything between the sources and the workers.
type messages struct {
	queue    *ipc.Queue
	spool    *ipc.Spool   // or nil
	sources  []ipc.Source // the spool is the first of them
	serving  sync.WaitGroup
	taking   atomic.Bool // all sources have begun to take messages
	draining sync.WaitGroup
	hurry    context.CancelFunc // ends the waiting of a drain; nil: there is none
	log      zerolog.Logger
}

// openMessages opens the spool and binds every source, or none.
func openMessages(o *options, relay *output.Relay, log zerolog.Logger) (*messages, error) {
	m := &messages{log: log}
	cfg := o.queueConfig()
	if o.spool != "" && o.takesMessages() {
		var err error
		if m.spool, err = ipc.OpenSpool(o.spool, log); err != nil {
			return nil, err
		}
		m.spool.Stderr = relay.Tail
		cfg.Spool, cfg.GivenUp = m.spool.Keep, m.spool.GiveUp
	}
	m.queue = ipc.NewQueue(cfg, log)
	if m.spool != nil {
		m.sources = append(m.sources, m.spool.Replay(m.queue))
	}
	for _, u := range o.listen {
		source, err := ipc.Open(u, m.queue, log)
		if err != nil {
			m.close(context.Background(), time.Now())
			return nil, err
		}
		m.sources = append(m.sources, source)
	}
	return m, nil
}

func (o *options) queueConfig() ipc.Config {
	window := o.window
	if o.runsPerMessage() {
		window = 1
	}
	return ipc.Config{
		Messages:   o.queueMessages,
		Bytes:      int(o.queueBytes),
		MaxMessage: int(o.maxMessage),
		Window:     window,
		Attempts:   o.attempts,
		Lines:      o.deliver == "lines",
		Timeout:    o.messageTimeout,
		Recycle:    o.maxMessages,
	}
}

// serve begins to take messages, those in the spool before all others.
func (m *messages) serve() {
	m.serving.Go(func() {
		sources := m.sources
		if m.spool != nil {
			sources[0].Serve() // returns when all that was there is in the queue
			sources = sources[1:]
		}
		for _, s := range sources {
			m.log.Info().Str("source", s.Stats().Name).Msg("taking messages")
			m.serving.Go(s.Serve)
		}
		m.taking.Store(true)
	})
}

// drain has what has arrived handled. The returned channel is closed when
// nothing is left, or time is up; what is left then is not handled any more.
func (m *messages) drain(until time.Time) <-chan struct{} {
	done := make(chan struct{})
	ctx, cancel := context.WithDeadline(context.Background(), until)
	m.hurry = cancel
	m.draining.Go(func() {
		defer cancel()
		var sources sync.WaitGroup
		for _, s := range m.sources {
			sources.Go(func() { s.Drain(ctx) })
		}
		sources.Wait()
		select {
		case <-m.queue.Empty():
		case <-ctx.Done():
		}
		close(done)     // the workers stop,
		m.queue.Close() // while what is left goes to the spool
	})
	return done
}

// close ends the sources, when the workers are gone. Clients have until then to
// hear how their messages ended, unless somebody is in a hurry.
func (m *messages) close(hurried context.Context, until time.Time) {
	m.queue.Close() // as a rule it is; a second stop signal comes before drain has closed it
	if m.hurry != nil {
		m.hurry()
	}
	m.draining.Wait()
	if least := time.Now().Add(leastGrace); until.Before(least) || hurried.Err() != nil {
		until = least // what the spool took its time for is still to be told
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	if hurried.Err() == nil {
		defer context.AfterFunc(hurried, func() {
			m.log.Warn().Msg("asked to stop again: not waiting for clients any longer")
			cancel()
		})()
	}
	var closing sync.WaitGroup
	for _, s := range m.sources {
		closing.Go(func() {
			s.Linger(ctx)
			s.Close()
		})
	}
	closing.Wait()
	m.serving.Wait()
	if m.spool != nil {
		m.spool.Close()
	}
}

// totals sums up what the sources have counted.
func (m *messages) totals() (t ipc.Totals) {
	for _, s := range m.sources {
		stats := s.Stats()
		t.Handled += stats.Handled.Load()
		t.Failed += stats.Failed.Load()
		t.Spooled += stats.Spooled.Load()
		t.Lost += stats.Lost.Load()
	}
	return t
}

// parseDirectory takes what can be the path of one; "" stands for none.
func parseDirectory(s string) (string, error) {
	if strings.ContainsRune(s, 0) {
		return "", errors.New("the path of a directory, such as /var/spool/poolinit")
	}
	return s, nil
}
