package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
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

// ended says whether the end is as it should be.
func (w *Worker) ended(err error) error {
	switch {
	case w.out.isDetached():
		return nil
	case err == io.EOF:
		return w.out.flush()
	}
	return fmt.Errorf("worker: %w", err)
}

// call calls the handler. A panic is one message's failure, and no reason for
// the others to suffer.
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
	if err == nil && len(reply) > maxReply {
		err = fmt.Errorf("the reply has %d bytes, and poolinit takes %d", len(reply), maxReply)
	}
	if err != nil {
		return w.out.answer(appendFailure(nil, err), true, w.in.more())
	}
	return w.out.answer(reply, false, w.in.more())
}

// answerLine: among lines there is no way to say that something went wrong, so
// that the worker has to end. The message is delivered again then.
func (w *Worker) answerLine(reply []byte, err error) error {
	if err == nil && bytes.IndexByte(reply, '\n') >= 0 {
		err = errors.New("the reply has an end of line in it")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("the message failed, which --deliver lines cannot tell: %w", err), w.out.flush())
	}
	return w.out.answer(reply, false, w.in.more())
}

// maxReply is the longest reply that poolinit takes.
const maxReply = 64 << 20

// maxText is how much of an error's text is worth telling.
const maxText = 4096

// Refuse returns an error that makes a message's failure final: it is not
// delivered again, and text goes to its client.
func Refuse(text string) error { return refusal{text} }

type refusal struct{ text string }

func (r refusal) Error() string { return r.text }

type panicked struct{ text string }

func (p panicked) Error() string { return p.text }

// appendFailure appends a failure frame.
func appendFailure(to []byte, err error) []byte {
	code := "error"
	var (
		refused refusal
		crash   panicked
	)
	text := err.Error()
	switch {
	case errors.As(err, &refused):
		code = "refused"
	case errors.As(err, &crash):
		code = "panic"
	}
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = code + ": " + strings.ToValidUTF8(text[:min(len(text), maxText)], "")
	to = binary.BigEndian.AppendUint32(to, uint32(len(text))|1<<31)
	return append(to, text...)
}

func oneLine(text string) string {
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(text)
}
