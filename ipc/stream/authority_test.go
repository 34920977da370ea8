package stream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An authority issues certificates, as files in a directory.
type authority struct {
	t    testing.TB
	dir  string
	file string // its own certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	ca := &authority{t: t, dir: t.TempDir()}
	ca.file, _ = ca.issue("authority", time.Hour)
	return ca
}

// issue writes a certificate and its key, and returns the files. The first one
// is the authority's own.
func (ca *authority) issue(name string, valid time.Duration) (cert, key string) {
	ca.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		DNSNames: []string{"localhost"},
	}
	parent, signer := ca.cert, ca.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, signer)
	if err != nil {
		ca.t.Fatal(err)
	}
	if ca.cert == nil {
		ca.key = private
		if ca.cert, err = x509.ParseCertificate(der); err != nil {
			ca.t.Fatal(err)
		}
	}
	text, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		ca.t.Fatal(err)
	}
	return ca.write(name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		ca.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: text}))
}

// client returns a certificate for a client.
func (ca *authority) client(valid time.Duration) []tls.Certificate {
	ca.t.Helper()
	pair, err := tls.LoadX509KeyPair(ca.issue("client", valid))
	if err != nil {
		ca.t.Fatal(err)
	}
	return []tls.Certificate{pair}
}

// write writes a file in place, as cp does, and returns its path.
func (ca *authority) write(name string, text []byte) string {
	ca.t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(ca.dir, name)
	}
	if err := os.WriteFile(name, text, 0o600); err != nil {
		ca.t.Fatal(err)
	}
	return name
}

func (ca *authority) read(path string) string {
	ca.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		ca.t.Fatal(err)
	}
	return string(text)
}

func (ca *authority) rename(from, to string) {
	ca.t.Helper()
	if err := os.Rename(from, to); err != nil {
		ca.t.Fatal(err)
	}
}
