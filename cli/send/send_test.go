package send

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/internal/captured"
	"github.com/poolinit/poolinit/internal/fakepool"
)

func TestSendRefusesCommandLines(t *testing.T) {
	for args, want := range map[string]string{
		"":                                       "ADDRESS is missing",
		"localhost:8089":                         `ADDRESS: "localhost:8089" is not allowed: a URL such as tcp://localhost:8089`,
		"127.0.0.1:24030?reply=always":           "a URL such as tcp://127.0.0.1:24030?reply=always",
		"127.0.0.1":                              "a URL such as tcp://0.0.0.0:8089",
		"tcp:8089":                               "a URL such as tcp://0.0.0.0:8089",
		"tcp://x":                                `ADDRESS: "tcp://x" is not allowed: tcp://HOST:PORT`,
		"tcp://x:1?reply=often":                  "auto, always or never",
		"sysv://0":                               "sysv://KEY",
		"--count 0 tcp://x:1":                    `--count: "0" is not allowed: a whole number from 1`,
		"--count= tcp://x:1":                     `--count: "" is not allowed`,
		"--in-flight 0 tcp://x:1":                `--in-flight: "0" is not allowed`,
		"--timeout 5 tcp://x:1":                  `--timeout: "5" is not allowed: a duration`,
		"--connect-timeout 0s tcp://x:1":         `--connect-timeout: "0s" is not allowed`,
		"--reply=maybe tcp://x:1":                `--reply: "maybe" is not allowed: true or false`,
		"--replies tcp://x:1":                    "no flag --replies; did you mean --reply?",
		"--reply tcp://x:1?reply=never":          "--reply cannot be combined with reply=never",
		"--reply sysv://1":                       "no replies",
		"--tls unix:///x":                        "for tcp:// only",
		"--cert x tcp://x:1":                     "--cert and --key go together",
		"--key x tcp://x:1":                      "--cert and --key go together",
		"--whole tcp://x:1 file":                 "--whole is for stdin",
		"--ca /nonexistent tcp://x:1":            `--ca "/nonexistent"`,
		"--ca send.go tcp://x:1":                 "no certificate",
		"--cert send.go --key send.go tcp://x:1": "--cert",
	} {
		code, stdout, stderr := captured.Run(t, func() int { return Main(strings.Fields(args)) })
		if code != flags.ExitUsage || stdout != "" || !strings.HasPrefix(stderr, "poolinit: ") || !strings.Contains(stderr, want) {
			t.Errorf("%q: code %d, stderr %q, want %q", args, code, stderr, want)
		}
	}
}

func TestSendHelp(t *testing.T) {
	code, stdout, stderr := captured.Run(t, func() int { return Main([]string{"--help"}) })
	if code != 0 || !strings.HasPrefix(stdout, usageHead) || !strings.HasSuffix(stdout, usageTail) || stderr != "" {
		t.Errorf("code %d, %q, %q", code, stdout, stderr)
	}
	for line := range strings.Lines(stdout) {
		if len(line) > 115 || strings.TrimRight(line, " \n") != strings.TrimRight(line, "\n") {
			t.Errorf("%q is long, or ends in spaces", line)
		}
	}
}

