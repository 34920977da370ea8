// Package worker makes a program a worker of a poolinit pool: it gets messages
// and answers each.
//
//	func main() {
//		err := worker.Run(context.Background(), worker.Handlers{
//			Message: func(ctx context.Context, m *worker.Message) ([]byte, error) {
//				return bytes.ToUpper(m.Body), nil
//			},
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//	}
//
// Run by
//
//	poolinit -n 4 --ready notify --listen tcp://0.0.0.0:8089 -- ./program
//
// Messages come one at a time. With --deliver tagged they also come with their
// Meta, and a program that sets Handlers.Concurrency handles several at the same
// time:
//
//	poolinit -n 4 --deliver tagged --concurrency 100 --listen tcp://0.0.0.0:8089 -- ./program
//
// A message is handled at least once: one whose worker died, panicked or
// returned an error is delivered again, up to --attempts times. An error of Refuse
// is final, and one of Retry says when the next attempt is due.
// https://github.com/poolinit/poolinit/blob/main/docs/protocol.md has the bytes.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
)

// Handlers are what a program does as a worker. All but Message may be nil.
// They are called one after the other, and Message at the same time as itself only
// if Concurrency says so.
type Handlers struct {
	// Start is called before the first message. With --ready notify the worker
	// counts as ready when it has returned. Its error ends Run: the worker has
	// failed to start.
	Start func(ctx context.Context, w *Worker) error

	// Message handles one message. What it returns is the reply; nil is an empty
	// one. An error, or a panic, is a failure: the message is delivered again,
	// unless the error is one of Refuse. m, with all that it has, is valid until
	// Message returns.
	//
	// ctx has the values of Run's. It is done on the second SIGTERM: the stop is
	// urgent.
	Message func(ctx context.Context, m *Message) ([]byte, error)

	// Concurrency is how many messages Message may handle at the same time, each
	// in a goroutine; less than 0 is as many as poolinit gives. 0 is 1. It never
	// gives more than --concurrency, which goes with --deliver tagged; in any
	// other format there is one message at a time.
	Concurrency int

	// Stop is called after the last message, if Start has succeeded.
	Stop func(ctx context.Context, w *Worker)
}

// A Worker is this process as poolinit sees it.
type Worker struct {
	// ID is the number of the worker, from 0. It stays the same when the worker
	// is replaced.
	ID int
	// Workers is how many workers the pool has.
	Workers int
	// Generation counts the reloads of the pool.
	Generation int

	handlers    Handlers
	format      format
	concurrency int // of the pool
	fd          int
	in          reader
	out         writer
	notify      notifier
	dog         *watchdog
	message     Message // the one in hand; with concurrency: none
}

// A format is that of messages and replies.
type format string

// The formats.
const (
	formatFrames format = "frames"
	formatTagged format = "tagged"
	formatLines  format = "lines"
)

// Run serves messages until poolinit has no more for this worker, which is at
// its stop, a reload, or when it is due to be replaced; then it returns nil, and
// the program should exit with 0. It may be called once.
//
// While it runs it catches SIGTERM. On the first one, and when ctx is done, it
// asks poolinit for no more messages, answers those that it has been given, and
// returns. When it has returned nil SIGTERM stays without effect: it follows the
// last message closely, and must not cut short what the program does at its end.
// After Detach, or an error, it ends the program again.
//
// Any error means that the program cannot go on as a worker. Without poolinit
// it is ErrNoPool.
func Run(ctx context.Context, h Handlers) error {
	if h.Message == nil {
		return errors.New("worker: there is no handler for messages")
	}
	w, err := fromEnviron(os.Getenv)
	if err != nil {
		return err
	}
	w.handlers = h
	return w.run(ctx)
}

// ErrNoPool is what Run returns if the program was not started as a worker that
// gets messages.
var ErrNoPool = errors.New("worker: poolinit gives this program no messages (POOLINIT_FD is not set): " +
	"run it as in: poolinit -n 4 --listen tcp://127.0.0.1:8089 -- PROGRAM")

func fromEnviron(getenv func(string) string) (*Worker, error) {
	if getenv("POOLINIT_FD") == "" {
		return nil, ErrNoPool
	}
	w := &Worker{format: format(getenv("POOLINIT_DELIVER")), concurrency: 1,
		notify: notifier(getenv("NOTIFY_SOCKET")), dog: watchdogFrom(getenv)}
	numbers := map[string]*int{"POOLINIT_FD": &w.fd, "POOLINIT_WORKER_ID": &w.ID,
		"POOLINIT_WORKERS": &w.Workers, "POOLINIT_GENERATION": &w.Generation}
	switch w.format {
	case formatFrames, formatLines:
	case formatTagged:
		numbers["POOLINIT_CONCURRENCY"] = &w.concurrency
	default:
		return nil, fmt.Errorf("worker: POOLINIT_DELIVER is %q: this package knows frames, tagged and lines", w.format)
	}
	for name, to := range numbers {
		n, err := strconv.Atoi(getenv(name))
		if err != nil || n < 0 {
			return nil, fmt.Errorf("worker: %s is %q, which is no number", name, getenv(name))
		}
		*to = n
	}
	if _, err := syscall.GetsockoptInt(w.fd, syscall.SOL_SOCKET, syscall.SO_TYPE); err != nil {
		return nil, fmt.Errorf("worker: POOLINIT_FD %d is no socket: %w", w.fd, err)
	}
	return w, nil
}

