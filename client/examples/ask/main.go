// Ask sends each line of its input to a pool, several at a time, and prints each
// reply when it is there.
//
//	poolinit -n 4 --listen 'tcp://127.0.0.1:8089?reply=always' -- PROGRAM
//	seq 10 | go run ./examples/ask tcp://127.0.0.1:8089
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/poolinit/poolinit/client"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: ask tcp://HOST:PORT")
	}
	c, err := client.New(os.Args[1], client.Options{}) // one for the whole program
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	var asking sync.WaitGroup
	free := make(chan struct{}, 16) // 16: this many messages are on the way at a time
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		text := lines.Text()
		free <- struct{}{}
		asking.Add(1)
		go func() { // ends with the reply, or after half a minute
			defer asking.Done()
			ask(c, text)
			<-free
		}()
	}
	asking.Wait()
	if err := lines.Err(); err != nil {
		log.Print(err)
	}
}

func ask(c *client.Client, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	reply, err := c.Send(ctx, []byte(text))
	var failure *client.Failure
	switch {
	case errors.As(err, &failure) && failure.Code == client.Refused:
		fmt.Printf("%s: refused: %s\n", text, failure.Text)
	case err != nil:
		log.Printf("%s: %v", text, err)
	default:
		fmt.Printf("%s: %s\n", text, reply)
	}
}
