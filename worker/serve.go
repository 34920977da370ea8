package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
)

// serve handles messages until the end of the input. All messages that have
// arrived are a batch: their replies are written together.
func (w *Worker) serve(ctx context.Context) error {
	m := &w.message
	for {
		next, ok := w.in.next()
		if !ok {
			if err := w.out.flush(); err != nil {
				return w.ended(err)
			}
			if err := w.in.fill(); err != nil {
				return w.ended(err)
			}
			continue
		}
		m.set(w, next)
		w.out.begin(m)
		reply, err := w.call(ctx, m)
		if err = w.answer(m, reply, err); err != nil {
			return w.ended(err)
		}
	}
}

// serveMany is serve for messages that are handled at the same time. It returns
// when all of them are answered.
func (w *Worker) serveMany(ctx context.Context) error {
	c := &crew{Worker: w, ctx: ctx, next: make(chan *Message)}
	err := c.read()
	close(c.next)
	c.group.Wait()
	return w.ended(err)
}

// ended returns what Run returns after this error: nil if the end is as it should
// be.
func (w *Worker) ended(err error) error {
	switch {
	case w.out.isDetached():
		return nil
	case err == io.EOF:
		return w.out.flush()
	}
	return fmt.Errorf("worker: %w", err)
}

// call calls the handler. A panic is the failure of this message alone.
func (w *Worker) call(ctx context.Context, m *Message) (reply []byte, err error) {
	w.dog.begin()
	defer w.dog.end()
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "worker: panic: %v\n\n%s", r, debug.Stack())
			err = panicked{fmt.Sprint(r)}
		}
	}()
	return w.handlers.Message(ctx, m)
}

// answer adds a reply to what is to be written.
func (w *Worker) answer(m *Message, reply []byte, err error) error {
	if w.format == formatLines {
		return w.answerLine(reply, err)
	}
	return w.out.answer(m.answer(reply, err), w.in.more())
}

// answerLine adds a reply that is a line. Lines have no failures, so after an error
// the worker has to end; then the message is delivered again.
func (w *Worker) answerLine(reply []byte, err error) error {
	if err == nil && bytes.IndexByte(reply, '\n') >= 0 {
		err = errors.New("the reply has an end of line in it")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("the message failed, which --deliver lines cannot tell: %w", err), w.out.flush())
	}
	return w.out.answer(answer{body: reply}, w.in.more())
}

func oneLine(text string) string {
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(text)
}
