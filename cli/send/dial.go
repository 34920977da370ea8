package send

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/poolinit/poolinit/ipc/dial"
	"github.com/poolinit/poolinit/ipc/sysv"
)

var errNoCertificate = errors.New("no certificate in PEM")

// pool returns the address, with what is to be trusted. Certificates are read
// once.
func (o *options) pool() (dial.Pool, error) {
	pool := dial.Pool{Network: o.to.Scheme, Address: o.to.Addr}
	if !o.tls {
		return pool, nil
	}
	pool.TLS = &tls.Config{ServerName: o.serverName, MinVersion: tls.VersionTLS12}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err == nil {
			pool.TLS.RootCAs = x509.NewCertPool()
			if !pool.TLS.RootCAs.AppendCertsFromPEM(pem) {
				err = errNoCertificate
			}
		}
		if err != nil {
			return pool, fmt.Errorf("--ca %q: %w", o.ca, err)
		}
	}
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.certKey)
		if err != nil {
			return pool, fmt.Errorf("--cert %q, --key %q: %w", o.cert, o.certKey, err)
		}
		pool.TLS.Certificates = []tls.Certificate{pair}
	}
	return pool, nil
}

// sendStream sends everything to a pool, or reports why it cannot.
func sendStream(o *options, pool dial.Pool, in <-chan []dial.Message, out *output) {
	stream := dial.Stream{Connect: pool.Connect, Always: o.reply, Once: o.once, Tagged: o.tagged, InFlight: o.inFlight,
		Timeout: o.timeout, ConnectTimeout: o.connectTimeout}
	err := stream.Send(context.Background(), in, out)
	if unsent, ok := errors.AsType[*dial.Unsent](err); ok {
		out.gaveUp(unsent)
	}
}

// sendSysV puts everything into a System V queue. It waits while that is full.
func sendSysV(o *options, in <-chan []dial.Message, out *output) {
	key, _ := strconv.ParseUint(o.to.Addr, 0, 32) // sources.Parse has read it
	for list := range in {
		for _, m := range list {
			if err := sysv.Send(uint32(key), m.Body); err != nil {
				out.lost(1, fmt.Sprintf("%s: %v", m, err))
				continue
			}
			out.Sending(m)
		}
	}
}
