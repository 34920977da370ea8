package harness

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// IssueCertificate makes a certificate that vouches for itself, in PREFIX.crt and
// PREFIX.key.
func IssueCertificate(t *testing.T, prefix, name string) {
	t.Helper()
	Need(t, "openssl")
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-keyout", prefix+".key", "-out", prefix+".crt", "-days", "1", "-subj", "/CN="+name,
		"-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1").CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
}

// A TLSPool is a pool that takes messages by TCP, with TLS.
type TLSPool struct {
	Pool
	Addr string
}

// StartTLS runs a pool that answers each message with itself, over TLS with
// DIR/server.crt.
func StartTLS(t *testing.T, params string) (p *TLSPool, dir string) {
	t.Helper()
	dir = t.TempDir()
	IssueCertificate(t, filepath.Join(dir, "server"), "first")
	p = &TLSPool{Addr: FreePort(t)}
	p.Pool = Pool{Start(t, Program{Args: []string{Binary(t), "--deliver", "exec", "--listen",
		"tcp://" + p.Addr + "?cert=" + dir + "/server.crt&key=" + dir + "/server.key" + params, "--", "cat"}})}
	p.ExpectLog("accepting messages", nil)
	return p, dir
}
