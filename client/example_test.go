package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/poolinit/poolinit/client"
)

// A client is for the whole life of a program, and for all of its goroutines.
func Example() {
	c, err := client.New("tcp://127.0.0.1:8089", client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	reply, err := c.Send(ctx, []byte(`{"uid": 1991}`))
	var failure *client.Failure
	switch {
	case errors.As(err, &failure) && failure.Code == client.Refused:
		fmt.Println("the worker refuses it:", failure.Text)
	case err != nil:
		log.Print(err)
	default:
		fmt.Printf("%s\n", reply)
	}
}
