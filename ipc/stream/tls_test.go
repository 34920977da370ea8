package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
	"github.com/poolinit/poolinit/ratelog"
)

// dialTLS connects a client that trusts the authority.
func (w *world) dialTLS(ca *authority, config *tls.Config) *ipctest.Client {
	w.T.Helper()
	if config == nil {
		config = new(tls.Config)
	}
	config.ServerName, config.RootCAs = "localhost", ca.pool()
	raw := w.dial()
	nc := tls.Client(raw.Conn, config)
	return ipctest.NewClient(w.T, nc)
}

func tlsWorld(t *testing.T, more string, change func(*ipc.Config)) (*world, *authority) {
	t.Helper()
	ca := newAuthority(t)
	cert, key := ca.issue("server", time.Hour)
	return newWorld(t, "?cert="+cert+"&key="+key+more, change), ca
}

func TestTLSEcho(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		w, ca := tlsWorld(t, "&reply=always", nil)
		w.Worker(ipctest.Answering(ipctest.Echo))
		c := w.dialTLS(ca, &tls.Config{MaxVersion: version})
		big := strings.Repeat("x", 1<<20)
		go c.Send("a", "", big, "d") // ends when all is written
		c.Want("a", "", big, "d")
		for range 200 {
			c.Send("lock-step")
			c.Want("lock-step")
		}
	}
}

// What a client had sent before it closed its side is answered, and the end of
// the replies is a clean one.
func TestTLSHalfClose(t *testing.T) {
	w, ca := tlsWorld(t, "&reply=always", nil)
	c := w.dialTLS(ca, nil)
	c.Send("a", "b")
	if err := c.Conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	w.Worker(ipctest.Answering(ipctest.Echo))
	c.Want("a", "b", "error EOF")
}

