package send

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/internal/captured"
	"github.com/poolinit/poolinit/ipc/frame"
)

func TestSendRefusesCommandLines(t *testing.T) {
	for args, want := range map[string]string{
		"":                                       "no ADDRESS",
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
		"--reply tcp://x:1?reply=never":          "--reply: there are none",
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
	if code != 0 || !strings.HasPrefix(stdout, sendUsageHead) || !strings.HasSuffix(stdout, sendUsageTail) || stderr != "" {
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
		"tcp://x:1?once=0&reply=auto":                      "false false false false",
		"tcp://x:1?cert=a&key=b":                           "false false false true",
		"--tls --reply=true tcp://x:1":                     "true false false true",
		"--reply=false tcp://x:1?once=1 --server-name abc": "false false true true",
	} {
		o := new(sendOptions)
		if err := o.parse(sendFlags(o), strings.Fields(args)); err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		if got := fmt.Sprint(o.reply, o.silent, o.once, o.tls); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}

// A fake server does one script a connection, the last one for all that follow.
// A script is words: a number reads so many messages, "echo" answers each of
// those, "reset" breaks off, "eof" waits for the client's end, "hang" until it
// is gone; anything else is a frame to be written, a failure if it begins with "!".
type fake struct {
	t       *testing.T
	ln      net.Listener
	scripts []string
	serving sync.WaitGroup
	done    chan struct{} // closed when the client has ended

	mu  sync.Mutex
	got []string // every message that was read
}

func startFake(t *testing.T, scripts ...string) (f *fake, url string) {
	t.Helper()
	return startFakeAt(t, "unix", filepath.Join(t.TempDir(), "s"), scripts...)
}

func startFakeAt(t *testing.T, network, address string, scripts ...string) (f *fake, url string) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	f = &fake{t: t, ln: ln, scripts: scripts, done: make(chan struct{})}
	f.serving.Go(f.serve)
	return f, network + "://" + ln.Addr().String()
}

// end is for when the client has ended. It returns what the server got.
func (f *fake) end() []string {
	close(f.done)
	f.ln.Close()
	f.serving.Wait()
	return f.got
}

func (f *fake) serve() {
	for n := 0; ; n++ {
		nc, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.play(nc, f.scripts[min(n, len(f.scripts)-1)])
	}
}

func (f *fake) play(nc net.Conn, script string) {
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReaderSize(nc, 16) // the least: what is not read stays in the socket
	var last []string
	for word := range strings.FieldsSeq(script) {
		var n int
		switch _, err := fmt.Sscanf(word, "%d", &n); {
		case err == nil:
			last = nil
			for range n {
				body, _, err := readReply(r)
				if err != nil {
					return
				}
				last = append(last, string(body))
			}
			f.mu.Lock()
			f.got = append(f.got, last...)
			f.mu.Unlock()
		case word == "echo":
			for _, body := range last {
				_, _ = nc.Write(frame.Append(nil, []byte(body)))
			}
		case word == "all":
			f.all(nc, r)
		case word == "eof":
			_, _ = io.Copy(io.Discard, r)
		case word == "reset":
			return // with messages unread that is a reset
		case word == "hang":
			<-f.done
		case word == "garbage":
			_, _ = nc.Write(binary.BigEndian.AppendUint32(nil, 0x7fffffff))
		case strings.HasPrefix(word, "!"):
			code, text, _ := strings.Cut(word[1:], ":")
			_, _ = nc.Write(frame.AppendFailure(nil, frame.Code(code), text))
		default:
			_, _ = nc.Write(frame.Append(nil, []byte(word)))
		}
	}
}

// all answers everything until the client's end.
func (f *fake) all(nc net.Conn, r *bufio.Reader) {
	for {
		body, _, err := readReply(r)
		if err != nil {
			return
		}
		f.mu.Lock()
		f.got = append(f.got, string(body))
		f.mu.Unlock()
		_, _ = nc.Write(frame.Append(nil, body))
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
		"answers nothing, --reply":     {"--reply", []string{"5 eof"}, all, "", "does not answer every message"},
		"a failure":                    {"", []string{"5 x !given-up:why eof"}, all, "x", "a message: given-up: why"},
		"a failure, --reply":           {"--reply", []string{"5 x !given-up:why x x x eof"}, all, "x x x x", "message 2: given-up: why"},
		"unknown code":                 {"--reply", []string{"5 x x x x !new:why eof"}, all, "x x x x", "message 5: new: why"},
		"escapes":                      {"--reply", []string{"5 x x x x !new:\x1b[31m eof"}, all, "x x x x", "message 5: new: ?[31m"},
		"stopping":                     {"", []string{"5 x x !stopping: !stopping: !stopping: eof", "3 echo eof"}, all + " c d e", "x x c d e", ""},
		"stopping, --reply":            {"--reply", []string{"5 x x !stopping: !stopping: !stopping: eof", "3 echo eof"}, all + " c d e", "x x c d e", ""},
		"stopping after silence":       {"", []string{"5 !stopping: !stopping: eof", "2 echo eof"}, all + " d e", "d e", "3 had no reply and may be lost"},
		"stopping twice":               {"", []string{"5 x x x x !stopping: eof", "1 !stopping: eof", "1 echo eof"}, all + " e e", "x x x x e", ""},
		"always stopping":              {"--connect-timeout 1s", []string{"1 !stopping: eof"}, "", "", "takes connections, but no messages"},
		"interrupted is no stopping":   {"--reply", []string{"5 x x x x !interrupted:y eof"}, all, "x x x x", "message 5: interrupted: y"},
		"breaks, --reply":              {"--reply", []string{"3 x x reset", "3 echo eof"}, "a b c c d e", "x x c d e", ""},
		"ends early, --reply":          {"--reply", []string{"5 x x reset", "3 echo eof"}, all + " c d e", "x x c d e", ""},
		"breaks":                       {"", []string{"3 x reset"}, "a b c", "x", "4 had no reply and may be lost"},
		"breaks after all its replies": {"", []string{"5 echo reset"}, all, all, ""},
		"never takes any":              {"--reply --connect-timeout 1s", []string{"reset"}, "", "", "takes connections, but no messages; from message 1 on"},
		"too many":                     {"--reply", []string{"5 echo x eof"}, all, all, ""},
		"garbage":                      {"--reply --connect-timeout 1s", []string{"5 garbage eof"}, "", "", "from message 1 on nothing"},
		"silent":                       {"--timeout 2s", []string{"5 x hang"}, all, "x", "nothing was heard within --timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			f, url := startFake(t, tt.scripts...)
			stdin := strings.ReplaceAll(all, " ", "\n") + "\n" // whole lines, which are sent in one piece
			code, stdout, stderr := sending(t, stdin, append(strings.Fields(tt.flags), url)...)
			if got := strings.Join(strings.Fields(stdout), " "); got != tt.replies {
				t.Errorf("replies %q, want %q", got, tt.replies)
			}
			if (code != 0) != (tt.stderr != "") || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("code %d, stderr %q, want %q", code, stderr, tt.stderr)
			}
			if got := strings.Join(f.end(), " "); tt.got != "" && got != tt.got {
				t.Errorf("the server got %q, want %q", got, tt.got)
			}
		})
	}
}

