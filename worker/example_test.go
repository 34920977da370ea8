package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/poolinit/poolinit/worker"
)

// A worker that keeps a connection for its whole life, refuses what it cannot
// read, and says what it is busy with.
func Example() {
	var db *database
	err := worker.Run(context.Background(), worker.Handlers{
		Start: func(ctx context.Context, w *worker.Worker) (err error) {
			db, err = open(ctx)
			return err
		},
		Message: func(ctx context.Context, m *worker.Message) ([]byte, error) {
			var job struct{ UID int }
			if err := json.Unmarshal(m.Body, &job); err != nil {
				return nil, worker.Refuse(err.Error()) // it will not get better
			}
			_ = m.Worker.Status(fmt.Sprint("user ", job.UID))
			return db.find(ctx, job.UID) // an error: the message comes again
		},
		Stop: func(context.Context, *worker.Worker) { db.close() },
	})
	if err != nil {
		log.Print(err)
	}
}

// The replacement is started at once, while this process goes on with what the
// message asked for.
func ExampleMessage_Detach() {
	err := worker.Run(context.Background(), worker.Handlers{
		Message: func(ctx context.Context, m *worker.Message) ([]byte, error) {
			if string(m.Body) != "rebuild" {
				return m.Body, nil
			}
			if err := m.Detach([]byte("it may take hours")); err != nil {
				return nil, err
			}
			return nil, rebuild(ctx)
		},
	})
	if err != nil {
		log.Print(err)
	}
}

// Without poolinit there is nothing to do.
func ExampleRun() {
	err := worker.Run(context.Background(), worker.Handlers{
		Message: func(context.Context, *worker.Message) ([]byte, error) { return nil, nil },
	})
	fmt.Println(err)
	// Output:
	// worker: poolinit gives this program no messages (POOLINIT_FD is not set): run it as in: poolinit -n 4 --listen tcp://127.0.0.1:8089 -- PROGRAM
}

type database struct{}

func open(context.Context) (*database, error)                         { return new(database), nil }
func (*database) find(context.Context, int) (reply []byte, err error) { return nil, nil }
func (*database) close()                                              {}

func rebuild(context.Context) error { return nil }

// A worker that handles up to a hundred messages at the same time, with --deliver
// tagged --concurrency 100.
func ExampleHandlers_concurrency() {
	err := worker.Run(context.Background(), worker.Handlers{
		Concurrency: 100,
		Message: func(ctx context.Context, m *worker.Message) ([]byte, error) {
			var job struct{ UID int }
			if err := json.Unmarshal(m.Body, &job); err != nil {
				return nil, worker.Refuse(err.Error())
			}
			if m.Meta().Attempt > 1 {
				_ = m.Touch() // this may take longer than --message-timeout
			}
			reply, err := ask(ctx, job.UID)
			if errors.Is(err, errBusy) {
				return nil, worker.Retry(30*time.Second, err.Error())
			}
			m.ReplyType = "application/json"
			return reply, err
		},
	})
	if err != nil {
		log.Print(err)
	}
}

var errBusy = errors.New("come again")

func ask(context.Context, int) (reply []byte, err error) { return nil, nil }
