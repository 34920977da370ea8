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

	"github.com/poolinit/poolinit/worker/internal/frame"
)

// serve handles messages until the end of the input. All messages that have
// arrived are a batch: their replies are written together.
func (w *Worker) serve(ctx context.Context, dog *watchdog) error {
	w.message.Worker = w
	for {
		body, ok := w.in.next()
		if !ok {
			if err := w.out.flush(); err != nil {
				return w.ended(err)
			}
			if err := w.in.fill(); err != nil {
				return w.ended(err)
			}
			continue
		}
		w.out.begin()
		dog.moved()
		w.message.Body = body
		reply, err := w.call(ctx)
		dog.moved()
		if err = w.answer(reply, err); err != nil {
			return w.ended(err)
		}
	}
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
func (w *Worker) call(ctx context.Context) (reply []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "worker: panic: %v\n\n%s", r, debug.Stack())
			err = panicked{fmt.Sprint(r)}
		}
	}()
	return w.handlers.Message(ctx, &w.message)
}

// answer adds a reply to what is to be written.
func (w *Worker) answer(reply []byte, err error) error {
	if w.lines {
		return w.answerLine(reply, err)
	}
	if err == nil && len(reply) > frame.MaxReply {
		err = fmt.Errorf("the reply has %d bytes, and poolinit takes %d", len(reply), frame.MaxReply)
	}
	if err != nil {
		code, text := failureOf(err)
		return w.out.answer(frame.AppendFailure(nil, code, text), true, w.in.more())
	}
	return w.out.answer(reply, false, w.in.more())
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
	return w.out.answer(reply, false, w.in.more())
}

// Refuse returns an error that makes a message's failure final: it is not
// delivered again, and text goes to its client.
func Refuse(text string) error { return refusal{text} }

type refusal struct{ text string }

func (r refusal) Error() string { return r.text }

type panicked struct{ text string }

func (p panicked) Error() string { return p.text }

// failureOf returns what a handler's error is on the wire.
func failureOf(err error) (frame.Code, string) {
	var (
		refused refusal
		crash   panicked
	)
	switch {
	case errors.As(err, &refused):
		return frame.Refused, err.Error()
	case errors.As(err, &crash):
		return frame.Panicked, err.Error()
	}
	return frame.Failed, err.Error()
}

func oneLine(text string) string {
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(text)
}
