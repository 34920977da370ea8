package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/client/internal/frame"
)

// The package's rules are those of internal/dial, which is tested where it comes
// from: poolinit's ipc/dial.

// enough is how long a test waits for what must happen.
const enough = 30 * time.Second

// serve is a pool that answers each message with what answer appends, until that
// is nothing. It ends with its client.
func serve(t *testing.T, o Options, answer func(to []byte, body string) []byte) *Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := New("tcp://"+ln.Addr().String()+"?reply=always", o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends when the listener is closed
		defer close(ended)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			_ = nc.SetDeadline(time.Now().Add(enough))
			for {
				body, _, err := frame.Read(nc, frame.MaxBody)
				if err != nil {
					break
				}
				_, _ = nc.Write(answer(nil, string(body)))
			}
			nc.Close()
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		ln.Close()
		<-ended
	})
	return c
}

// Replies, failures with each code, and errors come as this package's own.
func TestSend(t *testing.T) {
	c := serve(t, Options{ConnectTimeout: 100 * time.Millisecond}, func(to []byte, body string) []byte {
		code, text, failed := strings.Cut(body, ": ")
		if !failed {
			return frame.Append(to, []byte(strings.ToUpper(body)))
		}
		return frame.AppendFailure(to, frame.Code(code), text)
	})
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	for _, body := range []string{"", "hello"} {
		if reply, err := c.Send(ctx, []byte(body)); err != nil || string(reply) != strings.ToUpper(body) {
			t.Errorf("%q gets %q, %v", body, reply, err)
		}
	}
	for code, wire := range map[string]string{Refused: "refused", GivenUp: "given-up", TooBig: "too-big", NotALine: "not-a-line",
		Interrupted: "interrupted", Spooled: "spooled", Stopping: "stopping", Expired: "expired", NotTagged: "not-tagged", "new": "new"} {
		_, err := c.Send(ctx, []byte(code+": a: text"))
		var f *Failure
		if !errors.As(err, &f) || f.Code != wire || f.Text != "a: text" || err.Error() != wire+": a: text" {
			t.Errorf("%s: %v", code, err)
		}
	}
}

// A delay is parsed.
func TestRetry(t *testing.T) {
	c := serve(t, Options{}, func(to []byte, _ string) []byte { return frame.AppendFailure(to, frame.Retry, "1m30s: later") })
	_, err := c.Send(t.Context(), nil)
	var f *Failure
	if !errors.As(err, &f) || f.Code != Retry || f.After != 90*time.Second || err.Error() != "retry: 1m30s: later" {
		t.Errorf("%v, %+v", err, f)
	}
}

// taggedPool is a pool with tagged=true that answers each message with its meta and
// its body, as text. It ends with its client.
func taggedPool(t *testing.T, o Options) *Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, err := New("tcp://"+ln.Addr().String()+"?tagged=true", o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends when the client has closed
		defer close(ended)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(enough))
		for {
			f, err := frame.ReadTagged(nc, frame.MaxTaggedBody)
			if err != nil {
				return
			}
			answer := f
			if f.Tag > 0 {
				answer = frame.Tagged{Tag: f.Tag, Meta: []byte(`{"type":"text/plain"}`), Body: append(f.Meta, f.Body...)}
			}
			_, _ = nc.Write(frame.AppendTagged(nil, answer))
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		ln.Close()
		<-ended
	})
	return c
}

func TestTagged(t *testing.T) {
	c := taggedPool(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	if reply, err := c.Send(ctx, []byte("plain")); err != nil || string(reply) != "plain" {
		t.Errorf("%q, %v", reply, err)
	}
	for want, m := range map[string]Message{
		"body": {Body: []byte("body")},
		`{"id":"i","key":"k","headers":{"a":"b"}}body`: {Body: []byte("body"), ID: "i", Key: "k", Headers: map[string]string{"a": "b"}},
	} {
		reply, err := c.SendMessage(ctx, m)
		if err != nil || string(reply.Body) != want || reply.Type != "text/plain" {
			t.Errorf("%+v: %q, %q, %v; want %q", m, reply.Body, reply.Type, err, want)
		}
	}
	if _, err := c.SendMessage(ctx, Message{Key: strings.Repeat("x", frame.MaxMeta)}); err == nil || !strings.Contains(err.Error(), "64 KiB") {
		t.Error(err)
	}
}

// A pool without tags takes bodies only.
func TestMetaNeedsTags(t *testing.T) {
	c := serve(t, Options{}, func(to []byte, body string) []byte { return frame.Append(to, []byte(body)) })
	if reply, err := c.SendMessage(t.Context(), Message{Body: []byte("x")}); err != nil || string(reply.Body) != "x" || reply.Type != "" {
		t.Errorf("%+v, %v", reply, err)
	}
	if _, err := c.SendMessage(t.Context(), Message{Key: "k"}); err != ErrPlain {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	c := serve(t, Options{Timeout: 50 * time.Millisecond}, func(to []byte, body string) []byte {
		if body == "garbage" {
			return []byte("HTTP/1.1 400 Bad Request\r\n")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	_, err := c.Send(ctx, []byte("garbage"))
	if err == nil || err.Error() != "client: the server sent something that is not a reply" {
		t.Error(err)
	}
	_, err = c.Send(ctx, []byte("silence"))
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.HasPrefix(err.Error(), "client: nothing was heard within 50ms (") {
		t.Error(err)
	}
	cancel()
	_, err = c.Send(ctx, nil)
	if !errors.Is(err, context.Canceled) || err.Error() != "client: context canceled" {
		t.Error(err)
	}
	_ = c.Close()
	if _, err := c.Send(t.Context(), nil); err != ErrClosed {
		t.Error(err)
	}
}

// Where there has never been a connection nobody waits for one.
func TestNoPool(t *testing.T) {
	c, err := New("unix://"+t.TempDir()+"/none", Options{ConnectTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send(t.Context(), nil); !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "client: dial unix ") {
		t.Error(err)
	}
}

// What is said by TLS is heard, and only from whom the roots vouch for.
func TestTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	known := x509.NewCertPool()
	known.AddCert(server.Certificate())
	for want, roots := range map[string]*x509.CertPool{
		"client: the server sent something that is not a reply": known,
		"client: tls: failed to verify certificate":             x509.NewCertPool(),
	} {
		c, err := New("tcp://"+server.Listener.Addr().String(), Options{TLS: &tls.Config{RootCAs: roots}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Send(t.Context(), []byte("\r\n\r\n")) // to which an HTTP server answers
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		_ = c.Close()
	}
}

func TestNew(t *testing.T) {
	for text, want := range map[string]string{
		"tcp://127.0.0.1:8089?reply=always": "",
		"unix:///run/pool.sock":             "",
		"127.0.0.1:8089":                    `client: "127.0.0.1:8089" is no address of a pool`,
		"sysv://0x7000001":                  `client: "sysv://0x7000001" is no address of a pool, such as `,
		"tcp://127.0.0.1:1?once=true":       "once=true is one message a connection",
		"tcp://127.0.0.1:1?reply=never":     "a pool with reply=never has no replies",
	} {
		c, err := New(text, Options{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err == nil {
			_ = c.Close()
		}
	}
}
