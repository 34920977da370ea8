package launch

import (
	"context"
	"sync"
	"time"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/supervisor"
)

// exitGrace is how long a worker that closed its channel may take to begin to
// exit before it counts as detached: a program may close its files first. A
// worker that is exiting is waited for, however long that takes.
const exitGrace = 50 * time.Millisecond

// A feed is a worker's message channel. It says what the channel asks for in the
// supervisor's words. A nil feed belongs to a worker that gets no messages.
type feed struct {
	channel  *ipc.Channel
	asks     chan supervisor.Ask
	released context.Context
	cancel   context.CancelFunc
	relaying sync.WaitGroup
}

func newFeed(channel *ipc.Channel) *feed {
	f := &feed{channel: channel, asks: make(chan supervisor.Ask)}
	f.released, f.cancel = context.WithCancel(context.Background())
	return f
}

// relay begins to hand on what the channel asks for, until release. exited and
// exiting are about the worker's process.
func (f *feed) relay(exited <-chan struct{}, exiting func() bool) {
	f.relaying.Go(func() {
		for {
			select {
			case what := <-f.channel.Asks():
				f.tell(translate(what), exited, exiting)
			case <-f.released.Done():
				return
			}
		}
	})
}

func (f *feed) tell(ask supervisor.Ask, exited <-chan struct{}, exiting func() bool) {
	if ask == supervisor.AskDetach && !f.livesOn(exited, exiting) {
		return
	}
	select {
	case f.asks <- ask:
	case <-f.released.Done():
	}
}

// livesOn reports whether a process that has closed its channel is still not
// exiting after exitGrace. Exiting can be mistaken, so that a process which
// seems to exit is looked at once more.
func (f *feed) livesOn(exited <-chan struct{}, exiting func() bool) bool {
	for {
		select {
		case <-exited:
			return false
		case <-f.released.Done():
			return false
		case <-time.After(exitGrace):
			if !exiting() {
				return true
			}
		}
	}
}

func translate(what ipc.Ask) supervisor.Ask {
	switch what {
	case ipc.AskRecycle:
		return supervisor.AskRecycle
	case ipc.AskFailing:
		return supervisor.AskFailing
	case ipc.AskTimeout:
		return supervisor.AskTimeout
	case ipc.AskDetach:
		return supervisor.AskDetach
	}
	return supervisor.AskBroken
}

func (f *feed) events() <-chan supervisor.Ask {
	if f == nil {
		return nil
	}
	return f.asks
}

// begin begins the feeding: see ipc.Channel.Serve.
func (f *feed) begin(proven bool, grace time.Time) {
	if f != nil {
		f.channel.Serve(proven, grace)
	}
}

// markReady says that the worker has said that it is ready.
func (f *feed) markReady() {
	if f != nil {
		f.channel.MarkReady()
	}
}

// answered returns a channel that is closed when the worker has answered a message
// without failure.
func (f *feed) answered() <-chan struct{} {
	if f == nil {
		return nil
	}
	return f.channel.Answered()
}

// finish ends the feeding. The channel is closed when the worker has answered
// what it had.
func (f *feed) finish() <-chan struct{} {
	if f == nil {
		return nothingInHand()
	}
	return f.channel.Finish()
}

func nothingInHand() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// release closes the channel. What the worker has not answered goes to others.
func (f *feed) release(why string, byPool bool) supervisor.Life {
	if f == nil {
		return supervisor.Life{}
	}
	f.cancel()
	if byPool {
		f.channel.Spare()
	}
	f.channel.Close(why)
	f.relaying.Wait()
	life := f.channel.Life()
	return supervisor.Life{Answered: life.Answered, Held: life.Held, LastAnswer: life.LastAnswer}
}
