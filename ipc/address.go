package ipc

import (
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// An Address is a source's URL, taken apart. What host, path and parameters mean
// is the source's to say.
type Address struct {
	Name       string // the URL without its parameters, for logs and metrics
	Scheme     string
	Host, Path string

	query string
}

// Addr is what the URL names: HOST:PORT, a path, or a key.
func (a Address) Addr() string { return a.Host + a.Path }

// ParseAddress takes a URL apart, and reports whether it has the form
// SCHEME://HOST/PATH?PARAMETERS.
func ParseAddress(s string) (a Address, ok bool) {
	u, err := url.Parse(s)
	if err != nil || u.Fragment != "" || u.User != nil || u.Opaque != "" {
		return Address{}, false
	}
	return Address{
		Name:   strings.TrimSuffix(s, "?"+u.RawQuery),
		Scheme: u.Scheme, Host: u.Host, Path: u.Path, query: u.RawQuery,
	}, true
}

// A Parameter is one that a source's URL may have.
type Parameter struct {
	Name string
	Set  func(value string) error
}

// Set sets the parameters that the URL has. The error for one that is not known
// names those that are.
func (a Address) Set(known []Parameter) error {
	values, err := url.ParseQuery(a.query)
	if err != nil {
		return fmt.Errorf("parameters such as ?reply=always&idle=60s: %w", err)
	}
	for name, list := range values {
		if len(list) > 1 {
			return fmt.Errorf("%s= once only", name)
		}
		if err := a.set(known, name, list[0]); err != nil {
			return err
		}
	}
	return nil
}

func (a Address) set(known []Parameter, name, value string) error {
	names := make([]string, len(known))
	for i, p := range known {
		if p.Name == name {
			return p.Set(value)
		}
		names[i] = p.Name
	}
	list := strings.Join(names, ", ")
	if last := strings.LastIndex(list, ", "); last >= 0 {
		list = list[:last] + " and " + list[last+2:]
	}
	return fmt.Errorf("%s:// has no parameter %q; there are %s", a.Scheme, name, list)
}

// LaneParameters are priority= and expires=, which every source has that its
// users may rank.
func LaneParameters(priority *int, expires *time.Duration) []Parameter {
	return []Parameter{
		{"priority", func(s string) error {
			n, err := strconv.Atoi(s)
			if err != nil || n < 0 || n > MaxPriority {
				return fmt.Errorf("priority=%s: a number from 0 to %d, the highest", s, MaxPriority)
			}
			*priority = n
			return nil
		}},
		{"expires", func(s string) error {
			d, err := time.ParseDuration(s)
			if err != nil || d < 0 {
				return fmt.Errorf("expires=%s: a duration such as 10s, or 0s for never", s)
			}
			*expires = d
			return nil
		}},
	}
}

// ModeParameter is mode=, the permissions of what the source makes.
func ModeParameter(to *fs.FileMode) Parameter {
	return Parameter{"mode", func(s string) error {
		n, err := strconv.ParseUint(s, 8, 12)
		if err != nil || n > 0o777 {
			return fmt.Errorf("mode=%s: permissions in octal, such as 0660", s)
		}
		*to = fs.FileMode(n)
		return nil
	}}
}
