package daemon

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/spool"
	"github.com/poolinit/poolinit/reaper/awake"
	"github.com/poolinit/poolinit/supervisor/output"
)

// An intake is the way of messages into the pool: the sources, the spool and the
// queue.
type intake struct {
	queue    *ipc.Queue
	spool    *spool.Spool  // or nil
	replay   *spool.Replay // of what is in it; the first of the sources
	sources  []ipc.Source
	serving  sync.WaitGroup
	taking   atomic.Bool // all sources have begun to take messages
	draining sync.WaitGroup
	patience context.Context // of a drain; hurry ends it
	hurry    context.CancelFunc
	awake    *awake.Watch // may be nil
	memory   *memory
	log      zerolog.Logger
}

// openIntake opens the spool and binds every source. If one fails, it closes
// those before it.
func openIntake(cfg *Config, relay *output.Relay, watch *awake.Watch, log zerolog.Logger) (*intake, error) {
	in := &intake{awake: watch, log: log}
	in.patience, in.hurry = context.WithCancel(context.Background())
	queue := cfg.Queue
	queue.Awake = watch
	switch cfg.Deliver {
	case "tagged":
		queue.Format = ipc.Tagged
	case "lines":
		queue.Format = ipc.Lines
	}
	if cfg.RunsPerMessage() {
		queue.Window = 1
	}
	if cfg.Spool != "" && len(cfg.Listen) > 0 {
		var err error
		if in.spool, err = spool.Open(spool.Config{Dir: cfg.Spool, SpoolBytes: int64(cfg.SpoolBytes), Stderr: relay.Tail}, log); err != nil {
			return nil, err
		}
		queue.Spool, queue.GivenUp = in.spool.Keep, in.spool.GiveUp
	}
	in.queue = ipc.NewQueue(queue, log)
	in.memory = newMemory(in.memoryNeeded)
	if in.spool != nil {
		in.replay = in.spool.Replay(in.queue)
		in.sources = append(in.sources, in.replay)
	}
	for _, u := range cfg.Listen {
		source, err := u.Open(in.queue, log)
		if err != nil {
			in.close(context.Background(), time.Now())
			return nil, err
		}
		in.sources = append(in.sources, source)
	}
	in.limitConnections(openFiles(), reservedFiles(cfg), cfg.MemoryLimit)
	return in, nil
}

// takesMessages reports whether there is a message source.
func (in *intake) takesMessages() bool { return len(in.sources) > 0 }

// feed returns the queue that feeds the workers, or nil if there are no messages.
func (in *intake) feed() *ipc.Queue {
	if !in.takesMessages() {
		return nil
	}
	return in.queue
}

// serve begins to take messages, those in the spool before all others.
func (in *intake) serve() {
	in.memory.watch()
	in.serving.Go(func() {
		sources := in.sources
		if in.spool != nil {
			in.serving.Go(in.replay.Serve)
			<-in.replay.Ready()
			sources = sources[1:]
		}
		for _, s := range sources {
			in.log.Info().Str("source", s.Stats().Name).Msg("accepting messages")
			in.serving.Go(s.Serve)
		}
		in.taking.Store(true)
	})
}

// messagesWait reports whether a message waits for a worker.
func (in *intake) messagesWait() bool {
	n, _, _ := in.queue.Depth()
	return n > 0
}

// resume ends a pause, because the pool stops.
func (in *intake) resume() {
	if in.queue.Paused() {
		in.log.Info().Str("why", "the pool is stopping").Msg("resumed, handing out messages")
		in.queue.Resume()
	}
}

// drain closes the sources for what is not there yet, and waits until what has
// arrived is handled. It closes the channel that it returns when nothing is left,
// or at the given time; what is left then is not handled any more.
func (in *intake) drain(until time.Time) <-chan struct{} {
	done := make(chan struct{})
	ctx, cancel := in.until(in.patience, until)
	in.draining.Go(func() {
		in.queue.Until(until)
		defer cancel()
		var sources sync.WaitGroup
		for _, s := range in.sources {
			sources.Go(func() { s.Drain(ctx) })
		}
		sources.Wait()
		select {
		case <-in.queue.Empty():
		case <-ctx.Done():
		}
		close(done)      // the workers stop,
		in.queue.Close() // while what is left goes to the spool
	})
	return done
}

// close ends the sources when the workers are gone. Until the given time, clients
// can still read how their messages ended; hurried cuts that short.
func (in *intake) close(hurried context.Context, until time.Time) {
	in.memory.stop()
	in.queue.Close() // as a rule drain has; a second stop comes before that
	in.hurry()
	in.draining.Wait()
	in.flush(hurried, until)
	if least := time.Now().Add(leastGrace); until.Before(least) || hurried.Err() != nil {
		until = least // clients must hear of what the spool has just kept
	}
	ctx, cancel := in.until(context.Background(), until)
	defer cancel()
	if hurried.Err() == nil {
		defer context.AfterFunc(hurried, func() {
			in.log.Warn().Msg("no longer waiting for clients")
			cancel()
		})()
	}
	var closing sync.WaitGroup
	for _, s := range in.sources {
		closing.Go(func() {
			s.Linger(ctx)
			s.Close()
		})
	}
	closing.Wait()
	in.serving.Wait()
	if in.spool != nil {
		in.spool.Close()
	}
}

// until returns a context that ends at a time, or later if this program sleeps
// meanwhile.
func (in *intake) until(parent context.Context, at time.Time) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	timer := in.awake.AfterFunc(time.Until(at), cancel)
	return ctx, func() {
		timer.Stop()
		cancel()
	}
}

// spoolGrace is how long the spool has, after the last worker, to write what that
// had in hand, even if --stop-timeout has elapsed.
const spoolGrace = time.Second

// flush waits until all that is to be kept is on the disk. Only then clients are
// told.
func (in *intake) flush(hurried context.Context, until time.Time) {
	if in.spool == nil {
		return
	}
	if least := time.Now().Add(spoolGrace); until.Before(least) || hurried.Err() != nil {
		until = least
	}
	in.spool.Flush(until)
}

// spoolStats returns the counts of the spool.
func (in *intake) spoolStats() *ipc.SpoolStats {
	if in.spool == nil {
		return nil
	}
	s := in.spool.Stats()
	return &s
}

// connectionBytes is about what a connection takes that has nothing to do.
const connectionBytes = 16 << 10

// memoryNeeded returns how much memory messages and connections take, in bytes.
func (in *intake) memoryNeeded() int {
	n := in.queue.Memory()
	for _, s := range in.sources {
		n += int(s.Stats().Connections.Load()) * connectionBytes
	}
	return n
}

// totals sums up what the sources have counted.
func (in *intake) totals() (t ipc.Totals) {
	for _, s := range in.sources {
		stats := s.Stats()
		t.Handled += stats.Handled.Load()
		t.Failed += stats.Failed.Load()
		t.Spooled += stats.Spooled.Load()
		t.Lost += stats.Lost.Load()
	}
	return t
}
