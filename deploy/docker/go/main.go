// Go is a worker that answers each message in capitals, and refuses an empty one.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"

	"github.com/poolinit/poolinit/worker"
)

func main() {
	err := worker.Run(context.Background(), worker.Handlers{
		Start: func(_ context.Context, w *worker.Worker) error {
			fmt.Printf("worker %d of %d is started\n", w.ID, w.Workers) // here it would connect to its database
			return nil
		},
		Message: func(_ context.Context, m *worker.Message) ([]byte, error) {
			if len(m.Body) == 0 {
				return nil, worker.Refuse("there is nothing in it")
			}
			return bytes.ToUpper(m.Body), nil // an error: the message is delivered again
		},
	})
	if err != nil {
		log.Fatal(err)
	}
}
