package dial

import "github.com/poolinit/poolinit/client/internal/frame"

// A ledger is what is known about the messages that a Stream has sent over one
// connection: which of them have a reply, and what the end of the connection
// tells about the others.
type ledger struct {
	counted bool // it is known whose reply a frame is

	pending []Message // sent; if counted, without those that were answered
	stopped []Message // answered "stopping"; only if counted
	stops   int       // how many were answered "stopping"
	replies int
	big     *overflow // a message was too big
}

// An overflow is a message that was too big. The pool has dealt with all before
// it, and dropped all after it.
type overflow struct {
	at   int  // its place in pending, or the first one that may be it
	sure bool // it is it
}

// record notes a reply; code is that of a failure. It returns the message that
// the reply is for, or the zero Message if that is not known.
func (l *ledger) record(code frame.Code) (m Message, err error) {
	l.replies++
	switch {
	case l.big != nil:
		return m, errGarbage // a message that is too big is a connection's last
	case l.counted && len(l.pending) == 0, !l.counted && l.replies > len(l.pending):
		return m, errTooMany
	}
	if code == frame.TooBig {
		l.overflowed()
	}
	m = l.whose()
	if code == frame.Stopping {
		l.stops++
		if l.counted {
			l.stopped = append(l.stopped, m)
		}
	}
	return m, nil
}

// whose returns the message that the latest reply is for, if that is known.
func (l *ledger) whose() (m Message) {
	switch {
	case l.counted:
		m, l.pending[0] = l.pending[0], Message{}
		l.pending = l.pending[1:]
	case l.big != nil && l.big.sure:
		m = l.pending[l.big.at]
	case len(l.pending) == 1:
		m = l.pending[0]
	}
	return m
}

// overflowed finds the message that was too big, if replies are not counted. It
// is longer than all before it, which were taken, and not one that a reply came
// for. If that leaves several, none is taken for it: to send again what was
// handled is as wrong as to lose some.
func (l *ledger) overflowed() {
	l.big = new(overflow)
	if l.counted {
		return
	}
	first, found, longest := l.replies-1, 0, 0
	l.big.at = first
	for i, m := range l.pending {
		if len(m.Body) <= longest {
			continue
		}
		longest = len(m.Body)
		if i < first {
			continue
		}
		if found++; found == 1 {
			l.big.at = i
		}
	}
	l.big.sure = found == 1
}

// uncounted returns what is to be sent again if replies are not counted, and of
// how many messages it is not known what became of them. clean tells that the
// pool had read everything when it closed.
func (l *ledger) uncounted(clean bool) (resend []Message, unknown int) {
	if l.big != nil {
		return l.afterBig()
	}
	// Whatever is answered "stopping" comes last on a connection. But a pool that
	// stops may also have run out of time to answer.
	if !clean || l.stops > 0 {
		unknown = len(l.pending) - l.replies
	}
	return l.pending[len(l.pending)-l.stops:], unknown
}

// afterBig is uncounted if a message was too big: those after it were dropped,
// and any that were answered "stopping" came right before it.
func (l *ledger) afterBig() (resend []Message, unknown int) {
	from := l.big.at - l.stops
	if !l.big.sure {
		return nil, len(l.pending) - from - 1
	}
	resend = append(resend, l.pending[from:l.big.at]...)
	return append(resend, l.pending[l.big.at+1:]...), 0
}

// doubt returns among which messages those are of which it is not known what
// became of them, and why; err is why the reader ended.
func (l *ledger) doubt(err error) (first, last Message, why error) {
	first, last, why = l.pending[0], l.pending[len(l.pending)-1], err
	switch {
	case l.big != nil:
		first, why = l.pending[l.big.at-l.stops], ErrWhichTooBig
	case l.stops > 0:
		why = ErrStopping
	}
	return first, last, why
}
