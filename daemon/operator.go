package daemon

import (
	"errors"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/metrics/control"
)

// An operator is a pool as the control socket sees it. It adds what changes a
// running pool: how many workers there are, and whether messages are handed out.
type operator struct {
	*requests
	queue *ipc.Queue // nil: the workers get no messages
	log   zerolog.Logger
}

var (
	errNoMessages = errors.New("the workers get no messages: there is no --listen")
	errStopping   = errors.New("the pool is stopping")
)

// Scale changes how many workers there should be.
func (o *operator) Scale(workers int, why string) error {
	if err := o.Pool.Scale(workers); err != nil {
		return err
	}
	o.auto.stop()
	o.log.Info().Int("workers", workers).Str("why", why).Msg("number of workers set")
	return nil
}

// Pause ends the handing out of messages until Resume, or until the pool stops. A
// pool that stops already is not paused: its drain would wait in vain.
func (o *operator) Pause(why string) error {
	if o.queue == nil {
		return errNoMessages
	}
	o.queue.Pause()
	// A stop that begins after this look ends the pause itself.
	if !o.stopDeadline().IsZero() {
		o.queue.Resume()
		return errStopping
	}
	o.log.Info().Str("why", why).Msg("paused, handing out no messages")
	return nil
}

// Resume ends a Pause.
func (o *operator) Resume(why string) error {
	if o.queue == nil {
		return errNoMessages
	}
	o.queue.Resume()
	o.log.Info().Str("why", why).Msg("resumed, handing out messages")
	return nil
}

// Queue returns messages that wait for a worker, at most limit.
func (o *operator) Queue(limit int) (control.List, error) {
	if o.queue == nil {
		return control.List{}, errNoMessages
	}
	first, all := o.queue.List(limit)
	l := control.List{Messages: make([]control.Waiting, len(first)), More: all - len(first)}
	for i, w := range first {
		l.Messages[i] = control.Waiting{
			ID: w.ID, Source: w.Source, Age: w.Age.Seconds(), Bytes: w.Bytes, Attempts: w.Attempts, Due: w.Due.Seconds(),
		}
	}
	return l, nil
}

// Drop gives up messages that wait, and returns how many of the given ones did.
func (o *operator) Drop(ids []uint64, why string) (dropped int, err error) {
	if o.queue == nil {
		return 0, errNoMessages
	}
	dropped = o.queue.Drop(ids)
	o.log.Info().Int("dropped", dropped).Int("asked", len(ids)).Str("why", why).Msg("waiting messages dropped")
	return dropped, nil
}
