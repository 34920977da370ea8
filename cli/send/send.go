// Package send is poolinit send: it sends messages to a pool and prints the
// replies.
//
// Main reads the command line. An input cuts files, or the lines of stdin, into
// messages. A stream of ipc/dial sends them, again if need be, and tells an output
// what becomes of them: that prints replies and failures, counts, and draws the
// progress bar.
package send

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/ipc/sources"
)

// exitFailed is the exit code if any message failed.
const exitFailed = 1

// options are the command line, parsed.
type options struct {
	to    *sources.Endpoint
	files []string

	reply          bool // the server answers every message
	once           bool // it takes one message a connection
	tagged         bool // it takes tagged frames
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
}

// maxInFlight is far more than makes anything faster.
const maxInFlight = 1 << 20

func flagSet(o *options) *flags.Set {
	s := flags.New("send", func(usages string) string { return usageHead + usages + usageTail })
	s.Switch(&o.reply, flags.TrueOrFalse, "reply", "the server answers every message (reply=always in its URL): wait for each\nreply, and send again messages without one when the connection broke")
	flags.Add(s, &o.count, flags.Between(1, 1<<40), "count", "", "1", "`count`", "send each message this many times")
	s.Switch(&o.whole, flags.TrueOrFalse, "whole", "all of stdin is one message, not each line")
	s.Switch(&o.raw, flags.TrueOrFalse, "raw", "write replies unchanged; otherwise each gets an end of line if it has none")
	flags.Add(s, &o.inFlight, flags.Between(1, maxInFlight), "in-flight", "", "1024", "`count`", "with --reply: messages in flight at a time")
	flags.Add(s, &o.timeout, flags.AtLeast(0), "timeout", "", "0s", "`time`", "give up when nothing has arrived for this long; 0s: wait for ever")
	flags.Add(s, &o.connectTimeout, flags.AtLeast(time.Millisecond), "connect-timeout", "", "10s", "`time`", "how long to try to connect, and to reconnect after a lost connection")
	s.Switch(&o.tls, flags.TrueOrFalse, "tls", "use TLS; --ca, --cert and --server-name imply it")
	s.Text(&o.ca, "ca", "trust the certificates in this PEM `file`, not the system's")
	s.Text(&o.cert, "cert", "this client's own certificate: a PEM `file`")
	s.Text(&o.certKey, "key", "its key: a PEM `file`")
	s.Text(&o.serverName, "server-name", "the `name` in the server's certificate, if it is not that in ADDRESS")
	s.HelpFlag()
	return s
}

// parse reads the command line. The error is for the set's Report.
func (o *options) parse(s *flags.Set, args []string) error {
	rest, err := s.Parse(args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return errors.New("ADDRESS is missing; for example: poolinit send tcp://127.0.0.1:8089")
	}
	o.files = rest[1:]
	if err := o.address(rest[0]); err != nil {
		return flags.BadValue("ADDRESS", rest[0], err)
	}
	return o.check()
}

// address takes the server's own URL: what its parameters say about replies and
// TLS holds for the client too.
func (o *options) address(s string) (err error) {
	if o.to, err = sources.Parse(s); err != nil {
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
	o.tagged, _ = strconv.ParseBool(q.Get("tagged")) // the source has looked at it
	o.reply = o.reply || o.tagged
	o.tls = o.tls || q.Get("cert") != "" || o.ca != "" || o.cert != "" || o.serverName != ""
	return nil
}

// withScheme makes a better error for an address that is HOST:PORT.
func withScheme(s string, err error) error {
	full := "tcp://" + s
	if _, wrong := sources.Parse(full); wrong != nil || strings.HasPrefix(s, "tcp:") {
		return err
	}
	return fmt.Errorf("a URL such as %s", full)
}

// check holds flags against each other.
func (o *options) check() error {
	switch {
	case o.reply && o.silent:
		return errors.New("--reply cannot be combined with reply=never in ADDRESS")
	case o.reply && o.to.Scheme == "sysv":
		return errors.New("--reply cannot be combined with sysv://: a System V queue has no replies")
	case o.tls && o.to.Scheme != "tcp":
		return fmt.Errorf("--tls, --ca, --cert and --server-name are for tcp:// only, and ADDRESS is %s", o.to.Name)
	case (o.cert == "") != (o.certKey == ""):
		return errors.New("--cert and --key go together")
	case o.whole && len(o.files) > 0:
		return errors.New("--whole is for stdin; a FILE is always one message")
	}
	return nil
}

// Main sends messages and writes their replies. It returns the exit code.
func Main(args []string) int {
	o := new(options)
	set := flagSet(o)
	if err := o.parse(set, args); err != nil {
		return set.Report(err)
	}
	pool, err := o.pool()
	if err != nil {
		fmt.Fprintf(os.Stderr, "poolinit: %v\n", err)
		return flags.ExitUsage
	}
	out := newOutput(o, expected(o, os.Stdin), os.Stdout, os.Stderr)
	in := newInput(o, os.Stdin, out)
	go in.read() // ends with the input, or with the program: nothing ends the read of a terminal
	out.show()
	if o.to.Scheme == "sysv" {
		sendSysV(o, in.ch, out)
	} else {
		sendStream(o, pool, in.ch, out)
	}
	return out.close()
}

const usageHead = `poolinit send sends messages to a pool and prints the replies.

Usage:
  poolinit send [flags] ADDRESS [FILE...]

ADDRESS is tcp://HOST:PORT, unix:///PATH or sysv://KEY. It may be the URL of the pool's
--listen: reply=, once=, tagged= and cert= in it hold for the client too. Each FILE is one
message (- is stdin); without a FILE each line of stdin is one.

Flags:
`

const usageTail = `
Replies go to stdout, one line each, in the order of the messages; failures to stderr.
The server decides which messages it answers. Without --reply the client ends its side
when the input ends (or is quiet for a second) and reads until the server closes: then
every message has been settled, but not which of them had no reply.

These messages are sent again, on a new connection: those that a stopping pool did not
take; those dropped after a message that was too big (without --reply only if it is clear
which one that was); and with --reply those without a reply when the connection broke. The
last kind may have been handled: at least once. Without --reply they are reported as
possibly lost.

Exit codes: 0 every message was handled; 1 some failed, were refused or may have been
lost; 2 usage error.
`
