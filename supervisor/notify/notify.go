// Package notify is sd_notify(3): what a service tells the manager that started
// it, in datagrams to the socket named by NOTIFY_SOCKET. It is both ends: that of
// the manager is Socket, that of the service Send.
package notify

import (
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxMessage is the longest message that is understood, in bytes. It is
// systemd's limit (NOTIFY_BUFFER_MAX, which is PIPE_BUF).
const MaxMessage = 4096

// maxStatus is the longest STATUS that is kept, in bytes.
const maxStatus = 512

// A Message is what one datagram said. Assignments that are not listed here
// (MAINPID, ERRNO, FDSTORE ...) are ignored, as sd_notify(3) asks receivers to.
type Message struct {
	Ready            bool          // READY=1
	Stopping         bool          // STOPPING=1
	Status           string        // STATUS=text
	Watchdog         bool          // WATCHDOG=1
	WatchdogTrigger  bool          // WATCHDOG=trigger: behave as if it were late
	WatchdogInterval time.Duration // WATCHDOG_USEC=n: a new interval
}

var (
	errEmpty    = errors.New("empty message")
	errNoAssign = errors.New("a line is not NAME=value")
	errUTF8     = errors.New("not UTF-8")
	errTooLong  = errors.New("message is longer than 4096 bytes")
	errWatchdog = errors.New("WATCHDOG_USEC is no number of microseconds above 0")
)

// Parse reads a datagram: NAME=value, one a line.
func Parse(datagram []byte) (Message, error) {
	var m Message
	switch {
	case len(datagram) > MaxMessage:
		return m, errTooLong
	case !utf8.Valid(datagram):
		return m, errUTF8
	}
	text := strings.TrimRight(string(datagram), "\n")
	if text == "" {
		return m, errEmpty
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || name == "" {
			return Message{}, errNoAssign
		}
		if err := m.assign(name, value); err != nil {
			return Message{}, err
		}
	}
	return m, nil
}

func (m *Message) assign(name, value string) error {
	switch name {
	case "READY":
		m.Ready = value == "1"
	case "STOPPING":
		m.Stopping = value == "1"
	case "STATUS":
		m.Status = shorten(value)
	case "WATCHDOG":
		m.Watchdog = value == "1"
		m.WatchdogTrigger = value == "trigger"
	case "WATCHDOG_USEC":
		usec, err := strconv.ParseUint(value, 10, 64)
		if err != nil || usec == 0 || usec > uint64(time.Duration(1<<63-1)/time.Microsecond) {
			return errWatchdog
		}
		m.WatchdogInterval = time.Duration(usec) * time.Microsecond
	}
	return nil
}

// shorten cuts a status to maxStatus at a character's boundary.
func shorten(s string) string {
	if len(s) <= maxStatus {
		return s
	}
	cut := maxStatus
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
