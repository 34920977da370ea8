package ipc

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A replyMode says which replies a client gets.
type replyMode string

const (
	replyAuto   replyMode = "auto"   // those with something in them, and failures
	replyAlways replyMode = "always" // one a message
	replyNever  replyMode = "never"
)

// A URL is a --listen or --share address, parsed.
type URL struct {
	Name   string // without parameters, for logs and metrics
	Scheme string // tcp, unix or sysv
	Addr   string // HOST:PORT, a path, or a key

	key  uint32
	mode fs.FileMode

	reply       replyMode
	once        bool
	idle        time.Duration
	partial     time.Duration
	connections int
	allow       []netip.Prefix

	cert, certKey, clientCA string
}

var errScheme = errors.New("a URL such as tcp://0.0.0.0:8089, unix:///run/pool.sock or sysv://0x7000001")

// ParseURL reads the address of a message source. The error says what is
// allowed.
func ParseURL(s string) (*URL, error) {
	parsed, err := url.Parse(s)
	if err != nil || parsed.Fragment != "" || parsed.User != nil || parsed.Opaque != "" {
		return nil, errScheme
	}
	u := &URL{
		Scheme: parsed.Scheme, Name: strings.TrimSuffix(s, "?"+parsed.RawQuery),
		reply: replyAuto, idle: time.Minute, partial: 10 * time.Second, connections: 1024, mode: 0o660,
	}
	if err := u.address(parsed); err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(parsed.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("parameters such as ?reply=always&idle=60s: %w", err)
	}
	for name, list := range values {
		if len(list) > 1 {
			return nil, fmt.Errorf("%s= once only", name)
		}
		if err := u.parameter(name, list[0]); err != nil {
			return nil, err
		}
	}
	return u, u.check()
}

func (u *URL) address(parsed *url.URL) error {
	switch u.Scheme {
	case "tcp":
		_, port, err := net.SplitHostPort(parsed.Host)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || parsed.Path != "" || port != strconv.FormatUint(n, 10) {
			return errors.New("tcp://HOST:PORT, with a port from 0 to 65535, such as tcp://0.0.0.0:8089 or tcp://[::1]:8089")
		}
		u.Addr = parsed.Host
	case "unix":
		if parsed.Host != "" || len(parsed.Path) < 2 || len(parsed.Path) > 107 || strings.ContainsRune(parsed.Path, 0) {
			return errors.New("unix:///PATH, absolute and at most 107 bytes long, such as unix:///run/pool.sock")
		}
		u.Addr = parsed.Path
	case "sysv":
		key, err := strconv.ParseUint(parsed.Host, 0, 32)
		if err != nil || key == 0 || parsed.Path != "" {
			return errors.New("sysv://KEY, a number from 1 to 0xffffffff as ftok(3) makes it, such as sysv://0x7000001")
		}
		u.Addr, u.key, u.mode = parsed.Host, uint32(key), 0o600
	default:
		return errScheme
	}
	return nil
}

// parameter reads one of the URL's parameters.
func (u *URL) parameter(name, s string) (err error) {
	stream := u.Scheme != "sysv"
	switch {
	case name == "mode" && u.Scheme != "tcp":
		var n uint64
		if n, err = strconv.ParseUint(s, 8, 12); err != nil || n > 0o777 {
			return fmt.Errorf("mode=%s: permissions in octal, such as 0660", s)
		}
		u.mode = fs.FileMode(n)
	case name == "reply" && stream:
		if u.reply = replyMode(s); u.reply != replyAuto && u.reply != replyAlways && u.reply != replyNever {
			return fmt.Errorf("reply=%s: auto, always or never", s)
		}
	case name == "once" && stream:
		if u.once, err = strconv.ParseBool(s); err != nil {
			return fmt.Errorf("once=%s: true or false", s)
		}
	case name == "idle" && stream:
		u.idle, err = timeLimit(name, s)
	case name == "partial" && stream:
		u.partial, err = timeLimit(name, s)
	case name == "connections" && stream:
		if u.connections, err = strconv.Atoi(s); err != nil || u.connections < 1 {
			return fmt.Errorf("connections=%s: a number from 1 on", s)
		}
	case name == "allow" && u.Scheme == "tcp":
		u.allow, err = prefixes(s)
	case name == "cert" && u.Scheme == "tcp":
		u.cert = s
	case name == "key" && u.Scheme == "tcp":
		u.certKey = s
	case name == "client-ca" && u.Scheme == "tcp":
		u.clientCA = s
	default:
		return fmt.Errorf("%s:// has no parameter %q; there are %s", u.Scheme, name, parametersOf(u.Scheme))
	}
	return err
}

func parametersOf(scheme string) string {
	switch scheme {
	case "sysv":
		return "mode"
	case "unix":
		return "mode, reply, once, idle, partial and connections"
	}
	return "reply, once, idle, partial, connections, allow, cert, key and client-ca"
}

func (u *URL) check() error {
	switch {
	case (u.cert == "") != (u.certKey == ""):
		return errors.New("cert= and key= together, each a PEM file")
	case u.clientCA != "" && u.cert == "":
		return errors.New("client-ca= with cert= and key= only")
	}
	return nil
}

func timeLimit(name, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s=%s: a duration such as 10s, or 0s for no limit", name, s)
	}
	return d, nil
}

// prefixes reads 10.0.0.0/8,::1.
func prefixes(s string) (list []netip.Prefix, err error) {
	for word := range strings.SplitSeq(s, ",") {
		if addr, err := netip.ParseAddr(word); err == nil {
			list = append(list, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(word)
		if err != nil {
			return nil, fmt.Errorf("allow=%s: addresses or networks, separated by commas, such as 10.0.0.0/8,::1", s)
		}
		if prefix, err = unmapped(prefix); err != nil {
			return nil, fmt.Errorf("allow=%s: %w", s, err)
		}
		list = append(list, prefix.Masked())
	}
	return list, nil
}

// unmapped makes an IPv4 network of one that is written as IPv6. Clients are
// compared by their IPv4 address, which no other form would match.
func unmapped(p netip.Prefix) (netip.Prefix, error) {
	const mapped = 96 // bits of ::ffff:
	switch {
	case !p.Addr().Is4In6():
		return p, nil
	case p.Bits() < mapped:
		return p, fmt.Errorf("%s is neither a network of IPv4, such as 10.0.0.0/8 or ::ffff:10.0.0.0/104, nor one of IPv6", p)
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped), nil
}

func (u *URL) allows(addr netip.Addr) bool {
	if len(u.allow) == 0 {
		return true
	}
	addr = addr.Unmap().WithZone("")
	for _, p := range u.allow {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
