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

// With tagged=true in the URL a message has more than a body, and a slow one holds up
// no other reply.
func ExampleClient_SendMessage() {
	c, err := client.New("tcp://127.0.0.1:8089?tagged=true", client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	reply, err := c.SendMessage(context.Background(), client.Message{
		Body: []byte(`{"uid": 1991}`), Key: "user 1991", Headers: map[string]string{"traceparent": "00-0af7-b7ad-01"},
	})
	var failure *client.Failure
	switch {
	case errors.As(err, &failure) && failure.Code == client.Retry:
		fmt.Println("again in", failure.After)
	case err != nil:
		log.Print(err)
	default:
		fmt.Printf("%s: %s\n", reply.Type, reply.Body)
	}
}
