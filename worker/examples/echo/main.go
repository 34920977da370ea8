// Echo is a worker in Go that answers each message with itself. An empty one it
// refuses.
//
//	go build -C worker -o ../bin/echo ./examples/echo
//	poolinit -n 4 --ready notify --listen tcp://127.0.0.1:8089 -- bin/echo
//	echo hello | poolinit send tcp://127.0.0.1:8089
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/poolinit/poolinit/worker"
)

func main() {
	handled := 0
	err := worker.Run(context.Background(), worker.Handlers{
		Start: func(_ context.Context, w *worker.Worker) error {
			fmt.Printf("started: worker %d of %d, generation %d, pid %d\n", w.ID, w.Workers, w.Generation, os.Getpid())
			return nil
		},
		Message: func(_ context.Context, m *worker.Message) ([]byte, error) {
			if len(m.Body) == 0 {
				return nil, worker.Refuse("there is nothing in it")
			}
			handled++
			return m.Body, nil
		},
		Stop: func(context.Context, *worker.Worker) { fmt.Printf("stopping after %d messages\n", handled) },
	})
	if err != nil {
		log.Fatal(err)
	}
}