// The server's own URL says how it answers.
func TestSendAddress(t *testing.T) {
	for args, want := range map[string]string{
		"tcp://x:1":                                        "false false false false",
		"tcp://x:1?reply=always&idle=9s":                   "true false false false",
		"unix:///x?reply=never":                            "false true false false",
		"tcp://x:1?once=true":                              "false false true false",
		"tcp://x:1?tagged=true":                            "true false false false",
		"tcp://x:1?once=0&reply=auto":                      "false false false false",
		"tcp://x:1?cert=a&key=b":                           "false false false true",
		"--tls --reply=true tcp://x:1":                     "true false false true",
		"--reply=false tcp://x:1?once=1 --server-name abc": "false false true true",
	} {
		o := new(options)
		if err := o.parse(flagSet(o), strings.Fields(args)); err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		if got := fmt.Sprint(o.reply, o.silent, o.once, o.tls); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}

// sending runs send with a stdin.
func sending(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(file, []byte(stdin), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	old := os.Stdin
	defer func() { os.Stdin = old }()
	os.Stdin = f
	return captured.Run(t, func() int { return Main(args) })
}

// What servers do, and what becomes of the messages a b c d e.
func TestSendAndServers(t *testing.T) {
	const all = "a b c d e"
	for name, tt := range map[string]struct {
		flags   string
		scripts []string
		got     string // what the server read
		replies string
		stderr  string // "": exit code 0
	}{
		"answers all":                  {"", []string{"5 echo eof"}, all, all, ""},
		"answers all, --reply":         {"--reply", []string{"5 echo eof"}, all, all, ""},
		"one at a time":                {"--reply --in-flight 1", []string{"1 echo 1 echo 1 echo 1 echo 1 echo eof"}, all, all, ""},
		"answers some":                 {"", []string{"5 x y eof"}, all, "x y", ""},
		"answers nothing":              {"", []string{"5 eof"}, all, "", ""},
		"answers nothing, --reply":     {"--reply", []string{"5 eof", "5 eof"}, all + " " + all, "", "does not answer every message"},
		"killed before an answer":      {"--reply", []string{"5 eof", "5 echo eof"}, all + " " + all, all, ""},
		"a failure":                    {"", []string{"5 x !given-up:why eof"}, all, "x", "a message: given-up: why"},
		"a failure, --reply":           {"--reply", []string{"5 x !given-up:why x x x eof"}, all, "x x x x", "message 2: given-up: why"},
		"unknown code":                 {"--reply", []string{"5 x x x x !new:why eof"}, all, "x x x x", "message 5: new: why"},
		"escapes":                      {"--reply", []string{"5 x x x x !new:\x1b[31m eof"}, all, "x x x x", "message 5: new: ?[31m"},
		"stopping":                     {"", []string{"5 x x !stopping: !stopping: !stopping: eof", "3 echo eof"}, all + " c d e", "x x c d e", ""},
		"stopping, --reply":            {"--reply", []string{"5 x x !stopping: !stopping: !stopping: eof", "3 echo eof"}, all + " c d e", "x x c d e", ""},
		"stopping after silence":       {"", []string{"5 !stopping: !stopping: eof", "2 echo eof"}, all + " d e", "d e", "3 had no reply and may be lost"},
		"stopping twice":               {"", []string{"5 x x x x !stopping: eof", "1 !stopping: eof", "1 echo eof"}, all + " e e", "x x x x e", ""},
		"always stopping":              {"--connect-timeout 1s", []string{"1 !stopping: eof"}, "", "", "accepts connections, but no messages"},
		"interrupted is no stopping":   {"--reply", []string{"5 x x x x !interrupted:y eof"}, all, "x x x x", "message 5: interrupted: y"},
		"breaks, --reply":              {"--reply", []string{"3 x x reset", "3 echo eof"}, "a b c c d e", "x x c d e", ""},
		"ends early, --reply":          {"--reply", []string{"5 x x reset", "3 echo eof"}, all + " c d e", "x x c d e", ""},
		"breaks":                       {"", []string{"3 x reset"}, "a b c", "x", "4 had no reply and may be lost"},
		"breaks after all its replies": {"", []string{"5 echo reset"}, all, all, ""},
		"never takes any":              {"--reply --connect-timeout 1s", []string{"reset"}, "", "", "accepts connections, but no messages; from message 1 on"},
		"too many":                     {"--reply", []string{"5 echo x eof"}, all, all, "the server sends more replies than there were messages\n"},
		"garbage":                      {"--reply --connect-timeout 1s", []string{"5 garbage eof"}, "", "", "from message 1 on no message"},
		"silent":                       {"--timeout 2s", []string{"5 x hang"}, all, "x", "nothing was received within --timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			f := fakepool.Start(t, tt.scripts...)
			stdin := strings.ReplaceAll(all, " ", "\n") + "\n" // whole lines, which are sent in one piece
			code, stdout, stderr := sending(t, stdin, append(strings.Fields(tt.flags), f.URL)...)
			if got := strings.Join(strings.Fields(stdout), " "); got != tt.replies {
				t.Errorf("replies %q, want %q", got, tt.replies)
			}
			if (code != 0) != (tt.stderr != "") || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("code %d, stderr %q, want %q", code, stderr, tt.stderr)
			}
			if got := strings.Join(f.End(), " "); tt.got != "" && got != tt.got {
				t.Errorf("the server got %q, want %q", got, tt.got)
			}
		})
	}
}