// Without --reply a connection gets only so much; all is answered all the same.
func TestSendRounds(t *testing.T) {
	f, url := startFake(t, "all")
	var in strings.Builder
	for n := range roundMessages*2 + 5 {
		fmt.Fprintln(&in, n)
	}
	code, stdout, stderr := sending(t, in.String(), url)
	if code != 0 || stdout != in.String() || stderr != "" {
		t.Errorf("code %d, stdout of %d bytes, stderr %q", code, len(stdout), stderr)
	}
	f.end()
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
		f, url := startFake(t, "all")
		code, _, stderr := sending(t, tt.stdin, append([]string{url}, strings.Fields(tt.flags)...)...)
		if got := strings.Join(f.end(), "|"); got != tt.want || code != 0 {
			t.Errorf("%.20q %s: %.50q, want %.50q; code %d, %s", tt.stdin, tt.flags, got, tt.want, code, stderr)
		}
	}
}

func TestSendBar(t *testing.T) {
	out := &sendOutput{sent: 50_000, answered: 49_000, bytes: 500}
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

func FuzzSendReplies(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02ok\x80\x00\x00\x09refused: "))
	f.Add([]byte("\x7f\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := bufio.NewReader(bytes.NewReader(data))
		rest := len(data)
		for {
			body, _, err := readReply(b)
			if err != nil {
				if (err == io.EOF) != (rest == 0) {
					t.Fatalf("%v with %d bytes left", err, rest)
				}
				return
			}
			rest -= frame.HeaderSize + len(body)
		}
	})
}
