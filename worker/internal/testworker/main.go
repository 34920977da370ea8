// Testworker is the worker of poolinit's own tests: everything that can happen to
// a worker happens to it on request. A body's first word says what; all other
// bodies are answered with themselves.
//
//	refuse TEXT    is refused, with this text
//	fail TEXT      fails, with this text
//	panic TEXT     panics
//	crash          ends the process with 3
//	nothing        has an empty reply
//	pid            is answered with the worker's number and its PID
//	detach         is answered, and then the worker leaves the pool and lives on
//	hold FILE      is answered when the file is there
//
// It prints each message. With an argument it prints nothing, and does not start
// while the file of that name is there.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/poolinit/poolinit/worker"
)

func main() {
	if len(os.Args) > 1 {
		if _, err := os.Stat(os.Args[1]); err == nil {
			os.Exit(9)
		}
	}
	err := worker.Run(context.Background(), worker.Handlers{
		Message: func(_ context.Context, m *worker.Message) ([]byte, error) {
			if len(os.Args) < 2 {
				fmt.Printf("message: %s\n", m.Body)
			}
			return obey(m)
		},
		Stop: func(context.Context, *worker.Worker) { fmt.Println("stopped in peace") },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func obey(m *worker.Message) ([]byte, error) {
	switch word, rest, _ := strings.Cut(string(m.Body), " "); word {
	case "refuse":
		return nil, worker.Refuse(rest)
	case "fail":
		return nil, errors.New(rest)
	case "panic":
		panic(rest)
	case "crash":
		os.Exit(3)
	case "nothing":
		return nil, nil
	case "detach":
		if err := m.Detach([]byte("detached")); err != nil {
			return nil, err
		}
		<-context.Background().Done() // for ever
	case "pid":
		return fmt.Append(nil, m.Worker.ID, " ", os.Getpid()), nil
	case "hold":
		for _, err := os.Stat(rest); err != nil; _, err = os.Stat(rest) {
			time.Sleep(time.Millisecond) // between two looks
		}
	}
	return m.Body, nil
}
