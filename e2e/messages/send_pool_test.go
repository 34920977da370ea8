package messages

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// Replies come in order, whatever the mode of the server, from stdin and files.
func TestSend(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("two\nlines"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, params := range []string{"", "?reply=always", "?reply=never", "?reply=always&once=true", "?once=true"} {
		t.Run(params, func(t *testing.T) {
			url := harness.UnixURL(t, params)
			harness.StartSDK(t, url, "-n", "2")
			out := func(s string) string {
				if params == "?reply=never" {
					return ""
				}
				return s
			}
			harness.Send(t, strings.NewReader(harness.Seq(300)), url).Want(t, out(harness.Seq(300)), 0)
			harness.Send(t, strings.NewReader("a\nb"), "--count", "2", url).Want(t, out("a\na\nb\nb\n"), 0)
			harness.Send(t, strings.NewReader("a\nb"), "--whole", url).Want(t, out("a\nb\n"), 0)
			harness.Send(t, nil, "--raw", url, file, file).Want(t, out("two\nlinestwo\nlines"), 0)
			harness.Send(t, strings.NewReader("a\nb\n"), "--whole", url).Want(t, out("a\nb\n"), 0)
			harness.Send(t, strings.NewReader(""), url).Want(t, "", 0)
			harness.Send(t, strings.NewReader(strings.Repeat("x", 1<<20)), url).Want(t, out(strings.Repeat("x", 1<<20)+"\n"), 0)
		})
	}
}

// Each way to fail has its exit code and its line.
func TestSendFails(t *testing.T) {
	always := harness.UnixURL(t, "?reply=always")
	plain, _, _ := strings.Cut(always, "?")
	harness.StartSDK(t, always, "--max-message", "1000", "--attempts", "2")
	for name, tt := range map[string]struct {
		stdin          string
		args           []string
		stdout, stderr string
	}{
		"refused":          {"a\nrefuse me\nb\n", []string{plain}, "a\nb\n", "a message: refused: me"},
		"refused, --reply": {"a\nrefuse me\nb\n", []string{"--reply", plain}, "a\nb\n", "message 2: refused: me"},
		"given up":         {"fail here\n", []string{always}, "", "message 1: given-up: after 2 attempts: error: here"},
		"a panic":          {"panic now\n", []string{always}, "", "panic: now"},
		"too big":          {"a\n" + strings.Repeat("x", 1001) + "\nb\nc\n", []string{plain}, "a\nb\nc\n", "message 2: too-big: "},
		"too big, --reply": {"a\n" + strings.Repeat("x", 1001) + "\nb\n", []string{"--reply", plain}, "a\nb\n", "message 2: too-big: "},
		"no such file":     {"", []string{plain, "/nonexistent"}, "", "/nonexistent"},
		"nobody there":     {"a\n", []string{plain + "x"}, "", "nothing was sent"},
		"no such queue":    {"a\n", []string{"sysv://0x7afe0001"}, "", "no such queue"},
	} {
		t.Run(name, func(t *testing.T) {
			got := harness.Send(t, strings.NewReader(tt.stdin), tt.args...)
			got.Want(t, tt.stdout, 1)
			if !strings.Contains(got.Stderr, tt.stderr) {
				t.Errorf("stderr %q, want %q", got.Stderr, tt.stderr)
			}
		})
	}
}

// seq 1 100000 | poolinit send: as many replies, while workers die.
func TestSendWhileWorkersDie(t *testing.T) {
	url := harness.UnixURL(t, "?reply=always")
	p := harness.StartSDK(t, url, "-n", "3", "--healthy-after", "0s", "--attempts", "1000", "--output", "inherit")
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killed := 0
	killer.Go(func() {
		for handled := -1; !testkit.IsDone(stop); {
			for _, q := range p.List() {
				if q.PPID != p.PID || q.State == 'Z' {
					continue
				}
				for p.Stdout.Size() == handled && !testkit.IsDone(stop) { // however slow the machine, something is handled between two kills
					time.Sleep(time.Millisecond)
				}
				handled = p.Stdout.Size()
				if syscall.Kill(q.PID, syscall.SIGKILL) == nil {
					killed++
				}
				time.Sleep(5 * time.Millisecond) // between two kills
			}
		}
	})
	plain, _, _ := strings.Cut(url, "?")
	got := harness.Send(t, strings.NewReader(harness.Seq(100_000)), plain)
	close(stop)
	killer.Wait()
	got.Want(t, harness.Seq(100_000), 0)
	if killed < 3 {
		t.Errorf("only %d workers were killed", killed)
	}
	t.Logf("%d workers killed", killed)
}

// A pool that is killed before it has ever answered: its messages are sent again.
// To the client it looks like one that does not answer every message.
func TestSendToKilledPool(t *testing.T) {
	t.Parallel()
	harness.Need(t, "sh")
	for _, params := range []string{"?reply=always", "?tagged=true"} {
		url := harness.UnixURL(t, params)
		p := harness.PoolOf(harness.StartSource(t, harness.Program{}, url, "--deliver", "exec", "--output", "inherit", "--", "sh", "-c", "echo has it >&2; exec sleep 600"))
		result := make(chan harness.Result, 1) // 1: the test may have failed
		go func() {                            // ends with the client, which has a deadline
			result <- harness.Send(t, strings.NewReader("one\n"), "--connect-timeout", "1m", "--reply", url)
		}()
		p.Stderr.Expect(t, "has it\n")
		p.Signal(syscall.SIGKILL)
		p.Wait()
		harness.StartSDK(t, url)
		got := <-result
		got.Want(t, "one\n", 0)
	}
}

// A deploy: one pool stops, another takes its place, and nothing is lost.
func TestSendAcrossRestart(t *testing.T) {
	for _, args := range [][]string{{"--reply", "--connect-timeout", "1m"}, {"--connect-timeout", "1m"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			url := harness.UnixURL(t, "?reply=always")
			plain, _, _ := strings.Cut(url, "?")
			p := harness.StartSDK(t, url, "-n", "2")
			r, w := io.Pipe()
			result := make(chan harness.Result, 1) // 1: whether or not anybody still wants it
			go func() {                            // ends with its input
				result <- harness.Send(t, r, append(args, plain)...)
				r.Close()
			}()
			all := harness.Seq(20_000)
			half := len(all) / 2
			if _, err := io.WriteString(w, all[:half]); err != nil {
				t.Fatal(err)
			}
			p.Stdout.Expect(t, "message: 100\n")
			p.Signal(syscall.SIGTERM)
			p.Wait()
			harness.StartSDK(t, url, "-n", "2")
			_, _ = io.WriteString(w, all[half:]) // if it has ended, its result tells why
			w.Close()
			got := <-result
			var lost int
			if m := regexp.MustCompile(`(\d+) had no reply`).FindStringSubmatch(got.Stderr); m != nil && args[0] != "--reply" {
				// The old pool ended with bytes unread: without --reply that can only be told.
				lost, _ = strconv.Atoi(m[1])
			}
			if lost == 0 {
				got.Want(t, all, 0)
			} else if n := strings.Count(got.Stdout, "\n"); got.Code != 1 || n+lost != 20_000 {
				t.Errorf("exit code %d, %d replies and %d lost, of 20000: %s", got.Code, n, lost, got.Stderr)
			}
		})
	}
}

func TestSendTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	stranger := newAuthority(t, dir, "stranger")
	server := ca.issue(t, dir, "server", "pool.example")
	mine := ca.issue(t, dir, "client", "client")
	addr := harness.FreePort(t)
	harness.StartSDK(t, "tcp://"+addr+"?reply=always&cert="+server+".pem&key="+server+".key&client-ca="+ca.file)
	address := "tcp://" + addr + "?reply=always"
	flags := []string{"--ca", ca.file, "--cert", mine + ".pem", "--key", mine + ".key", "--server-name", "pool.example"}
	big := strings.Repeat("x", 1<<20) + "\n"
	harness.Send(t, strings.NewReader(harness.Seq(1000)+big), append(flags, address)...).Want(t, harness.Seq(1000)+big, 0)
	harness.Send(t, strings.NewReader(harness.Seq(1000)+big), append(flags, "tcp://"+addr)...).Want(t, harness.Seq(1000)+big, 0)
	for _, wrong := range [][]string{
		{"--server-name", "other.example"},
		{"--ca", stranger.file},
	} {
		harness.Send(t, strings.NewReader("a\n"), append(append(flags, wrong...), address)...).Want(t, "", 1)
	}
	got := harness.Send(t, strings.NewReader("a\n"), "--ca", ca.file, "--server-name", "pool.example", "--connect-timeout", "200ms", address)
	got.Want(t, "", 1) // without a certificate of its own
}

type authority struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(dir, name+".pem")}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	a.cert = template
	a.key = a.sign(t, filepath.Join(dir, name), template)
	return a
}

// issue makes a certificate, and returns the name of its files.
func (a *authority) issue(t *testing.T, dir, name, host string) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	a.sign(t, filepath.Join(dir, name), template)
	return filepath.Join(dir, name)
}

func (a *authority) sign(t *testing.T, name string, template *x509.Certificate) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: der},
		name + ".key": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key
}
