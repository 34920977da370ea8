package stream

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/poolinit/poolinit/ipc"
)

// A replyMode says which replies a client gets.
type replyMode string

const (
	replyAuto   replyMode = "auto"   // those with something in them, and failures
	replyAlways replyMode = "always" // one a message
	replyNever  replyMode = "never"
)

// errTagged is the error of parameters that do not go with tagged=true.
var errTagged = errors.New("tagged=true answers each message with its tag: it goes with reply=always or no reply=, and not with once=true")

// A config is what a URL says about a source.
type config struct {
	ipc.Address

	mode fs.FileMode // of a unix socket's file

	reply       replyMode
	once        bool
	tagged      bool
	priority    int
	expires     time.Duration // 0: never
	idle        time.Duration
	partial     time.Duration
	connections int
	allow       []netip.Prefix

	cert, key, clientCA string // PEM files
}

func newConfig(a ipc.Address) *config {
	return &config{Address: a, mode: 0o660, idle: time.Minute, partial: 10 * time.Second, connections: 1024}
}

// ParseTCP reads the address of a tcp:// source, and returns what opens it. The
// error says what is allowed.
func ParseTCP(a ipc.Address) (ipc.Opener, error) {
	c, err := parseTCP(a)
	if err != nil {
		return nil, err
	}
	return c.openTCP, nil
}

// ParseUnix reads the address of a unix:// source, and returns what opens it. The
// error says what is allowed.
func ParseUnix(a ipc.Address) (ipc.Opener, error) {
	c, err := parseUnix(a)
	if err != nil {
		return nil, err
	}
	return c.openUnix, nil
}

func parseTCP(a ipc.Address) (*config, error) {
	if err := checkTCP(a); err != nil {
		return nil, err
	}
	c := newConfig(a)
	if err := a.Set(append(c.parameters(), c.tcpParameters()...)); err != nil {
		return nil, err
	}
	switch {
	case c.settle() != nil:
		return nil, errTagged
	case (c.cert == "") != (c.key == ""):
		return nil, errors.New("cert= and key= together, each a PEM file")
	case c.clientCA != "" && c.cert == "":
		return nil, errors.New("client-ca= with cert= and key= only")
	}
	return c, nil
}

func parseUnix(a ipc.Address) (*config, error) {
	if err := checkUnix(a); err != nil {
		return nil, err
	}
	c := newConfig(a)
	if err := a.Set(append([]ipc.Parameter{ipc.ModeParameter(&c.mode)}, c.parameters()...)); err != nil {
		return nil, err
	}
	return c, c.settle()
}

// settle decides what the parameters mean together.
func (c *config) settle() error {
	switch {
	case c.tagged && (c.once || c.reply != "" && c.reply != replyAlways):
		return errTagged
	case c.tagged:
		c.reply = replyAlways
	case c.reply == "":
		c.reply = replyAuto
	}
	return nil
}

func checkTCP(a ipc.Address) error {
	_, port, err := net.SplitHostPort(a.Host)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || a.Path != "" || port != strconv.FormatUint(n, 10) {
		return errors.New("tcp://HOST:PORT, with a port from 0 to 65535, such as tcp://0.0.0.0:8089 or tcp://[::1]:8089")
	}
	return nil
}

func checkUnix(a ipc.Address) error {
	if a.Host != "" || len(a.Path) < 2 || len(a.Path) > 107 || strings.ContainsRune(a.Path, 0) {
		return errors.New("unix:///PATH, absolute and at most 107 bytes long, such as unix:///run/pool.sock")
	}
	return nil
}

// parameters are those of every stream.
func (c *config) parameters() []ipc.Parameter {
	return append([]ipc.Parameter{
		{Name: "reply", Set: func(s string) error {
			if c.reply = replyMode(s); c.reply != replyAuto && c.reply != replyAlways && c.reply != replyNever {
				return fmt.Errorf("reply=%s: auto, always or never", s)
			}
			return nil
		}},
		{Name: "once", Set: func(s string) (err error) {
			if c.once, err = strconv.ParseBool(s); err != nil {
				return fmt.Errorf("once=%s: true or false", s)
			}
			return nil
		}},
		{Name: "tagged", Set: func(s string) (err error) {
			if c.tagged, err = strconv.ParseBool(s); err != nil {
				return fmt.Errorf("tagged=%s: true or false", s)
			}
			return nil
		}},
		{Name: "idle", Set: func(s string) error { return setLimit(&c.idle, "idle", s) }},
		{Name: "partial", Set: func(s string) error { return setLimit(&c.partial, "partial", s) }},
		{Name: "connections", Set: func(s string) (err error) {
			if c.connections, err = strconv.Atoi(s); err != nil || c.connections < 1 {
				return fmt.Errorf("connections=%s: a number from 1 on", s)
			}
			return nil
		}},
	}, ipc.LaneParameters(&c.priority, &c.expires)...)
}

func (c *config) tcpParameters() []ipc.Parameter {
	text := func(to *string) func(string) error {
		return func(s string) error { *to = s; return nil }
	}
	return []ipc.Parameter{
		{Name: "allow", Set: func(s string) (err error) { c.allow, err = parsePrefixes(s); return err }},
		{Name: "cert", Set: text(&c.cert)},
		{Name: "key", Set: text(&c.key)},
		{Name: "client-ca", Set: text(&c.clientCA)},
	}
}

func setLimit(to *time.Duration, name, s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return fmt.Errorf("%s=%s: a duration such as 10s, or 0s for no limit", name, s)
	}
	*to = d
	return nil
}

// parsePrefixes reads 10.0.0.0/8,::1.
func parsePrefixes(s string) (list []netip.Prefix, err error) {
	for word := range strings.SplitSeq(s, ",") {
		if addr, err := netip.ParseAddr(word); err == nil {
			list = append(list, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(word)
		if err != nil {
			return nil, fmt.Errorf("allow=%s: addresses or networks, separated by commas, such as 10.0.0.0/8,::1", s)
		}
		if prefix, err = unmap(prefix); err != nil {
			return nil, fmt.Errorf("allow=%s: %w", s, err)
		}
		list = append(list, prefix.Masked())
	}
	return list, nil
}

// unmap makes an IPv4 network of one that is written as IPv6. Clients are
// compared by their IPv4 address, which no other form would match.
func unmap(p netip.Prefix) (netip.Prefix, error) {
	const mapped = 96 // bits of ::ffff:
	switch {
	case !p.Addr().Is4In6():
		return p, nil
	case p.Bits() < mapped:
		return p, fmt.Errorf("%s is neither a network of IPv4, such as 10.0.0.0/8 or ::ffff:10.0.0.0/104, nor one of IPv6", p)
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped), nil
}

func (c *config) allows(addr netip.Addr) bool {
	if len(c.allow) == 0 {
		return true
	}
	addr = addr.Unmap().WithZone("")
	for _, p := range c.allow {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
