package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/poolinit/poolinit/ipc"
)

// exitSendFailed is send's exit code if any message failed.
const exitSendFailed = 1

// sendOptions are send's command line, parsed.
type sendOptions struct {
	to    *ipc.URL
	files []string

	reply          bool // the server answers every message
	once           bool // it takes one message a connection
	silent         bool // it answers nothing
	raw            bool
	whole          bool
	count          int
	inFlight       int
	timeout        time.Duration
	connectTimeout time.Duration

	tls               bool
	ca, cert, certKey string
	serverName        string

	help bool
}

// maxInFlight is far more than makes anything faster.
const maxInFlight = 1 << 20

func sendFlags(o *sendOptions) *pflag.FlagSet {
	fs := pflag.NewFlagSet("send", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(io.Discard) // parseSend's caller reports
	fs.Usage = func() {}
	addSwitch(fs, &o.reply, "reply", "the server answers every message (reply=always in its URL): wait for each\nreply, and send again what got none when the connection broke")
	add(fs, &o.count, between(1, 1<<40), "count", "", "1", "`count`", "send each message so many times")
	addSwitch(fs, &o.whole, "whole", "all of stdin is one message, not each line")
	addSwitch(fs, &o.raw, "raw", "write replies as they are; without it each gets an end of line if it has none")
	add(fs, &o.inFlight, between(1, maxInFlight), "in-flight", "", "1024", "`count`", "with --reply: messages on the way at a time")
	add(fs, &o.timeout, atLeast(0), "timeout", "", "0s", "`time`", "give up when nothing was heard for so long; 0s: wait for ever")
	add(fs, &o.connectTimeout, atLeast(time.Millisecond), "connect-timeout", "", "10s", "`time`", "for a connection, and for how long to try again when one was lost")
	addSwitch(fs, &o.tls, "tls", "use TLS; --ca, --cert and --server-name imply it")
	fs.StringVar(&o.ca, "ca", "", "trust the certificates in this PEM `file`, not the system's")
	fs.StringVar(&o.cert, "cert", "", "this client's own certificate: a PEM `file`")
	fs.StringVar(&o.certKey, "key", "", "its key: a PEM `file`")
	fs.StringVar(&o.serverName, "server-name", "", "the `name` in the server's certificate, if it is not that in ADDRESS")
	fs.BoolFuncP("help", "h", "print this", func(string) error { o.help = true; return nil })
	return fs
}

// addSwitch declares a flag that is on or off.
func addSwitch(fs *pflag.FlagSet, to *bool, name, usage string) {
	parse := func(s string) (bool, error) {
		if s != "true" && s != "false" {
			return false, errors.New("true or false")
		}
		return s == "true", nil
	}
	add(fs, to, parse, name, "", "false", "bool", usage)
	fs.Lookup(name).NoOptDefVal = "true"
	fs.Lookup(name).DefValue = "false"
}

// parseSend reads send's command line. The error is for the user.
func parseSend(args []string) (*sendOptions, error) {
	o := new(sendOptions)
	fs := sendFlags(o)
	if err := fs.Parse(args); err != nil {
		return nil, explain(fs, err)
	}
	if o.help {
		return o, nil
	}
	if fs.NArg() == 0 {
		return nil, errors.New("there is no ADDRESS to send to, as in: poolinit send tcp://127.0.0.1:8089")
	}
	o.files = fs.Args()[1:]
	if err := o.address(fs.Arg(0)); err != nil {
		return nil, badValue("ADDRESS", fs.Arg(0), err)
	}
	return o, o.check()
}

// address takes the server's own URL: what its parameters say about replies and
// TLS holds for the client too.
func (o *sendOptions) address(s string) (err error) {
	if o.to, err = ipc.ParseURL(s); err != nil {
		return withScheme(s, err)
	}
	parsed, err := url.Parse(s)
	if err != nil {
		return err
	}
	q := parsed.Query()
	switch q.Get("reply") {
	case "always":
		o.reply = true
	case "never":
		o.silent = true
	}
	o.once = q.Get("once") != "" && q.Get("once") != "false" && q.Get("once") != "0"
	o.tls = o.tls || q.Get("cert") != "" || o.ca != "" || o.cert != "" || o.serverName != ""
	return nil
}

// withScheme makes a better error for an address that is HOST:PORT.
func withScheme(s string, err error) error {
	full := "tcp://" + s
	if _, wrong := ipc.ParseURL(full); wrong != nil || strings.HasPrefix(s, "tcp:") {
		return err
	}
	return fmt.Errorf("a URL such as %s", full)
}

// check holds flags against each other.
func (o *sendOptions) check() error {
	switch {
	case o.reply && o.silent:
		return errors.New("--reply: there are none, since ADDRESS has reply=never")
	case o.reply && o.to.Scheme == "sysv":
		return errors.New("--reply: a System V queue has no replies")
	case o.tls && o.to.Scheme != "tcp":
		return fmt.Errorf("--tls, --ca, --cert and --server-name are for tcp:// only, and ADDRESS is %s", o.to.Name)
	case (o.cert == "") != (o.certKey == ""):
		return errors.New("--cert and --key go together")
	case o.whole && len(o.files) > 0:
		return errors.New("--whole is for stdin; a FILE is always one message")
	}
	return nil
}

// cmdSend sends messages and writes their replies.
func cmdSend(args []string) int {
	signal.Reset() // they are caught for a pool; here they end the program
	o, err := parseSend(args)
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "poolinit: %v\nTry 'poolinit send --help'.\n", err)
		return exitUsage
	case o.help:
		sendUsage(os.Stdout)
		return 0
	}
	dial, err := o.dialer()
	if err != nil {
		fmt.Fprintf(os.Stderr, "poolinit: %v\n", err)
		return exitUsage
	}
	out := newSendOutput(o, os.Stdout, os.Stderr)
	in := newSendInput(o, os.Stdin, out)
	in.expect()
	go in.read() // ends with the input, or with the program: nothing ends the read of a terminal
	out.show()
	if o.to.Scheme == "sysv" {
		sendSysV(o, in.ch, out)
	} else {
		(&sender{o: o, in: in.ch, out: out, dial: dial}).run()
	}
	return out.close()
}

const sendUsageHead = `poolinit send sends messages to a pool and prints the replies.

Usage:
  poolinit send [flags] ADDRESS [FILE...]

ADDRESS is tcp://HOST:PORT, unix:///PATH or sysv://KEY; the URL of the pool's --listen
will do, and what it says of reply=, once= and cert= is heeded. Each FILE is a message
(- is stdin); without one, each line of stdin is.

Flags:
`

const sendUsageTail = `
Replies go to stdout, a line each, in the order of the messages; failures to stderr.
The server decides what it answers. Without --reply the client ends its side when the
input ends (or is quiet for a second), and takes all that comes: when the server then
closes, every message has been dealt with, but nobody can tell which of them got no reply.

A message that the pool did not take because it was stopping is sent again, on a new
connection. So are those that it dropped after one that was too big; without --reply only
if there is no doubt which one that was. With --reply so is one that had no reply when the
connection broke; it may have been handled: at least once. Without, it is reported as
possibly lost.

Exit codes: 0 every message was handled; 1 some failed, were refused or may have been
lost; 2 usage.
`

func sendUsage(w io.Writer) {
	fmt.Fprint(w, sendUsageHead, sendFlags(new(sendOptions)).FlagUsages(), sendUsageTail)
}
