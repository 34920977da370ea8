package stream

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper/ancillary"
)

// A Share is a listening socket for the workers to accept from themselves.
type Share struct {
	URL  string // without parameters, for the log
	Name string // in LISTEN_FDNAMES

	config    *config
	inherited string // the name or number of a socket that this process was given; "": it opens one

	// Once it is open. File.Fd makes a socket blocking again each time, for all
	// processes that have it, so it is called once.
	file   *os.File
	fd     uintptr
	unlink *socketFile // of a unix one
}

var errShare = errors.New("a URL such as tcp://0.0.0.0:8080 or unix:///run/http.sock, or fd://NAME for one that poolinit was given")

// ParseShare reads the address of a shared socket. It has two parameters: mode=
// for unix, and name=.
func ParseShare(s string) (*Share, error) {
	address, query, _ := strings.Cut(s, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("parameters such as ?name=http: %w", err)
	}
	for name, list := range values {
		if name != "name" && (name != "mode" || !strings.HasPrefix(s, "unix:")) || len(list) > 1 {
			return nil, fmt.Errorf("a shared socket has the parameters name= and, for unix, mode=; not %s=%s", name, list[len(list)-1])
		}
	}
	name, named := values.Get("name"), values.Has("name")
	if values.Del("name"); len(values) > 0 {
		address += "?" + values.Encode()
	}
	if given, ok := strings.CutPrefix(address, "fd://"); ok {
		return parseInherited(address, given, name, named)
	}
	a, ok := ipc.ParseAddress(address)
	var c *config
	switch {
	case ok && a.Scheme == "tcp":
		c, err = parseTCP(a)
	case ok && a.Scheme == "unix":
		c, err = parseUnix(a)
	default:
		err = errShare
	}
	if err != nil {
		return nil, err
	}
	if !named {
		name = defaultName(c)
	}
	if !isFDName(name) {
		return nil, fmt.Errorf("name=%s: 1 to 255 letters, digits and marks, no space and no colon", name)
	}
	return &Share{URL: c.Name, Name: name, config: c}, nil
}

// parseInherited is for a socket that is not opened. Its name is the given one.
func parseInherited(url, given, name string, named bool) (*Share, error) {
	if !named {
		name = given
	}
	if !isFDName(given) || !isFDName(name) || strings.ContainsAny(given, "?/") {
		return nil, errInherited
	}
	return &Share{URL: url, Name: name, inherited: given}, nil
}

// defaultName is tcp-8080, or unix-http.sock for /run/http.sock.
func defaultName(c *config) string {
	if c.Scheme == "unix" {
		return "unix-" + strings.Map(plain, path.Base(c.Addr()))
	}
	_, port, _ := net.SplitHostPort(c.Addr()) // parseTCP has done it
	return "tcp-" + port
}

func isFDName(name string) bool {
	return name != "" && len(name) <= 255 && strings.Map(plain, name) == name
}

// plain is r, or "_" for what may not be in a name: systemd separates them by
// colons.
func plain(r rune) rune {
	if r <= ' ' || r > '~' || r == ':' {
		return '_'
	}
	return r
}

// Open binds the socket. It is made blocking, as by systemd, and then left to
// the workers: what one of them changes about that it changes for all. A socket of
// fd:// is one of those that this process was given, and stays as it is.
func (s *Share) Open(given []Inherited) error {
	if s.inherited != "" {
		return s.inherit(given)
	}
	var (
		ln  net.Listener
		err error
	)
	if s.config.Scheme == "unix" {
		ln, s.unlink, err = bindUnix(s.config)
	} else {
		ln, err = bindTCP(s.config)
	}
	if err != nil {
		return err
	}
	defer ln.Close()
	if s.file, err = fileOf(ln); err == nil {
		s.fd = s.file.Fd()
		err = unix.SetNonblock(int(s.fd), false)
	}
	if err != nil {
		s.removeFile()
		return fmt.Errorf("cannot share %s: %w", s.URL, err)
	}
	return nil
}

// fileOf returns a listener's socket as a descriptor of its own.
func fileOf(ln net.Listener) (*os.File, error) {
	return ln.(interface{ File() (*os.File, error) }).File()
}

func (s *Share) removeFile() {
	if s.unlink != nil {
		s.unlink.remove()
	}
}

// Fd returns the descriptor of an open socket.
func (s *Share) Fd() uintptr { return s.fd }

// Close closes an open socket, and removes the file of a unix one.
func (s *Share) Close() {
	s.removeFile()
	ancillary.CloseListener(s.file)
}
