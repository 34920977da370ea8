// Package dial is the client's side of the wire: it connects to a pool, sends
// messages, reads the replies, connects again, and sends again what a pool did
// not take because it was stopping or was killed.
//
// A Client is for a pool that answers every message (reply=always or tagged=true
// in its URL). Any number of goroutines share it; each calls Send and gets the
// reply to its own message. With tagged=true replies come in any order, and both
// sides may say more than the body: see NewTaggedClient. The package client is
// this Client.
//
// A Stream sends all messages of one source, in their order, to any pool, and
// tells what came of them. poolinit send is this Stream. If the pool answers
// every message, replies are counted, and each message has a known end. If it
// answers only some, a message without a reply was handled if the connection
// ended as it should: the Stream ends its half of the connection now and then,
// and waits for the pool to end the other half.
//
// Both build on a connection's frames (ipc/frame), on the order of the replies,
// which is that of the messages, and on three rules of docs/protocol.md: after a
// "stopping" only more of them follow, after a "too-big" nothing follows, and a
// message that is too big is the last one that the pool has looked at.
//
// The package imports the standard library and ipc/frame only. The module client
// carries a copy of both (tools/modules.sh), so it compiles with the Go version
// that this module names, and on other systems than Linux.
package dial

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/poolinit/poolinit/client/internal/frame"
)

// A Conn is a connection whose writing half can be closed alone.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// A Connect makes a connection to a pool. That of a Pool is the usual one.
type Connect func(context.Context) (Conn, error)

// A Pool is a pool's address.
type Pool struct {
	Network string      // tcp or unix
	Address string      // HOST:PORT, or a path
	TLS     *tls.Config // nil: without TLS
	Tagged  bool        // tagged=true: it takes tagged frames, and no others
}

// Connect connects. With TLS it returns after the handshake.
func (p Pool) Connect(ctx context.Context) (Conn, error) {
	dial := new(net.Dialer).DialContext
	if p.TLS != nil {
		dial = (&tls.Dialer{NetDialer: new(net.Dialer), Config: p.TLS}).DialContext
	}
	nc, err := dial(ctx, p.Network, p.Address)
	if err != nil {
		return nil, err
	}
	return nc.(Conn), nil // a *net.TCPConn, *net.UnixConn or *tls.Conn
}

// Parse reads a pool's URL, tcp://HOST:PORT or unix:///PATH. Parameters of the
// pool's --listen URL may follow; those of a pool that a Client cannot use are
// refused.
func Parse(text string) (Pool, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Pool{}, fmt.Errorf("%q is no address of a pool: %w", text, err)
	}
	query := u.Query()
	if query.Get("reply") == "never" {
		return Pool{}, fmt.Errorf("%q: a pool with reply=never has no replies", text)
	}
	if isTrue(query.Get("once")) {
		return Pool{}, fmt.Errorf("%q: once=true is one message a connection, and this client sends many", text)
	}
	pool := Pool{Tagged: isTrue(query.Get("tagged"))}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Scheme == "unix" && u.Host == "" && len(u.Path) > 1:
		pool.Network, pool.Address = "unix", u.Path
		return pool, nil
	case u.Scheme == "tcp" && u.Hostname() != "" && err == nil && port > 0 && u.Path == "":
		pool.Network, pool.Address = "tcp", net.JoinHostPort(u.Hostname(), u.Port())
		return pool, nil
	}
	return Pool{}, fmt.Errorf("%q is no address of a pool, such as tcp://127.0.0.1:8089 or unix:///run/pool.sock", text)
}

// isTrue reports whether a parameter of a URL switches something on.
func isTrue(value string) bool { return value != "" && value != "false" && value != "0" }

// A Failure is a pool's answer to a message that was not handled. A program may
// rely on the code, never on the text.
type Failure struct {
	Code frame.Code
	Text string
}

// Error returns the code and the text. An answer without a code is all text.
func (f *Failure) Error() string {
	if f.Code == "" {
		return f.Text
	}
	return string(f.Code) + ": " + f.Text
}

// After is how long to wait before the message is sent again, if the code is
// frame.Retry: its text begins with that.
func (f *Failure) After() time.Duration {
	if f.Code != frame.Retry {
		return 0
	}
	text, _, _ := strings.Cut(f.Text, ": ")
	after, err := time.ParseDuration(text)
	if err != nil {
		return 0
	}
	return max(after, 0)
}

// parseFailure reads the body of a failure frame.
func parseFailure(body []byte) *Failure {
	code, text := frame.ParseFailure(body)
	return &Failure{code, text}
}

// ErrNoReply is the error of a message if the pool closed the connection without
// an answer to it.
var ErrNoReply = errors.New("the pool closed the connection without a reply")

var (
	errGarbage = errors.New("the server sent something that is not a reply")
	errPlain   = errors.New("the server does not speak tagged frames: there is no tagged=true in the pool's URL")
	errTooMany = errors.New("the server sends more replies than there were messages")
)

// bufferSize is how much is read, and how much a Stream writes, at a time.
const bufferSize = 64 << 10

// readReply reads a reply. A frame that no pool sends is errGarbage.
func readReply(in *bufio.Reader) (body []byte, failed bool, err error) {
	body, failed, err = frame.Read(in, frame.MaxReply)
	if errors.Is(err, frame.ErrTooLong) {
		err = errGarbage
	}
	return body, failed, err
}

// Between two attempts to send a message. The second one is made at once.
const (
	firstPause = 20 * time.Millisecond
	maxPause   = time.Second
)

// longer returns the pause that follows a pause.
func longer(pause time.Duration) time.Duration {
	return min(max(2*pause, firstPause), maxPause)
}

// wait waits for a pause. It returns at once when the context is done.
func wait(ctx context.Context, pause time.Duration) {
	if pause <= 0 {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
