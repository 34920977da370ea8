package ipc

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	u, err := ParseURL("tcp://[::1]:8089?reply=always&once=true&idle=5s&partial=0s&connections=7&allow=10.0.0.0/8,::1")
	if err != nil {
		t.Fatal(err)
	}
	if u.Name != "tcp://[::1]:8089" || u.Addr != "[::1]:8089" || u.reply != replyAlways || !u.once ||
		u.idle != 5*time.Second || u.partial != 0 || u.connections != 7 || len(u.allow) != 2 {
		t.Errorf("%+v", u)
	}
	for addr, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "::1": true, "11.0.0.1": false, "::2": false} {
		if got := u.allows(netip.MustParseAddr(addr)); got != want {
			t.Errorf("allows(%s) = %v", addr, got)
		}
	}
	for allow, want := range map[string]string{
		"::ffff:127.0.0.0/104":  "127.0.0.0/8",
		"::ffff:10.1.2.3/112":   "10.1.0.0/16",
		"::ffff:0:0/96":         "0.0.0.0/0",
		"::ffff:10.1.2.3/128":   "10.1.2.3/32",
		"::ffff:10.1.2.3":       "10.1.2.3/32",
		"10.1.2.3/8":            "10.0.0.0/8",
		"2001:db8::1/32,::1/64": "2001:db8::/32 ::/64",
	} {
		u, err := ParseURL("tcp://x:1?allow=" + allow)
		if err != nil {
			t.Errorf("allow=%s: %v", allow, err)
			continue
		}
		if got := strings.Trim(fmt.Sprint(u.allow), "[]"); got != want {
			t.Errorf("allow=%s: %s, want %s", allow, got, want)
		}
	}
	for _, good := range []string{
		"tcp://0.0.0.0:0", "tcp://localhost:80", "tcp://:8089", "unix:///run/x.sock?mode=0600", "sysv://0x7000001", "sysv://1?mode=0666",
		"sysv://0xffffffff", "tcp://h:1?cert=a&key=b&client-ca=c",
	} {
		if _, err := ParseURL(good); err != nil {
			t.Errorf("ParseURL(%q): %v", good, err)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for in, says := range map[string]string{
		"": "a URL such as", "8089": "a URL such as", "http://x:1": "a URL such as", "tcp:1": "a URL such as",
		"tcp://x": "HOST:PORT", "tcp://x:": "HOST:PORT", "tcp://x:65536": "HOST:PORT", "tcp://x:http": "a URL such as", "tcp://x:1/path": "HOST:PORT",
		"tcp://u@x:1": "a URL such as", "tcp://x:1#f": "a URL such as", "tcp://x:007": "HOST:PORT",
		"unix://relative": "unix:///PATH", "unix:///": "unix:///PATH", "unix:///" + strings.Repeat("x", 120): "unix:///PATH",
		"sysv://0": "sysv://KEY", "sysv://key": "sysv://KEY", "sysv://0x100000000": "sysv://KEY", "sysv://1/x": "sysv://KEY", "sysv://-1": "sysv://KEY",
		"tcp://x:1?mode=0600": `no parameter "mode"`, "sysv://1?reply=auto": `no parameter "reply"`, "unix:///x?allow=::1": `no parameter "allow"`,
		"tcp://x:1?repl=auto": `no parameter "repl"`, "tcp://x:1?reply=sometimes": "auto, always or never", "tcp://x:1?once=2": "true or false",
		"tcp://x:1?idle=5": "duration", "tcp://x:1?idle=-5s": "duration", "tcp://x:1?connections=0": "from 1 on",
		"tcp://x:1?allow=x": "allow=x", "tcp://x:1?allow=": "addresses or networks", "tcp://x:1?idle=1s&idle=2s": "once only",
		"tcp://x:1?allow=::1,::ffff:10.0.0.0/95": "allow=::1,::ffff:10.0.0.0/95: ::ffff:10.0.0.0/95 is neither a network of IPv4",
		"unix:///x?mode=999":                     "octal", "unix:///x?mode=7777": "octal", "tcp://x:1?cert=a": "together", "tcp://x:1?client-ca=a": "with cert=",
		"tcp://x:1?%zz=1": "parameters such as",
	} {
		u, err := ParseURL(in)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("ParseURL(%q) = %+v, %v; want an error with %q", in, u, err, says)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("tcp://0.0.0.0:8089?reply=always&allow=10.0.0.0/8,::1")
	f.Add("sysv://0x7000001?mode=0600")
	f.Add("unix:///run/x.sock")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s)
		if err != nil {
			return
		}
		again, err := ParseURL(u.Name)
		if err != nil || again.Addr != u.Addr || again.Scheme != u.Scheme {
			t.Errorf("%q has the name %q, which is %+v, %v", s, u.Name, again, err)
		}
	})
}

// A source on port 0 is called by the port that it got: that is what people look for.
func TestBoundName(t *testing.T) {
	w := newWorld(t, "", nil)
	if got, want := w.src.Stats().Name, "tcp://"+w.src.Addr().String(); got != want {
		t.Errorf("the source is %q, and its address %q", got, want)
	}
	u, err := ParseURL("tcp://localhost:8089?reply=always")
	if err != nil || boundName(u, w.src.Addr()) != "tcp://localhost:8089" {
		t.Errorf("%q, %v", boundName(u, w.src.Addr()), err)
	}
}
