package stream

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ratelog"
)

// serveTLS serves a connection over TLS. The handshake is made by its reader, so
// that a client that is slow at it delays nothing else.
func (l *listener) serveTLS(fd int, peer netip.Addr) {
	file := os.NewFile(uintptr(fd), "connection")
	raw, _ := file.SyscallConn() // fails for a nil file only
	below := &tlsSocket{File: file, raw: raw, addr: l.addr}
	nc := &tlsConn{tls.Server(below, l.certs.forServer()), below}
	c := newConn(l, nc, nil, raw, &below.starved)
	l.add(c)
	l.isNew(c, peer)
	l.readers.Go(func() {
		if err := c.shakeHands(nc); err != nil {
			l.handshakeFailed(err)
			if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
				resetOnClose(raw)
			}
			c.end(nil)
			return
		}
		c.serve()
	})
}

// resetOnClose makes the closing of the connection reset it. A client that spoke
// no TLS has ended its side, perhaps, and would take a mere end for that of its
// replies.
func resetOnClose(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// tlsBuffer is as much as a tls.Conn has read from its socket and not handed
// out, at most: two records.
const tlsBuffer = 40 << 10

func (l *listener) handshakeFailed(err error) {
	l.stats.HandshakesFailed.Add(1)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET):
		// It went away by itself, as a client does that only checks the port.
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.certs.failures.Warn("TLS handshakes failed", "not complete in time")
	default:
		l.certs.failures.Warn("TLS handshakes failed", err.Error())
	}
}

// A tlsConn is a tls.Conn whose Close never waits for a client that does not
// read: the goroutines that settle messages call it.
type tlsConn struct {
	*tls.Conn
	below *tlsSocket
}

// Close says goodbye if the socket takes it.
func (c *tlsConn) Close() error {
	c.below.closing.Store(true)
	return c.Conn.Close()
}

// A tlsSocket is the socket below a tls.Conn.
type tlsSocket struct {
	*os.File
	raw     syscall.RawConn
	addr    net.Addr
	closing atomic.Bool

	// starved is for the connection's Reader: the socket is empty, and TLS has
	// handed out all that it had, since it reads only if it has no whole record.
	starved atomic.Bool
}

// Read reads once, when there is something.
func (s *tlsSocket) Read(p []byte) (n int, err error) {
	waited := s.raw.Read(func(fd uintptr) bool {
		s.starved.Store(false)
		n, err = unix.Read(int(fd), p)
		for err == unix.EINTR {
			n, err = unix.Read(int(fd), p)
		}
		if err == unix.EAGAIN {
			s.starved.Store(true)
		}
		return err != unix.EAGAIN
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write does not wait once the connection is being closed.
func (s *tlsSocket) Write(p []byte) (n int, err error) {
	if !s.closing.Load() {
		return s.File.Write(p)
	}
	broken := s.raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), p)
		return true
	})
	if broken != nil {
		err = broken
	}
	return max(n, 0), err
}

// LocalAddr implements net.Conn.
func (s *tlsSocket) LocalAddr() net.Addr { return s.addr }

// RemoteAddr implements net.Conn. TLS does not care.
func (s *tlsSocket) RemoteAddr() net.Addr { return s.addr }

// certificates are the files of a source with TLS. They are read again when a
// client comes, and at most once every look: nothing wakes up for them.
type certificates struct {
	config   *config
	log      zerolog.Logger
	failures *ratelog.Log // of handshakes
	trouble  *ratelog.Log // with the files

	mu     sync.Mutex
	looked time.Time
	files  [3][]byte // what is in use: certificate, key, client CAs
	used   *tls.Config
	until  time.Time // when the certificate expires; zero: that has been said
}

// look is how old the knowledge of the files may be. When it elapses, the next
// handshake reads them: 50 us.
const look = time.Second

