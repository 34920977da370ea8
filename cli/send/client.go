package send

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// A sender brings messages to a pool, over one connection after the other.
type sender struct {
	o    *sendOptions
	in   <-chan []parcel
	out  *sendOutput
	dial func(context.Context) (halfConn, error)

	todo   []parcel // taken from in, or to be sent again
	rounds int      // connections
	heard  bool     // something has come back
	moved  time.Time
	pause  time.Duration
}

// Between attempts to send again what a server did not take.
const (
	firstPause = 20 * time.Millisecond
	maxPause   = time.Second
)

var (
	errMute   = errors.New("the server does not answer every message: --reply is for one with reply=always in its URL")
	errSilent = errors.New("nothing was heard within --timeout")
	errNoWay  = errors.New("the server takes connections, but no messages")
)

// run sends everything, or reports why it cannot.
func (s *sender) run() {
	for s.await(nil, nil, nil) {
		conn, err := s.connect()
		if err == nil {
			s.rounds++
			r := newRound(s, conn)
			r.run()
			err = s.ended(r)
		}
		if err != nil {
			s.giveUp(err)
			return
		}
	}
}

// await waits until there is something to send. It returns false at the end of
// the input, or when one of the others fires.
func (s *sender) await(timeout <-chan time.Time, over, hush <-chan struct{}) bool {
	for len(s.todo) == 0 {
		var ok bool
		select {
		case s.todo, ok = <-s.in:
			if !ok {
				return false
			}
		case <-timeout:
			return false
		case <-over:
			return false
		case <-hush:
			return false
		}
	}
	return true
}

// connect connects. After the first connection it tries for --connect-timeout
// from the last progress on: the server may be about to be started again.
func (s *sender) connect() (halfConn, error) {
	first := s.rounds == 0
	if first {
		s.moved = time.Now()
	}
	for {
		time.Sleep(s.pause)
		ctx, cancel := context.WithTimeout(context.Background(), s.o.connectTimeout)
		conn, err := s.dial(ctx)
		cancel()
		if err == nil || first || s.stuck() {
			return conn, err
		}
		s.slower()
	}
}

func (s *sender) stuck() bool { return time.Since(s.moved) > s.o.connectTimeout }

func (s *sender) slower() { s.pause = min(max(2*s.pause, firstPause), maxPause) }

// ended decides what a connection's end means. An error ends everything.
func (s *sender) ended(r *round) error {
	again, unknown := r.leftover()
	if unknown > 0 {
		s.out.lost(unknown, r.unknown(unknown))
	}
	s.out.unsent(again)
	s.todo = append(again, s.todo...)
	s.heard = s.heard || r.frames > 0
	if len(again) < r.sent {
		s.moved, s.pause = time.Now(), 0
	} else if r.sent > 0 {
		s.slower()
	}
	switch {
	case errors.Is(r.err, os.ErrDeadlineExceeded):
		return errSilent
	case r.clean() && len(r.pending) > 0 && len(again) > 0 && !s.heard:
		return fmt.Errorf("%w%s", errMute, r.perhapsTLS()) // or else all of it would be handled again and again
	case len(again) > 0 && s.stuck():
		return fmt.Errorf("%w%s", errNoWay, r.perhapsTLS())
	}
	return nil
}

// giveUp says where the sending ended. The rest of the input is not read.
func (s *sender) giveUp(err error) {
	text := fmt.Sprintf("%s: %v", s.o.to.Name, err)
	switch {
	case s.rounds == 0:
		text += "; nothing was sent"
	case len(s.todo) > 0:
		text += fmt.Sprintf("; from %s on nothing is known to be handled", s.todo[0])
	}
	s.out.lost(max(1, len(s.todo)), text)
}
