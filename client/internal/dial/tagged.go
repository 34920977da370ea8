package dial

import (
	"bufio"
	"errors"

	"github.com/poolinit/poolinit/client/internal/frame"
)

// version is that of the protocol of tagged frames.
const version = 1

// readTagged reads replies to the end of the connection, whose reason it returns.
func (l *link) readTagged() error {
	in := bufio.NewReaderSize(eager{l}, bufferSize)
	if err := isGreeted(in); err != nil {
		return err
	}
	for {
		t, err := readTagged(in)
		if err == nil {
			err = l.assignTagged(t)
		}
		if err != nil {
			return err
		}
	}
}

// isGreeted reads the pool's hello. Before that a pool speaks plain frames: it
// says why it will not speak to this client.
func isGreeted(in *bufio.Reader) error {
	header, err := in.Peek(frame.HeaderSize)
	if err != nil {
		return err
	}
	if frame.IsFailure(header) {
		body, _, err := readReply(in)
		if err != nil {
			return err
		}
		return parseFailure(body)
	}
	t, err := readTagged(in)
	if err == errGarbage {
		return errPlain
	}
	if err != nil {
		return err
	}
	if c, err := frame.ParseControl(t.Body); t.Tag != 0 || err != nil || c.Hello != version {
		return errPlain
	}
	return nil
}

// readTagged reads a tagged reply. A frame that no pool sends is errGarbage.
func readTagged(in *bufio.Reader) (frame.Tagged, error) {
	t, err := frame.ReadTagged(in, frame.MaxReply)
	for _, bad := range []error{frame.ErrTooLong, frame.ErrNoTag, frame.ErrBadTag, frame.ErrMeta} {
		if errors.Is(err, bad) {
			return t, errGarbage
		}
	}
	return t, err
}

// assignTagged gives a reply to its message. An error is the end of the
// connection.
func (l *link) assignTagged(t frame.Tagged) error {
	switch {
	case t.Tag == 0 && t.Failed: // this client broke a rule of tags
		return parseFailure(t.Body)
	case t.Tag == 0: // of a later version, perhaps
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.open[t.Tag]
	if c == nil {
		return errGarbage
	}
	delete(l.open, t.Tag)
	return l.finish(c, Reply{t.Body, t.Meta}, t.Failed)
}
