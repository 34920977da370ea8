package send

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/poolinit/poolinit/ipc"
)

// A halfConn is a connection whose writing half can be closed alone.
type halfConn interface {
	net.Conn
	CloseWrite() error
}

var errNoCertificate = errors.New("no certificate in PEM")

// dialer returns what connects to the address. Certificates are read once.
func (o *sendOptions) dialer() (func(context.Context) (halfConn, error), error) {
	var d net.Dialer
	network := o.to.Scheme
	if !o.tls {
		return func(ctx context.Context) (halfConn, error) {
			nc, err := d.DialContext(ctx, network, o.to.Addr)
			if err != nil {
				return nil, err
			}
			return nc.(halfConn), nil // a *net.TCPConn or *net.UnixConn
		}, nil
	}
	config, err := o.tlsConfig()
	if err != nil {
		return nil, err
	}
	secure := &tls.Dialer{NetDialer: &d, Config: config}
	return func(ctx context.Context) (halfConn, error) {
		nc, err := secure.DialContext(ctx, network, o.to.Addr)
		if err != nil {
			return nil, noTLS(err)
		}
		return nc.(*tls.Conn), nil
	}, nil
}

// noTLS adds to the error of a handshake what it means that the answer was none.
func noTLS(err error) error {
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
		return fmt.Errorf("%w (no TLS is spoken there: has its --listen a cert=?)", err)
	}
	return err
}

func (o *sendOptions) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{ServerName: o.serverName, MinVersion: tls.VersionTLS12}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		if err == nil {
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(pem) {
				err = errNoCertificate
			}
		}
		if err != nil {
			return nil, fmt.Errorf("--ca %q: %w", o.ca, err)
		}
	}
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.certKey)
		if err != nil {
			return nil, fmt.Errorf("--cert %q, --key %q: %w", o.cert, o.certKey, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// sendSysV puts everything into a System V queue. It waits while that is full.
func sendSysV(o *sendOptions, in <-chan []parcel, out *sendOutput) {
	key, _ := strconv.ParseUint(o.to.Addr, 0, 32) // ParseURL has read it
	for list := range in {
		for _, p := range list {
			if err := ipc.SendSysV(uint32(key), p.body); err != nil {
				out.lost(1, fmt.Sprintf("%s: %v", p, err))
				continue
			}
			out.sending(p)
		}
	}
}
