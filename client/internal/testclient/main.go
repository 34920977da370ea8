// Testclient is the client of poolinit's own tests.
//
//	testclient [FLAGS] URL
//
// It reads messages, each a JSON string in base64, and writes what becomes of each
// as a JSON object: the reply, in base64 too, and its type, or code, text and error. With -key they
// have this key. With -senders it sends messages of its own, from this many goroutines at a time, until its input ends;
// for each reply it writes a line, and it ends with 1 at the first wrong one.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/poolinit/poolinit/client"
)

func main() {
	senders := flag.Int("senders", 0, "how many goroutines send")
	key := flag.String("key", "", "of each message")
	ca := flag.String("ca", "", "trust the certificates in this PEM `file`")
	var o client.Options
	flag.DurationVar(&o.ConnectTimeout, "connect-timeout", 0, "how long the pool may be away")
	flag.Parse()
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		if err != nil {
			log.Fatal(err)
		}
		o.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
		o.TLS.RootCAs.AppendCertsFromPEM(pem) // in a file without any there is none to trust
	}
	c, err := client.New(flag.Arg(0), o)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if *senders > 0 {
		flood(c, *senders)
	} else {
		ask(c, *key)
	}
}

// patience is for one message.
const patience = 2 * time.Minute

// An Answer is what becomes of a message.
type Answer struct {
	Reply                   []byte
	Type, Code, Text, Error string
}

// ask sends the messages of the input, one after the other.
func ask(c *client.Client, key string) {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var body []byte
		if err := in.Decode(&body); err == io.EOF {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		reply, err := c.SendMessage(ctx, client.Message{Body: body, Key: key})
		cancel()
		answer := Answer{Reply: reply.Body, Type: reply.Type}
		var f *client.Failure
		if errors.As(err, &f) {
			answer.Code, answer.Text = f.Code, f.Text
		} else if err != nil {
			answer.Error = err.Error()
		}
		_ = out.Encode(answer) // a broken pipe ends the program
	}
}

// flood sends until the input ends.
func flood(c *client.Client, senders int) {
	var enough atomic.Bool
	go func() { // ends with the input
		_, _ = io.Copy(io.Discard, os.Stdin)
		enough.Store(true)
	}()
	var running sync.WaitGroup
	for n := 0; n < senders; n++ {
		running.Add(1)
		go func() { // ends soon after the input
			defer running.Done()
			for i := 0; !enough.Load(); i++ {
				body := fmt.Sprint("sender ", n, " message ", i)
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				reply, err := c.Send(ctx, []byte(body))
				cancel()
				if err != nil || string(reply) != body {
					log.Fatalf("%s gets %q, %v", body, reply, err)
				}
				fmt.Println(body)
			}
		}()
	}
	running.Wait()
}
