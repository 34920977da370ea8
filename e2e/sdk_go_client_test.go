package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goclient "github.com/poolinit/poolinit/client"
)

// acrossRestart stops a pool that has clients, starts it again, and returns when
// the clients have sent another 200 messages. answered says how many they have.
func acrossRestart(t *testing.T, url string, clients func(), answered func() int) {
	t.Helper()
	pool := func() runPool { return runPool{startSDK(t, url, "-n", "2")} }
	more := func() {
		t.Helper()
		before := answered()
		eventually(t, "200 more replies", func() (any, bool) { return answered(), answered() >= before+200 })
	}
	p := pool()
	clients()
	more()
	p.signal(syscall.SIGTERM)
	p.expectExit(0)
	p = pool()
	more()
	p.signal(syscall.SIGTERM)
	p.expectExit(0) // the clients wait for a third
	p = pool()
	more()
	t.Cleanup(func() { // after the clients' last message
		p.signal(syscall.SIGTERM)
		p.expectExit(0)
	})
}

// Senders that share a client do not notice that its pool is replaced.
func TestGoClientRestart(t *testing.T) {
	for _, url := range []string{"tcp://" + freePort(t), unixURL(t, "")} {
		c, err := goclient.New(url, goclient.Options{ConnectTimeout: 2 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		var answered atomic.Int64
		var enough atomic.Bool
		var senders sync.WaitGroup
		send := func(who int) {
			for i := 0; !enough.Load(); i++ {
				body := fmt.Sprint("sender ", who, " message ", i)
				ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
				reply, err := c.Send(ctx, []byte(body))
				cancel()
				if err != nil || string(reply) != body {
					t.Errorf("%s gets %q, %v", body, reply, err)
					return
				}
				answered.Add(1)
			}
		}
		t.Cleanup(func() {
			_ = c.Close()
			senders.Wait()
		})
		acrossRestart(t, url+phpAlways, func() {
			for who := range 8 {
				senders.Go(func() { send(who) })
			}
		}, func() int { return int(answered.Load()) })
		enough.Store(true)
		senders.Wait()
	}
}

func TestGoClientFailures(t *testing.T) {
	url := unixURL(t, phpAlways)
	startSDK(t, url, "--attempts", "1", "--max-message", "1KiB")
	c, err := goclient.New(url, goclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	for _, tt := range []struct {
		body, reply, code, text string
	}{
		{body: "hello", reply: "hello"},
		{body: "nothing"},
		{body: ""},
		{body: "refuse not mine", code: "refused", text: "not mine"},
		{body: "fail now", code: "given-up", text: "error: now"},
		{body: fmt.Sprintf("%1025d", 1), code: "too-big", text: "the longest message here is 1024 bytes"},
		{body: "\x00\xff\n", reply: "\x00\xff\n"},
	} {
		reply, err := c.Send(ctx, []byte(tt.body))
		var f *goclient.Failure
		if !errors.As(err, &f) {
			f = &goclient.Failure{}
		}
		if string(reply) != tt.reply || f.Code != tt.code || f.Text != tt.text || tt.code == "" && err != nil {
			t.Errorf("%.20q gets %q, %v", tt.body, reply, err)
		}
	}
}

func TestGoClientTLS(t *testing.T) {
	need(t, "openssl")
	p, dir := startTLS(t, "&reply=always")
	pem, err := os.ReadFile(dir + "/server.crt")
	if err != nil {
		t.Fatal(err)
	}
	known := x509.NewCertPool()
	known.AppendCertsFromPEM(pem)
	for _, tt := range []struct {
		roots *x509.CertPool
		want  string
	}{{known, "hello"}, {x509.NewCertPool(), ""}} {
		c, err := goclient.New("tcp://"+p.addr, goclient.Options{TLS: &tls.Config{RootCAs: tt.roots}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
		reply, err := c.Send(ctx, []byte("hello"))
		cancel()
		_ = c.Close()
		if string(reply) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%q, %v", reply, err)
		}
	}
}
