package stream

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	u, err := parseURL("tcp://[::1]:8089?reply=always&once=true&idle=5s&partial=0s&connections=7&allow=10.0.0.0/8,::1")
	if err != nil {
		t.Fatal(err)
	}
	if u.Name != "tcp://[::1]:8089" || u.Addr() != "[::1]:8089" || u.reply != replyAlways || !u.once ||
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
		u, err := parseURL("tcp://x:1?allow=" + allow)
		if err != nil {
			t.Errorf("allow=%s: %v", allow, err)
			continue
		}
		if got := strings.Trim(fmt.Sprint(u.allow), "[]"); got != want {
			t.Errorf("allow=%s: %s, want %s", allow, got, want)
		}
	}
}

func TestParseTagged(t *testing.T) {
	for in, want := range map[string]config{
		"":                                 {reply: replyAuto},
		"?tagged=true":                     {reply: replyAlways, tagged: true},
		"?tagged=true&reply=always":        {reply: replyAlways, tagged: true},
		"?tagged=true&once=false":          {reply: replyAlways, tagged: true},
		"?tagged=false&reply=never":        {reply: replyNever},
		"?tagged=true&reply=auto":          {},
		"?tagged=true&reply=never":         {},
		"?tagged=true&once=true":           {},
		"?priority=9&expires=1500ms":       {reply: replyAuto, priority: 9, expires: 1500 * time.Millisecond},
		"?priority=0&expires=0s&once=true": {reply: replyAuto, once: true},
	} {
		for _, address := range []string{"tcp://x:1", "unix:///x"} {
			c, err := parseURL(address + in)
			if want.reply == "" {
				if err != errTagged {
					t.Errorf("%s%s: %v, want %v", address, in, err, errTagged)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s%s: %v", address, in, err)
				continue
			}
			got := config{reply: c.reply, once: c.once, tagged: c.tagged, priority: c.priority, expires: c.expires}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s%s: %+v, want %+v", address, in, got, want)
			}
		}
	}
}

// A source on port 0 is called by the port that it got: that is what people look for.
func TestBoundName(t *testing.T) {
	w := newWorld(t, "", nil)
	if got, want := w.src.Stats().Name, "tcp://"+w.src.Addr().String(); got != want {
		t.Errorf("the source is %q, and its address %q", got, want)
	}
	u, err := parseURL("tcp://localhost:8089?reply=always")
	if err != nil || boundName(u.Name, w.src.Addr()) != "tcp://localhost:8089" {
		t.Errorf("%q, %v", boundName(u.Name, w.src.Addr()), err)
	}
}