// openCertificates reads the files for the first time; a source without TLS has
// none.
func openCertificates(u *config, log zerolog.Logger) (*certificates, error) {
	if u.cert == "" {
		return nil, nil
	}
	c := &certificates{config: u, log: log, failures: ratelog.New(log), trouble: ratelog.New(log)}
	if err := c.reload(time.Now()); err != nil {
		return nil, err
	}
	return c, nil
}

// forServer is for tls.Server.
func (c *certificates) forServer() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current(time.Now()), nil },
	}
}

// current returns what is to be used now. Files that are no good, because they
// are only half-written, say, leave what there was in use.
func (c *certificates) current(at time.Time) *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.Sub(c.looked) >= look {
		if err := c.reload(at); err != nil {
			c.trouble.Warn("cannot use the certificate files, keeping the previous ones", err.Error())
		}
	}
	return c.used
}

// reload reads the files, and uses them if they have changed.
func (c *certificates) reload(at time.Time) error {
	c.looked = at
	var files [3][]byte
	for i, f := range c.names() {
		text, err := readFile(f.parameter, f.path)
		if err != nil {
			return err
		}
		files[i] = text
	}
	same := c.used != nil
	for i := range files {
		same = same && bytes.Equal(files[i], c.files[i])
	}
	if !same {
		config, err := c.parse(files)
		if err != nil {
			return err
		}
		if c.used != nil {
			c.log.Info().Time("expires", config.Certificates[0].Leaf.NotAfter).Msg("certificates reloaded")
		}
		c.used, c.files, c.until = config, files, config.Certificates[0].Leaf.NotAfter
	}
	c.checkExpiry(at)
	return nil
}

// checkExpiry says it once when certificate has expired. Whether to trust it
// then is for clients to decide.
func (c *certificates) checkExpiry(at time.Time) {
	if !c.until.IsZero() && at.After(c.until) {
		c.log.Warn().Time("expired", c.until).Str("file", c.config.cert).Msg("certificate has expired")
		c.until = time.Time{}
	}
}

type namedFile struct{ parameter, path string }

func (c *certificates) names() [3]namedFile {
	return [3]namedFile{{"cert", c.config.cert}, {"key", c.config.key}, {"client-ca", c.config.clientCA}}
}

// maxPEM is far above any bundle of certificates.
const maxPEM = 4 << 20

func readFile(parameter, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s=: %w", parameter, err)
	case !fi.Mode().IsRegular() || fi.Size() > maxPEM: // reading a pipe would wait
		return nil, fmt.Errorf("%s=%s is not a PEM file", parameter, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s=: %w", parameter, err)
	}
	return text, nil
}

func (c *certificates) parse(files [3][]byte) (*tls.Config, error) {
	chain, err := parseCertificates(files[0])
	if err != nil {
		return nil, fmt.Errorf("cert=%s: %w", c.config.cert, err)
	}
	pair, err := tls.X509KeyPair(files[0], files[1])
	if err != nil {
		return nil, fmt.Errorf("cert=%s with key=%s: %w", c.config.cert, c.config.key, err)
	}
	pair.Leaf = chain[0]
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if c.config.clientCA == "" {
		return config, nil
	}
	authorities, err := parseCertificates(files[2])
	if err != nil {
		return nil, fmt.Errorf("client-ca=%s: %w", c.config.clientCA, err)
	}
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	// A ticket would let a client in whose CA has been taken away since.
	config.SessionTicketsDisabled = true
	for _, ca := range authorities {
		config.ClientCAs.AddCert(ca)
	}
	return config, nil
}

var (
	errTruncated     = errors.New("a PEM block in it is cut off or damaged")
	errNoCertificate = errors.New("there is no certificate in it")
)

// parseCertificates reads every certificate of a PEM file. The standard library
// passes over what it cannot read; here a file that is half-written must not
// count as good because its first block is.
func parseCertificates(text []byte) (list []*x509.Certificate, err error) {
	blocks := bytes.Count(text, []byte("-----BEGIN "))
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if blocks--; block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, cert)
	}
	switch {
	case blocks > 0:
		return nil, errTruncated
	case len(list) == 0:
		return nil, errNoCertificate
	}
	return list, nil
}
