package sources

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, good := range []string{
		"tcp://0.0.0.0:0", "tcp://localhost:80", "tcp://:8089", "unix:///run/x.sock?mode=0600", "sysv://0x7000001", "sysv://1?mode=0666",
		"sysv://0xffffffff", "tcp://h:1?cert=a&key=b&client-ca=c",
	} {
		if _, err := Parse(good); err != nil {
			t.Errorf("Parse(%q): %v", good, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, says := range map[string]string{
		"": "a URL such as", "8089": "a URL such as", "http://x:1": "a URL such as", "tcp:1": "a URL such as",
		"tcp://x": "HOST:PORT", "tcp://x:": "HOST:PORT", "tcp://x:65536": "HOST:PORT", "tcp://x:http": "a URL such as", "tcp://x:1/path": "HOST:PORT",
		"tcp://u@x:1": "a URL such as", "tcp://x:1#f": "a URL such as", "tcp://x:007": "HOST:PORT",
		"unix://relative": "unix:///PATH", "unix:///": "unix:///PATH", "unix:///" + strings.Repeat("x", 120): "unix:///PATH",
		"sysv://0": "sysv://KEY", "sysv://key": "sysv://KEY", "sysv://0x100000000": "sysv://KEY", "sysv://1/x": "sysv://KEY", "sysv://-1": "sysv://KEY",
		"tcp://x:1?x=1":       `tcp:// has no parameter "x"; there are reply, once, tagged, idle, partial, connections, priority, expires, allow, cert, key and client-ca`,
		"unix:///x?x=1":       `unix:// has no parameter "x"; there are mode, reply, once, tagged, idle, partial, connections, priority and expires`,
		"sysv://1?once=":      `sysv:// has no parameter "once"; there are mode, priority and expires`,
		"tcp://x:1?mode=0600": `no parameter "mode"`, "sysv://1?reply=auto": `no parameter "reply"`, "unix:///x?allow=::1": `no parameter "allow"`,
		"tcp://x:1?repl=auto": `no parameter "repl"`, "tcp://x:1?reply=sometimes": "auto, always or never", "tcp://x:1?once=2": "true or false",
		"tcp://x:1?idle=5": "duration", "tcp://x:1?idle=-5s": "duration", "tcp://x:1?connections=0": "from 1 on",
		"tcp://x:1?allow=x": "allow=x", "tcp://x:1?allow=": "addresses or networks", "tcp://x:1?idle=1s&idle=2s": "once only",
		"tcp://x:1?allow=::1,::ffff:10.0.0.0/95": "allow=::1,::ffff:10.0.0.0/95: ::ffff:10.0.0.0/95 is neither a network of IPv4",
		"unix:///x?mode=999":                     "octal", "unix:///x?mode=7777": "octal", "tcp://x:1?cert=a": "together", "tcp://x:1?client-ca=a": "with cert=",
		"tcp://x:1?%zz=1":      "parameters such as",
		"tcp://x:1?tagged=yes": "tagged=yes: true or false", "tcp://x:1?tagged=true&reply=auto": "tagged=true answers each message",
		"tcp://x:1?tagged=true&reply=never": "tagged=true answers each message", "unix:///x?tagged=true&once=true": "tagged=true answers each message",
		"tcp://x:1?priority=10": "priority=10: a number from 0 to 9", "unix:///x?priority=-1": "a number from 0 to 9", "sysv://1?priority=high": "a number from 0 to 9",
		"tcp://x:1?expires=5": "expires=5: a duration", "sysv://1?expires=-1s": "expires=-1s: a duration",
	} {
		u, err := Parse(in)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("Parse(%q) = %+v, %v; want an error with %q", in, u, err, says)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("tcp://0.0.0.0:8089?reply=always&allow=10.0.0.0/8,::1")
	f.Add("sysv://0x7000001?mode=0600")
	f.Add("unix:///run/x.sock")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(u.Name)
		if err != nil || again.Addr != u.Addr || again.Scheme != u.Scheme {
			t.Errorf("%q has the name %q, which is %+v, %v", s, u.Name, again, err)
		}
	})
}
