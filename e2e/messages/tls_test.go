package messages

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// sClient sends a frame by openssl s_client, and returns what comes back.
func sClient(t *testing.T, p *harness.TLSPool, dir, frame string, flags ...string) (out string, err error) {
	t.Helper()
	args := append([]string{"s_client", "-quiet", "-connect", p.Addr, "-CAfile", dir + "/server.crt", "-verify_return_error"}, flags...)
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = strings.NewReader(frame)
	text, err := cmd.Output()
	return string(text), err
}

func TestTLSOpenSSL(t *testing.T) {
	p, dir := harness.StartTLS(t, "&once=true")
	for _, flags := range [][]string{{"-tls1_2"}, {"-tls1_3"}, {"-servername", "localhost"}} {
		if out, err := sClient(t, p, dir, "\x00\x00\x00\x05hello", flags...); out != "\x00\x00\x00\x05hello" {
			t.Errorf("%v: %q %v", flags, out, err)
		}
	}
	if out, err := sClient(t, p, dir, "\x00\x00\x00\x05hello", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"); err == nil || out != "" {
		t.Errorf("TLS 1.1: %q", out)
	}
	p.ExpectLog("TLS handshakes failed", func(r harness.Record) bool { return strings.Contains(r.Why, "version") })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// pythonTLS sends three messages on one connection and prints the replies.
const pythonTLS = `
import socket, ssl, struct, sys
host, port, ca, cert = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=ca)
if cert:
    context.load_cert_chain(cert + ".crt", cert + ".key")
with context.wrap_socket(socket.create_connection((host, port), 10), server_hostname="localhost") as s:
    print(dict(x[0] for x in s.getpeercert()["subject"])["commonName"])
    for body in (b"one", b"", b"x" * 300000):
        s.sendall(struct.pack(">I", len(body)) + body)
    f = s.makefile("rb")
    for _ in range(3):
        size, = struct.unpack(">I", f.read(4))
        print(size, f.read(size)[:5].decode())
`

func python(t *testing.T, p *harness.TLSPool, ca, cert string) string {
	t.Helper()
	harness.Need(t, "python3")
	host, port, _ := strings.Cut(p.Addr, ":")
	out, _ := exec.Command("python3", "-c", pythonTLS, host, port, ca, cert).CombinedOutput() // an error shows in the text
	return string(out)
}

const pythonSees = "3 one\n0 \n300000 xxxxx\n"

func TestTLSPython(t *testing.T) {
	p, dir := harness.StartTLS(t, "&reply=always")
	if got := python(t, p, dir+"/server.crt", ""); got != "first\n"+pythonSees {
		t.Error(got)
	}
}

func TestTLSMutual(t *testing.T) {
	clients := t.TempDir()
	harness.IssueCertificate(t, clients+"/known", "known")
	harness.IssueCertificate(t, clients+"/stranger", "stranger")
	p, dir := harness.StartTLS(t, "&reply=always&client-ca="+clients+"/known.crt")
	ca := dir + "/server.crt"
	if got := python(t, p, ca, clients+"/known"); got != "first\n"+pythonSees {
		t.Error(got)
	}
	for _, cert := range []string{"", clients + "/stranger"} {
		if got := python(t, p, ca, cert); strings.Contains(got, "3 one") || !strings.Contains(got, "rror") {
			t.Errorf("with the certificate %q: %s", cert, got)
		}
	}
	p.ExpectLog("TLS handshakes failed", nil)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// A certificate that is replaced is used from the next second on; files that are
// no good change nothing.
func TestTLSCertificateReplaced(t *testing.T) {
	t.Parallel()
	p, dir := harness.StartTLS(t, "&reply=always")
	keep := t.TempDir() + "/first.crt"
	text, err := os.ReadFile(dir + "/server.crt")
	if err == nil {
		err = os.WriteFile(keep, text, 0o600)
	}
	if err == nil {
		err = os.WriteFile(dir+"/server.crt", text[:len(text)/2], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a warning", func() (any, bool) {
		got := python(t, p, keep, "")
		if got != "first\n"+pythonSees {
			t.Fatal(got)
		}
		return p.Stderr.String(), p.Count("keeping the previous ones") > 0
	})
	harness.IssueCertificate(t, dir+"/server", "second")
	testkit.Eventually(t, "the new certificate", func() (any, bool) {
		got := python(t, p, dir+"/server.crt", "")
		return got, got == "second\n"+pythonSees
	})
	if err := os.Remove(dir + "/server.key"); err != nil {
		t.Fatal(err)
	}
	if got := python(t, p, dir+"/server.crt", ""); got != "second\n"+pythonSees {
		t.Error(got)
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

func TestTLSBadFiles(t *testing.T) {
	dir := t.TempDir()
	harness.IssueCertificate(t, dir+"/a", "a")
	harness.IssueCertificate(t, dir+"/b", "b")
	for params, says := range map[string]string{
		"cert=" + dir + "/none&key=" + dir + "/a.key":                   dir + "/none: no such file",
		"cert=" + dir + "/a.crt&key=" + dir + "/b.key":                  "private key does not match",
		"cert=" + dir + "/a.crt&key=" + dir + "/a.key&client-ca=" + dir: dir + " is not a PEM file",
		"cert=" + dir + "/a.key&key=" + dir + "/a.key":                  "there is no certificate in it",
		"cert=" + dir + "/a.crt":                                        "cert= and key= together",
		"client-ca=" + dir + "/a.crt":                                   "client-ca= with cert= and key= only",
	} {
		p, code := harness.Run(t, harness.Program{Args: []string{harness.Binary(t), "--listen", "tcp://127.0.0.1:0?" + params, "--", "sh", "-c", "echo started"}})
		harness.CheckUsage(t, p, code, []string{says})
	}
}
