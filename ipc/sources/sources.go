// Package sources has the table of all message sources: which package serves which
// scheme. To add a source, write a package with a type that implements ipc.Source
// and a function that parses its address, and add a line here.
package sources

import (
	"errors"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/stream"
	"github.com/poolinit/poolinit/ipc/sysv"
)

// A Table says for each scheme how an address is parsed. What a parser returns
// opens the source.
type Table map[string]func(ipc.Address) (ipc.Opener, error)

// All returns the table of the sources that there are.
func All() Table {
	return Table{
		"tcp":  stream.ParseTCP,
		"unix": stream.ParseUnix,
		"sysv": sysv.Parse,
	}
}

// An Endpoint is the address of a source, parsed.
type Endpoint struct {
	Name   string // without parameters, for logs and metrics
	Scheme string
	Addr   string // HOST:PORT, a path, or a key

	open ipc.Opener
}

var errScheme = errors.New("a URL such as tcp://0.0.0.0:8089, unix:///run/pool.sock or sysv://0x7000001")

// Parse reads the address of a message source. The error says what is allowed.
func Parse(s string) (*Endpoint, error) { return All().Parse(s) }

// Parse reads the address of a source in the table.
func (t Table) Parse(s string) (*Endpoint, error) {
	a, ok := ipc.ParseAddress(s)
	parse := t[a.Scheme]
	if !ok || parse == nil {
		return nil, errScheme
	}
	open, err := parse(a)
	if err != nil {
		return nil, err
	}
	return &Endpoint{Name: a.Name, Scheme: a.Scheme, Addr: a.Addr(), open: open}, nil
}

// Open binds the address. Nothing is taken before Serve.
func (e *Endpoint) Open(q *ipc.Queue, log zerolog.Logger) (ipc.Source, error) {
	return e.open(q, log.With().Str("source", e.Name).Logger())
}