func (w *Worker) run(ctx context.Context) error {
	syscall.CloseOnExec(w.fd) // a child that held it would hide the end from poolinit
	if err := syscall.SetNonblock(w.fd, w.isConcurrent()); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	var conn io.ReadWriteCloser = socket(w.fd)
	if w.isConcurrent() { // a blocking read would keep handlers from a processor
		conn = os.NewFile(uintptr(w.fd), "poolinit")
	}
	defer conn.Close()
	w.in = reader{src: conn, format: w.format}
	w.out.init(conn, w.format, w.isConcurrent())
	defer w.out.close()

	handlerCtx, hurry := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	terms := make(chan os.Signal, 1) // 1: one that comes while another is dealt with is the second
	signal.Notify(terms, syscall.SIGTERM)
	var watchers sync.WaitGroup
	watchers.Add(2)
	go func() { // ends with done; run waits for it
		defer watchers.Done()
		w.watchStop(terms, ctx.Done(), hurry, done)
	}()
	go func() { // ends with done; run waits for it
		defer watchers.Done()
		w.dog.run(w.notify, done)
	}()
	defer watchers.Wait()
	defer close(done)
	defer hurry()
	err := w.live(handlerCtx)
	if err != nil || w.out.isDetached() {
		signal.Stop(terms)
	}
	return err
}

// live is a worker's life: start, messages, stop.
func (w *Worker) live(ctx context.Context) error {
	if w.handlers.Start != nil {
		if err := w.handlers.Start(ctx, w); err != nil {
			return fmt.Errorf("worker: cannot start: %w", err)
		}
	}
	_ = w.Ready() // where it cannot be told, the pool does not wait for it
	if w.handlers.Stop != nil {
		defer w.handlers.Stop(ctx, w)
	}
	if w.isConcurrent() {
		return w.serveMany(ctx)
	}
	return w.serve(ctx)
}

// isConcurrent reports whether messages are handled at the same time.
func (w *Worker) isConcurrent() bool { return w.most() > 1 }

// most is how many messages are handled at the same time, at most.
func (w *Worker) most() int {
	if w.handlers.Concurrency < 0 {
		return w.concurrency
	}
	return min(w.concurrency, w.handlers.Concurrency)
}

// watchStop asks for no more messages on the first SIGTERM, or when the context is
// done, and calls hurry on the second SIGTERM.
func (w *Worker) watchStop(terms <-chan os.Signal, canceled <-chan struct{}, hurry func(), done <-chan struct{}) {
	for asked := false; ; asked = true {
		select {
		case <-terms:
			if asked {
				hurry()
			}
		case <-canceled:
			canceled = nil
		case <-done:
			return
		}
		if !asked {
			w.askForNoMore()
		}
	}
}

// askForNoMore asks poolinit to end the input when all is answered. If it cannot be
// told, the input ends after what is here.
func (w *Worker) askForNoMore() {
	if w.notify.tell("STOPPING=1") != nil {
		_ = syscall.Shutdown(w.fd, syscall.SHUT_RD) // no socket any more: it has ended
	}
}

// Ready says that the worker is ready. Run does it when Start has returned; a
// Start that goes on to do other things may do so earlier.
func (w *Worker) Ready() error { return w.notify.tell("READY=1") }

// Status says in a few words what the worker is doing. poolinit shows it.
func (w *Worker) Status(text string) error { return w.notify.tell("STATUS=" + oneLine(text)) }

// Detach leaves the pool: poolinit puts another worker in this one's place at
// once, and gives this one no more messages. The message in hand, if there is
// one, is answered with an empty reply; what its handler returns is dropped.
// Handlers may take as long as they like then, but the process still gets the
// stop signal when the pool stops.
//
// Messages that had been given to this worker and not begun go to others. So do
// all that are in hand if Handlers.Concurrency is above 1: Message.Detach answers
// one of them.
func (w *Worker) Detach() error { return w.detach(nil, nil) }

func (w *Worker) detach(m *Message, reply []byte) error {
	err := w.out.last(m, reply)
	// Not closed: serve may be reading it. poolinit sees the same.
	return errors.Join(err, syscall.Shutdown(w.fd, syscall.SHUT_RDWR))
}
