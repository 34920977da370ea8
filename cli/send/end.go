package send

import (
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What the end of a connection tells of the messages that went over it.

// clean reports whether the server has closed after dealing with everything.
func (r *round) clean() bool { return r.taken }

// isTaken reports whether the server had read all when it closed. One that closes
// earlier breaks the connection, but its end may be read before that is known.
func (r *round) isTaken() bool {
	switch {
	case !r.s.o.once:
		return unacknowledged(r.conn) == 0
	case r.s.o.tls:
		return true // it has shaken hands, and need not wait for our close_notify
	default:
		return unacknowledged(r.conn) <= 1 // our FIN, for which it need not wait either
	}
}

// closeTime is how long after its close_notify a server may take to close.
const closeTime = 5 * time.Second

// unacknowledged returns how much a server that has ended had not confirmed. That
// is a FIN, too. What was confirmed and has not broken the connection was read.
func unacknowledged(conn net.Conn) int {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
		_ = conn.SetReadDeadline(time.Now().Add(closeTime))
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			return math.MaxInt // it said goodbye, and left something unread
		}
	}
	raw, err := conn.(syscall.Conn).SyscallConn() // a *net.TCPConn or *net.UnixConn
	if err != nil {
		return math.MaxInt
	}
	var n, broken int
	err = raw.Control(func(fd uintptr) {
		n, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
		broken, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) // after it: a reset empties the queue
	})
	if err != nil || broken != 0 {
		return math.MaxInt
	}
	return n
}

// An overflow is a message that was too big. The server has dealt with all before
// it, and dropped all after it.
type overflow struct {
	at   int  // its place in pending, or the first one that may be it
	sure bool // it is it
}

// overflowed finds the message, if replies are not counted. It is longer than all
// before it, which were taken, and not one that a reply came for. If that leaves
// several, none is taken for it: to send again what was handled is as wrong as to lose some.
func (r *round) overflowed() {
	r.quiesce()
	r.big = new(overflow)
	if r.counted {
		return
	}
	first, found, longest := r.frames-1, 0, 0
	r.big.at = first
	for i, p := range r.pending {
		if len(p.body) <= longest {
			continue
		}
		longest = len(p.body)
		if i < first {
			continue
		}
		if found++; found == 1 {
			r.big.at = i
		}
	}
	r.big.sure = found == 1
}

// leftover returns what is to be sent again, and of how many messages it is not
// known what became of them.
func (r *round) leftover() (again []parcel, unknown int) {
	o := r.s.o
	switch {
	case !r.counted && r.big != nil:
		return r.afterBig()
	case !r.counted:
		// Whatever is answered "stopping" comes last on a connection. But a server that
		// stops may also have run out of time to answer.
		first := len(r.pending) - r.stops
		if !r.clean() || r.stops > 0 {
			unknown = len(r.pending) - r.frames
		}
		return r.pending[first:], unknown
	case r.clean() && !o.reply:
		return r.stopped, 0 // once: no reply is no failure
	case r.clean() && o.once:
		for _, p := range r.pending {
			r.s.out.failure(p.String(), "", "the server closed the connection without a reply"+r.perhapsTLS())
		}
		return r.stopped, 0
	}
	return append(r.stopped, r.pending...), 0
}

// afterBig is leftover if a message was too big: those after it were dropped, and
// any that were answered "stopping" came right before it.
func (r *round) afterBig() (again []parcel, unknown int) {
	from := r.big.at - r.stops
	if !r.big.sure {
		return nil, len(r.pending) - from - 1
	}
	again = append(again, r.pending[from:r.big.at]...)
	return append(again, r.pending[r.big.at+1:]...), 0
}

// unknown says why the end of a connection leaves so many messages open.
func (r *round) unknown(n int) string {
	first, last := r.pending[0], r.pending[len(r.pending)-1]
	if r.big != nil {
		first = r.pending[r.big.at-r.stops]
		return fmt.Sprintf("%s: one of those from %s to %s was too big, and what follows it was dropped: %d may be lost (--reply would send them again)",
			r.s.o.to.Name, first, last, n)
	}
	why := r.err.Error()
	switch {
	case r.stops > 0:
		why = "the server is stopping"
	case r.err == io.EOF:
		why = "the server closed it early (if it has once=true in its URL, ADDRESS needs that too)"
	}
	return fmt.Sprintf("%s: the connection ended: %s%s; of those from %s to %s, %d had no reply and may be lost (--reply would send them again)",
		r.s.o.to.Name, why, r.perhapsTLS(), first, last, n)
}

// perhapsTLS is what may be wrong if a server closed and has never said anything.
func (r *round) perhapsTLS() string {
	o := r.s.o
	if o.tls || o.to.Scheme != "tcp" || r.s.heard || r.frames > 0 {
		return ""
	}
	return "; it may want TLS: --tls or --ca FILE"
}
