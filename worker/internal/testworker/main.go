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
//	sleep TIME     is answered after this time
//	touch TIME     is answered after this time, and touched meanwhile
//	retry TIME     fails the first time, and asks for a second attempt after this time
//	meta           is answered with its meta, in JSON, and with the type application/json
//
// With --deliver tagged it handles as many at the same time as the pool gives. It
// prints each message. With an argument it prints nothing, and does not start
// while the file of that name is there.
package main

import (
	"context"
	"encoding/json"
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
		Concurrency: -1,
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
	case "meta":
		m.ReplyType = "application/json"
		return json.Marshal(m.Meta())
	case "sleep", "touch", "retry":
		return obeyTime(m, word, rest)
	}
	return m.Body, nil
}

// obeyTime obeys the words that name a time.
func obeyTime(m *worker.Message, word, rest string) ([]byte, error) {
	d, err := time.ParseDuration(rest)
	if err != nil {
		return nil, worker.Refuse(err.Error())
	}
	switch word {
	case "sleep":
		time.Sleep(d)
	case "touch":
		for range 10 {
			time.Sleep(d / 10)
			if err := m.Touch(); err != nil {
				return nil, err
			}
		}
	case "retry":
		if m.Meta().Attempt < 2 {
			return nil, worker.Retry(d, "not yet")
		}
	}
	return m.Body, nil
}
