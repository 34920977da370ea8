package notify

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Message{
		"READY=1":                          {Ready: true},
		"READY=1\n":                        {Ready: true},
		"READY=1\n\nSTATUS=up\n\n":         {Ready: true, Status: "up"},
		"READY=0":                          {},
		"READY=":                           {},
		"READY=1 ":                         {},
		"STOPPING=1":                       {Stopping: true},
		"STATUS=":                          {},
		"STATUS=a=b":                       {Status: "a=b"},
		"STATUS=7 jobs, größte 3 MiB":      {Status: "7 jobs, größte 3 MiB"},
		"STATUS=one\nSTATUS=two":           {Status: "two"},
		"WATCHDOG=1":                       {Watchdog: true},
		"WATCHDOG=trigger":                 {WatchdogTrigger: true},
		"WATCHDOG=0":                       {},
		"WATCHDOG_USEC=1500000":            {WatchdogInterval: 1500 * time.Millisecond},
		"WATCHDOG_USEC=9223372036854775":   {WatchdogInterval: 9223372036854775 * time.Microsecond},
		"READY=1\nSTATUS=x\nMAINPID=7":     {Ready: true, Status: "x"},
		"MAINPID=7\nERRNO=2\nFDSTORE=1":    {},
		"X_OURS=anything":                  {},
		"ready=1":                          {},
		"RELOADING=1\nMONOTONIC_USEC=5":    {},
		"READY=1\nSTOPPING=1\nWATCHDOG=1":  {Ready: true, Stopping: true, Watchdog: true},
		"STATUS=" + strings.Repeat("x", 9): {Status: "xxxxxxxxx"},
	} {
		got, err := Parse([]byte(in))
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]error{
		"":                                   errEmpty,
		"\n":                                 errEmpty,
		"\n\n":                               errEmpty,
		"READY":                              errNoAssign,
		"=1":                                 errNoAssign,
		"READY=1\ngarbage":                   errNoAssign,
		"READY=1\n=":                         errNoAssign,
		"\x00\x01\x02":                       errNoAssign,
		"STATUS=\xff":                        errUTF8,
		"\xff\xfe":                           errUTF8,
		"WATCHDOG_USEC=":                     errWatchdog,
		"WATCHDOG_USEC=0":                    errWatchdog,
		"WATCHDOG_USEC=-5":                   errWatchdog,
		"WATCHDOG_USEC=1s":                   errWatchdog,
		"WATCHDOG_USEC=9223372036854776":     errWatchdog, // overflows a Duration
		"WATCHDOG_USEC=18446744073709551616": errWatchdog,
		"READY=1\nWATCHDOG_USEC=x":           errWatchdog,
		strings.Repeat("x", MaxMessage+1):    errTooLong,
	} {
		got, err := Parse([]byte(in))
		if !errors.Is(err, want) || got != (Message{}) {
			t.Errorf("Parse(%.40q) = %+v, %v, want %v and nothing", in, got, err, want)
		}
	}
}

// A status that is too long is cut, never in the middle of a character.
func TestStatusIsShortened(t *testing.T) {
	for in, want := range map[string]int{
		strings.Repeat("x", maxStatus):         maxStatus,
		strings.Repeat("x", maxStatus+1):       maxStatus,
		strings.Repeat("x", maxStatus-1) + "ü": maxStatus - 1,
		strings.Repeat("x", maxStatus-2) + "ü": maxStatus,
		strings.Repeat("x", maxStatus-1) + "😀": maxStatus - 1,
		strings.Repeat("ü", 1000):              maxStatus,
	} {
		m, err := Parse([]byte("STATUS=" + in))
		if err != nil || len(m.Status) != want || !utf8.ValidString(m.Status) || !strings.HasPrefix(in, m.Status) {
			t.Errorf("%d bytes: %d left, want %d; %v", len(in), len(m.Status), want, err)
		}
	}
	longest := "STATUS=" + strings.Repeat("x", MaxMessage-len("STATUS="))
	if _, err := Parse([]byte(longest)); err != nil {
		t.Errorf("%d bytes: %v", len(longest), err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"READY=1", "STATUS=x\nWATCHDOG_USEC=5", "WATCHDOG=trigger", "", "=", "\xff", "A=\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, datagram []byte) {
		m, err := Parse(datagram)
		switch {
		case err != nil && m != Message{}:
			t.Errorf("an error and %+v", m)
		case len(m.Status) > maxStatus || !utf8.ValidString(m.Status):
			t.Errorf("status %q", m.Status)
		case m.WatchdogInterval < 0:
			t.Errorf("interval %v", m.WatchdogInterval)
		case m.Watchdog && m.WatchdogTrigger:
			t.Error("both a WATCHDOG and a trigger")
		}
	})
}