// Without --reply a connection gets only so much; all is answered all the same.
func TestSendRounds(t *testing.T) {
	f := fakepool.Start(t, "all")
	var in strings.Builder
	for n := range 1<<17 + 5 {
		fmt.Fprintln(&in, n)
	}
	code, stdout, stderr := sending(t, in.String(), f.URL)
	if code != 0 || stdout != in.String() || stderr != "" {
		t.Errorf("code %d, stdout of %d bytes, stderr %q", code, len(stdout), stderr)
	}
	f.End()
}

func TestSendInput(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x\ny\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("z", 200_000)
	for _, tt := range []struct{ stdin, flags, want string }{
		{"", "", ""},
		{"a", "", "a"},
		{"a\n", "", "a"},
		{"a\n\nb\r\n", "", "a||b\r"},
		{long + "\n" + long, "", long + "|" + long},
		{"", "--whole", ""},
		{"a\nb\n", "--whole", "a\nb\n"},
		{"a\nb", "--count 2", "a|a|b|b"},
		{"a\n", file + " - " + file, "x\ny\n|a\n|x\ny\n"},
	} {
		f := fakepool.Start(t, "all")
		code, _, stderr := sending(t, tt.stdin, append([]string{f.URL}, strings.Fields(tt.flags)...)...)
		if got := strings.Join(f.End(), "|"); got != tt.want || code != 0 {
			t.Errorf("%.20q %s: %.50q, want %.50q; code %d, %s", tt.stdin, tt.flags, got, tt.want, code, stderr)
		}
	}
}

func TestSendBar(t *testing.T) {
	out := &output{sent: 50_000, answered: 49_000, bytes: 500}
	out.total.messages = 100_000
	if got := out.line(2 * time.Second); got != "[##########..........]  50 % 50000 sent, 49000 replies, 25000/s" {
		t.Error(got)
	}
	out.total.messages, out.total.bytes, out.failed = 0, 400, 3
	if got := out.line(time.Second); got != "[####################] 100 % 50000 sent, 49000 replies, 3 failed, 50000/s" {
		t.Error(got)
	}
	out.total.bytes = 0
	if got := out.line(time.Second); got != "50000 sent, 49000 replies, 3 failed, 50000/s" {
		t.Error(got)
	}
}

// After a message that is too big the rest goes over a new connection. Where it
// may have been one of several, what may be lost is told.
func TestSendTooBig(t *testing.T) {
	for name, tt := range map[string]struct {
		flags, stdin string
		scripts      []string
		got          string
		replies      string
		stderr       string
	}{
		"in the middle":          {"", "a xxx b c", []string{"2 a !too-big:no eof", "2 echo eof"}, "a xxx b c", "a b c", "message 2: too-big: no\n"},
		"--reply":                {"--reply", "a xxx b c", []string{"2 a !too-big:no eof", "2 echo eof"}, "a xxx b c", "a b c", "message 2: too-big: no\n"},
		"the first, or not":      {"", "xxx b xxxx", []string{"1 !too-big: eof"}, "xxx", "", "a message from message 1 to message 3"},
		"the first, of a length": {"", "xxx b xxx", []string{"1 !too-big: eof", "2 echo eof"}, "xxx b xxx", "b xxx", "message 1: too-big"},
		"the last":               {"", "a xxx", []string{"2 a !too-big: eof"}, "a xxx", "a", "message 2: too-big"},
		"and resets":             {"", "a xxx b c", []string{"2 a !too-big: reset", "2 echo eof"}, "a xxx b c", "a b c", "message 2: too-big"},
		"one of two":             {"", "a xxx b c", []string{"2 !too-big:no eof"}, "a xxx", "", "from message 1 to message 4 was too big, and those after it were dropped: 3 may be lost"},
		"after others":           {"", "aaa b xxxx b xxxxx c", []string{"3 !too-big:no eof"}, "aaa b xxxx", "", "from message 1 to message 6"},
		"a reply excludes one":   {"", "a xx xxxx b", []string{"3 a y !too-big: eof", "1 echo eof"}, "a xx xxxx b", "a y b", "message 3: too-big"},
		"while it stops":         {"", "a b xxx c", []string{"3 a !stopping: !too-big: eof", "2 echo eof"}, "a b xxx b c", "a b c", "message 3: too-big"},
		"stops, one of two":      {"", "a b xxx c xxxx", []string{"3 a !stopping: !too-big: eof"}, "a b xxx", "a", "from message 2 to message 5"},
		"replies after it":       {"", "a xxx b c", []string{"2 a !too-big: b eof"}, "a xxx", "a", "the server sent something that is not a reply; from message 3 on no message is known to be handled"},
		"nothing is too big":     {"", "xxx b", []string{"2 a !too-big: eof"}, "xxx b", "a", "a message: too-big"},
	} {
		t.Run(name, func(t *testing.T) {
			f := fakepool.Start(t, tt.scripts...)
			stdin := strings.ReplaceAll(tt.stdin, " ", "\n") + "\n"
			code, stdout, stderr := sending(t, stdin, append(strings.Fields(tt.flags), f.URL)...)
			all := strings.Join(f.End(), " ")
			if got := strings.Join(strings.Fields(stdout), " "); got != tt.replies {
				t.Errorf("replies %q, want %q", got, tt.replies)
			}
			if all != tt.got {
				t.Errorf("the server got %q, want %q", all, tt.got)
			}
			if code != exitFailed || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("code %d, stderr %q, want %q", code, stderr, tt.stderr)
			}
		})
	}
}