func TestTLSTruncated(t *testing.T) {
	w, ca := tlsWorld(t, "&reply=always", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dialTLS(ca, nil)
	c.Send("whole")
	if _, err := c.Write([]byte{0, 0, 0, 9, 'h', 'a', 'l', 'f'}); err != nil {
		t.Fatal(err)
	}
	if err := c.Conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.Want("whole", "error EOF")
	if n := w.src.stats.FramesPartial.Load(); n != 1 {
		t.Errorf("%d partial frames", n)
	}
}

func TestTLSRefused(t *testing.T) {
	w, ca := tlsWorld(t, "&reply=always", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	old := w.dialTLS(ca, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err := old.Conn.(*tls.Conn).Handshake(); err == nil {
		t.Error("TLS 1.1 is taken")
	}
	plain := w.dial()
	plain.Send("hello")
	if got := plain.Next(); !strings.HasPrefix(got, "error") {
		t.Errorf("a client without TLS reads %q", got)
	}
	ipctest.Eventually(t, "two failed handshakes", func() bool { return w.src.stats.HandshakesFailed.Load() == 2 })
	ipctest.Eventually(t, "they are logged", func() bool { return strings.Contains(w.Log.Text(), "TLS handshakes failed") })
}

// A client that says nothing, or stops in the middle, has as long as for a
// frame, and no other client waits for it.
func TestTLSSilentClient(t *testing.T) {
	t.Parallel()
	w, ca := tlsWorld(t, "&reply=always&partial=400ms", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	silent, begun := w.dial(), w.dial()
	if _, err := begun.Write([]byte{22, 3, 1, 2}); err != nil {
		t.Fatal(err)
	}
	var c *ipctest.Client
	ipctest.Undisturbed(t, 300*time.Millisecond, func() error {
		c = w.dialTLS(ca, nil)
		return c.Try("a", "a")
	})
	for _, s := range []*ipctest.Client{silent, begun} {
		if _, err := s.R.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("not closed: %v", err)
		}
	}
	ipctest.Eventually(t, "one connection", func() bool { return w.src.stats.Connections.Load() == 1 })
}

func TestMutualTLS(t *testing.T) {
	clients, strangers := newAuthority(t), newAuthority(t)
	w, ca := tlsWorld(t, "&reply=always&client-ca="+clients.file, nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	for _, tt := range []struct {
		name string
		cert []tls.Certificate
		want string
	}{
		{"known", clients.client(time.Hour), "a"},
		{"none", nil, "error remote error: tls: certificate required"},
		{"of somebody else", strangers.client(time.Hour), "error remote error: tls: unknown certificate authority"},
		{"expired", clients.client(-time.Minute), "error remote error: tls: expired certificate"},
	} {
		config := &tls.Config{}
		if len(tt.cert) > 0 { // sent whether the server wants it or not
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tt.cert[0], nil }
		}
		c := w.dialTLS(ca, config)
		if _, err := c.Write(frame.Append(nil, []byte("a"))); err != nil {
			t.Fatal(err)
		}
		if got := c.Next(); got != tt.want {
			t.Errorf("a client with a certificate that is %s reads %q, want %q", tt.name, got, tt.want)
		}
	}
	ipctest.Eventually(t, "three failed handshakes", func() bool { return w.src.stats.HandshakesFailed.Load() == 3 })
}

// What had come before the drain is handled, also what TLS has read and not
// handed out yet; a client that comes later is told, and a handshake is not waited for.
func TestTLSDrain(t *testing.T) {
	w, ca := tlsWorld(t, "&reply=always&partial=1h", nil)
	c := w.dialTLS(ca, nil)
	w.dial() // silent
	const n = 300
	for range n {
		c.Send("early")
	}
	ipctest.Eventually(t, "all has arrived", func() bool { waiting, _, _ := w.Q.Depth(); return waiting == n })
	ctx, cancel := context.WithTimeout(context.Background(), ipctest.Patience)
	defer cancel()
	w.src.Drain(ctx)
	if ctx.Err() != nil {
		t.Error("the drain takes all the time there is")
	}
	w.Worker(ipctest.Answering(ipctest.Echo))
	c.Send("late")
	for range n {
		c.Want("early")
	}
	if got := c.Next(); !strings.HasPrefix(got, "!stopping: ") {
		t.Error(got)
	}
}

// Messages in the kernel, and in the TLS layer, when the drain begins: none of
// them is turned away.
func TestTLSDrainOfABurst(t *testing.T) {
	w, ca := tlsWorld(t, "&reply=always", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	c := w.dialTLS(ca, nil)
	c.Send("first")
	c.Want("first")
	const n = 1000 // in a few records, larger than what is read at once
	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = strings.Repeat("x", 50)
	}
	c.Send(bodies...)
	ctx, cancel := context.WithTimeout(context.Background(), ipctest.Patience)
	defer cancel()
	w.src.Drain(ctx)
	c.Want(bodies...)
}

// Closing never waits for a client that does not read: it would hold up a
// worker's reader, and with it everybody.
func TestTLSCloseDoesNotWait(t *testing.T) {
	w, ca := tlsWorld(t, "&reply=always&idle=50ms", nil)
	w.Worker(ipctest.Answering(func([]byte) []byte { return frame.Append(nil, make([]byte, 16<<20)) }))
	deaf := w.dialTLS(ca, nil)
	deaf.Send("a")
	ipctest.Eventually(t, "the deaf client's connection is given up", func() bool { return w.src.stats.Connections.Load() == 0 })
}

func TestTLSBadFiles(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue("server", time.Hour)
	_, other := ca.issue("other", time.Hour)
	empty := ca.write("empty.pem", nil)
	half := ca.write("half.pem", []byte(ca.read(cert)[:300]))
	chain := ca.write("chain.pem", []byte(ca.read(cert)+ca.read(ca.file)[:200]))
	for params, want := range map[string]string{
		"?cert=/no/such&key=" + key:                           "cert=: stat /no/such: no such file",
		"?cert=" + cert + "&key=/no/such":                     "key=: stat /no/such: no such file",
		"?cert=" + empty + "&key=" + key:                      "cert=" + empty + ": there is no certificate in it",
		"?cert=" + half + "&key=" + key:                       "cert=" + half + ": a PEM block in it is cut off",
		"?cert=" + chain + "&key=" + key:                      "cert=" + chain + ": a PEM block in it is cut off",
		"?cert=" + cert + "&key=" + other:                     "key=" + other + ": tls: private key does not match",
		"?cert=" + cert + "&key=" + t.TempDir():               "is not a PEM file",
		"?cert=" + cert + "&key=" + key + "&client-ca=/no":    "client-ca=: stat /no",
		"?cert=" + cert + "&key=" + key + "&client-ca=" + key: "client-ca=" + key + ": there is no certificate",
	} {
		u, err := parseURL("tcp://127.0.0.1:0" + params)
		if err != nil {
			t.Fatal(err)
		}
		src, err := u.open(ipc.NewQueue(ipctest.Config(nil), zerolog.Nop()), zerolog.Nop())
		if err == nil {
			src.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "cannot listen on tcp://127.0.0.1:0: ") {
			t.Errorf("%s: %v, want %q", params, err, want)
		}
	}
}

// A certificate is replaced while clients come; those that are there stay.
func TestTLSReplaced(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cert, key := ca.issue("server", time.Hour)
	w := newWorld(t, "?reply=always&cert="+cert+"&key="+key, nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	before := w.dialTLS(ca, nil)
	before.Send("a")
	before.Want("a")
	newCert, newKey := ca.issue("new", time.Hour)
	ca.rename(newCert, cert)
	ca.rename(newKey, key)
	ipctest.Eventually(t, "the new certificate", func() bool {
		c := w.dialTLS(ca, nil)
		c.Send("b")
		c.Want("b")
		c.Close()
		return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName == "new"
	})
	before.Send("c")
	before.Want("c")
	if !strings.Contains(w.Log.Text(), "certificates reloaded") {
		t.Error(w.Log.Text())
	}
}

func TestCertificateFiles(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue("first", time.Hour)
	goodCert, goodKey := ca.read(cert), ca.read(key)
	cert2, key2 := ca.issue("second", -time.Minute)
	var log ipctest.Log
	u, err := parseURL("tcp://127.0.0.1:0?cert=" + cert + "&key=" + key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := openCertificates(u, log.Logger())
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	check := func(what, want string, messages ...string) {
		t.Helper()
		at = at.Add(look)
		log.Reset()
		c.trouble = ratelog.New(log.Logger()) // as if ten seconds had gone by
		if got := c.current(at).Certificates[0].Leaf.Subject.CommonName; got != want {
			t.Errorf("%s: the certificate is %s", what, got)
		}
		if (log.Text() != "") != (len(messages) > 0) {
			t.Errorf("%s: %s", what, log.Text())
		}
		for _, m := range messages {
			if !strings.Contains(log.Text(), m) {
				t.Errorf("%s: no %q in %s", what, m, log.Text())
			}
		}
	}
	const kept = "keeping the previous ones"
	check("untouched", "first")
	os.Remove(key)
	check("gone", "first", kept, key)
	ca.write(key, []byte(goodKey[:100]))
	check("half-written", "first", kept, key)
	ca.write(key, []byte(ca.read(key2)))
	check("mismatched", "first", kept, "does not match")
	ca.write(cert, []byte(ca.read(cert2)[:400]))
	check("both, half-written", "first", kept, cert)
	ca.write(cert, []byte(ca.read(cert2)))
	check("replaced by an expired one", "second", "certificates reloaded", "certificate has expired")
	check("still expired", "second")
	ca.write(cert, []byte(goodCert))
	ca.write(key, []byte(goodKey))
	check("back again", "first", "certificates reloaded")
	at = at.Add(2 * time.Hour)
	check("expires", "first", "certificate has expired")
	check("said once", "first")
}

// Files are not read for each handshake.
func TestCertificateFilesAreReadRarely(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue("first", time.Hour)
	u, err := parseURL("tcp://127.0.0.1:0?cert=" + cert + "&key=" + key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := openCertificates(u, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	at, used := time.Now(), c.used
	os.Remove(cert)
	if c.current(at.Add(look/2)) != used || c.current(at.Add(look*2)) != used || c.looked != at.Add(look*2) {
		t.Error("wrong look")
	}
}

var _ net.Conn = (*tlsSocket)(nil)

func (ca *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// A client without TLS must not take the end for that of its replies.
func TestTLSPlainClient(t *testing.T) {
	w, _ := tlsWorld(t, "", nil)
	c := w.dial()
	c.Send("a")
	_ = c.Conn.(*net.TCPConn).CloseWrite() // it may have been told already
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}
