package client

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
)

// parse returns what net.Dial is to be given.
func parse(text string) (network, address string, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", "", fmt.Errorf("%q is no address of a pool: %w", text, err)
	}
	query := u.Query()
	if query.Get("reply") == "never" {
		return "", "", fmt.Errorf("%q: a pool with reply=never has no replies", text)
	}
	if once := query.Get("once"); once != "" && once != "false" && once != "0" {
		return "", "", fmt.Errorf("%q: once=true is one message a connection, and this client sends many", text)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Scheme == "unix" && u.Host == "" && len(u.Path) > 1:
		return "unix", u.Path, nil
	case u.Scheme == "tcp" && u.Hostname() != "" && err == nil && port > 0 && u.Path == "":
		return "tcp", net.JoinHostPort(u.Hostname(), u.Port()), nil
	}
	return "", "", fmt.Errorf("%q is no address of a pool, such as tcp://127.0.0.1:8089 or unix:///run/pool.sock", text)
}
