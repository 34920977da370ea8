package ipc

import (
	"context"
	"fmt"
	"net"

	"github.com/rs/zerolog"
)

// openTCP binds a tcp:// source, with TLS if the URL names a certificate.
func openTCP(u *URL, q *Queue, log zerolog.Logger) (Source, error) {
	certs, err := openCertificates(u, log)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", u.Name, err)
	}
	ln, err := bindTCP(u)
	if err != nil {
		return nil, err
	}
	l, err := newListener(u, q, log, ln)
	if err != nil {
		return nil, err
	}
	l.certs = certs
	return l, nil
}

// bindTCP makes the socket. Go sets SO_REUSEADDR.
func bindTCP(u *URL) (net.Listener, error) {
	// Keep-alive costs three system calls a connection, and what it finds, idle= finds too.
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false) // who inherits the socket expects plain TCP
	ln, err := config.Listen(context.Background(), "tcp", u.Addr)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", u.Name, err)
	}
	return ln, nil
}
