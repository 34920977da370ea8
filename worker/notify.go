package worker

import (
	"errors"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// A notifier is the name of the socket where poolinit listens: sd_notify(3).
type notifier string

var errNoSocket = errors.New("worker: nobody listens (NOTIFY_SOCKET is not set)")

// tell sends one datagram. It waits while the receiver is behind.
func (n notifier) tell(text string) error {
	if n == "" {
		return errNoSocket
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return syscall.Sendto(fd, []byte(text), syscall.MSG_NOSIGNAL, &syscall.SockaddrUnix{Name: string(n)})
}

// A watchdog says twice in every interval that the worker is alive, unless the
// worker has messages in hand, and none of them has got on since the last time: then it hangs, and
// poolinit is right to act when it has heard nothing for the whole interval.
type watchdog struct {
	every time.Duration // 0: it is not asked for
	step  atomic.Uint64 // counts what handlers do
	hands atomic.Int64  // messages in hand
}

// watchdogFrom reads what poolinit asks for with --watchdog.
func watchdogFrom(getenv func(string) string) *watchdog {
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec < 2 || usec > int64(time.Duration(1<<63-1)/time.Microsecond) {
		return new(watchdog)
	}
	return &watchdog{every: time.Duration(usec) * time.Microsecond / 2}
}

// begin notes that a message has come into hand.
func (d *watchdog) begin() {
	if d.every > 0 {
		d.hands.Add(1)
		d.step.Add(1)
	}
}

// end notes that it is out of it.
func (d *watchdog) end() {
	if d.every > 0 {
		d.hands.Add(-1)
		d.step.Add(1)
	}
}

// moved notes that a handler gets on.
func (d *watchdog) moved() { d.step.Add(1) }

func (d *watchdog) run(to notifier, done <-chan struct{}) {
	if d.every == 0 {
		return
	}
	ticker := time.NewTicker(d.every)
	defer ticker.Stop()
	var last uint64
	for {
		select {
		case <-ticker.C:
		case <-done:
			return
		}
		if step := d.step.Load(); d.hands.Load() == 0 || step != last {
			last = step
			_ = to.tell("WATCHDOG=1") // one that is lost is followed by the next
		}
	}
}