// The messages name the remedy.
func TestSendHints(t *testing.T) {
	const perhaps = "it may want TLS: --tls or --ca FILE"
	stdin := "a\nb\n" + strings.Repeat("c", 100) + "\n" // more than the server reads by the way
	for name, tt := range map[string]struct {
		network, flags, script string
		stderr, not            string
	}{
		"no reply, --reply":   {"tcp", "--reply", "1 eof", "does not answer every message: --reply is for one with reply=always in its URL; " + perhaps, ""},
		"a reset":             {"tcp", "", "reset", perhaps, ""},
		"a reset, --reply":    {"tcp", "--reply --connect-timeout 100ms", "reset", "but no messages; " + perhaps, ""},
		"once":                {"tcp", "", "1", "the server closed the connection without a reply; " + perhaps, ""},
		"heard":               {"tcp", "", "1 x reset", "may be lost", perhaps},
		"unix":                {"unix", "", "reset", "may be lost", perhaps},
		"a pool without TLS":  {"tcp", "--tls", "!too-big:x hang", "(the server does not speak TLS: does its --listen have cert=?); nothing was sent", perhaps},
		"others without TLS":  {"tcp", "--tls", "HTTP/1.1", "(the server does not speak TLS: does its --listen have cert=?)", perhaps},
		"a text for a FILE":   {"unix", "hello", "eof", "hello: no such file or directory; a FILE is expected: for a text, echo hello | poolinit send ADDRESS", ""},
		"a FILE not readable": {"unix", ".", "eof", "cannot read: read .: is a directory", "echo hello"},
	} {
		t.Run(name, func(t *testing.T) {
			address := "127.0.0.1:0"
			if tt.network == "unix" {
				address = t.TempDir() + "/s"
			}
			f := fakepool.StartAt(t, tt.network, address, tt.script)
			url := f.URL
			if name == "once" {
				url += "?once=true&reply=always"
			}
			code, stdout, stderr := sending(t, stdin, append([]string{url}, strings.Fields(tt.flags)...)...)
			f.End()
			if code != exitFailed || !strings.Contains(stderr, tt.stderr) || tt.not != "" && strings.Contains(stderr, tt.not) {
				t.Errorf("code %d, stdout %q, stderr %q, want %q, not %q", code, stdout, stderr, tt.stderr, tt.not)
			}
		})
	}
}

// A reply that ends with an end of line gets no second one.
func TestSendEndOfLine(t *testing.T) {
	for _, tt := range []struct{ stdin, flags, want string }{
		{"a", "", "a\n"},
		{"a\n", "", "a\n"},
		{"a\n\n", "", "a\n\n"},
		{"", "", "\n"},
		{"a", "--raw", "a"},
		{"a\n", "--raw", "a\n"},
	} {
		f := fakepool.Start(t, "all")
		code, stdout, stderr := sending(t, tt.stdin, append(strings.Fields(tt.flags), "--whole", "--reply", f.URL)...)
		f.End()
		if code != 0 || stdout != tt.want {
			t.Errorf("%q %s: code %d, %q, want %q; %s", tt.stdin, tt.flags, code, stdout, tt.want, stderr)
		}
	}
}
