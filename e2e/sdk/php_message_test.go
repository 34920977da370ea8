package sdk

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// phpDeeds is what the workers of these tests do with a message: its first word
// says it. All others are answered with themselves.
const phpDeeds = `
    [$word, $rest] = explode(' ', $message, 2) + ['', ''];
    switch ($word) {
        case 'nothing': return null;
        case 'empty': return '';
        case 'number': return 42;
        case 'write': $pool->write('hello '); $pool->write('world'); return $rest === '' ? null : $rest;
        case 'big': return str_repeat('0123456789abcdef', (int) $rest << 16);
        case 'binary': return implode('', array_map('chr', range(0, 255)));
        case 'length': return (string) strlen($rest);
        case 'throw': throw new RuntimeException($rest);
        case 'error': return (fn (int $n): int => $n)($rest);
        case 'array': return [1];
        case 'refuse': throw new Poolinit\Refuse($rest);
        case 'latin1': throw new Poolinit\Refuse("gr\xfc\xdfe");
        case 'huge': return str_repeat('x', (64 << 20) + 1);
        case 'long': throw new Poolinit\Refuse(str_repeat('ä', 5000));
        case 'warn': echo $undefined; return 'warned';
        case 'print': echo "printed\n"; fwrite(STDOUT, "too\n"); return 'quiet';
        case 'exit': exit((int) $rest);
        case 'fatal': ini_set('memory_limit', '32M'); return str_repeat('x', 64 << 20);
        case 'loop': while (true) { $pool->workerId; }
        case 'who': return "$pool->workerId of $pool->workers, generation $pool->generation";
        case 'env': return (string) shell_exec('env | grep -c -e ^POOLINIT_ -e ^NOTIFY_ -e ^WATCHDOG_; true');
        case 'fork': $child = pcntl_fork(); if ($child > 0) pcntl_waitpid($child, $status); return $child > 0 ? 'forked' : str_repeat('twice', 100_000);
        case 'term': posix_kill(getmypid(), SIGTERM); usleep(1000); return $pool->running ? 'runs' : 'told';
        case 'stop': $pool->stop(); return 'stopping';
        case 'shutdown': $pool->shutdown(); return 'shutting down';
        case 'detach': $pool->write('I am '); $pool->detach('off'); echo "detached\n"; while ($pool->running) usleep(10000); echo "let go\n"; return 'never seen';
        case 'restart': $pool->start();
    }
    return $message;`

const phpAlways = "?reply=always"

func TestSDKPHPReplies(t *testing.T) {
	url := harness.UnixURL(t, phpAlways)
	p := phpPool(t, url, phpDeeds, "POOLINIT_ATTEMPTS=1")
	c := newPHPClient(t, url)
	for _, tt := range [][2]string{
		{"hello", "hello"},
		{"", ""},
		{"nothing", ""},
		{"empty", ""},
		{"number", "42"},
		{"write", "hello world"},
		{"write !", "hello world!"},
		{"\x00\xff\n\x80\x00\x00\x00", "\x00\xff\n\x80\x00\x00\x00"},
		{"big 1", strings.Repeat("0123456789abcdef", 1<<16)},
		{"big 50", strings.Repeat("0123456789abcdef", 50<<16)},
		{"length " + strings.Repeat("ä", 900_000), "1800000"},
		{"throw bad luck", "!given-up: error: bad luck"},
		{"throw", "!given-up: error: RuntimeException"},
		{"refuse not mine", "!refused: not mine"},
		{"latin1", "!refused: gr\uFFFD\uFFFDe"},
		{"long", "!refused: " + strings.Repeat("ä", 2048)},
		{"array", "!given-up: error: a reply is a string or null, and not array"},
		{"huge", "!given-up: error: the reply has 67108865 bytes, and poolinit takes 67108864"},
		{"warn", "warned"},
		{"print", "quiet"},
		{"restart", "!given-up: error: start() has been called before: a program has one pool, and starts it once"},
		{"env", "0\n"},
		{"fork", "forked"},
		{"fine", "fine"},
	} {
		c.send(tt[0])
		c.want(tt[1])
	}
	var binary strings.Builder
	for i := range 256 {
		binary.WriteByte(byte(i))
	}
	c.send("binary")
	c.want(binary.String())
	c.send("error x")
	body, failed, err := harness.ReadFrame(c)
	if err != nil || !failed || !strings.Contains(string(body), "must be of type int, string given") {
		t.Errorf("%q, %v", body, err)
	}
	p.Stdout.ExpectTimes(t, "printed\n", 1)
	p.Stdout.ExpectTimes(t, "too\n", 1)
	p.Stderr.Expect(t, "RuntimeException: bad luck in ")
	c.send(strings.Repeat("x", 2<<20+1))
	c.want("!too-big: the longest message here is 2097152 bytes")
	if len(p.Workers()) != 2 || p.Count("worker exited") > 0 {
		t.Errorf("a worker died:\n%s", p.Stderr.String())
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.Stdout.ExpectTimes(t, "stopped ", 2)
}

// Many at once, in any sizes: all come back, in their order.
func TestSDKPHPPipelined(t *testing.T) {
	url := harness.UnixURL(t, phpAlways)
	p := phpPool(t, url, "return $message;")
	c := newPHPClient(t, url)
	var bodies []string
	for i := range 20_000 {
		bodies = append(bodies, strings.Repeat("x", i%97)+fmt.Sprint(i))
	}
	for i := range 40 {
		bodies = append(bodies, strings.Repeat("y", i*10_000))
	}
	go func() { // ends when all is written, or with the connection
		for _, body := range bodies {
			if harness.WriteFrame(c, body) != nil {
				return
			}
		}
	}()
	for _, body := range bodies {
		if c.want(body); t.Failed() {
			return
		}
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	expectClean(p)
	p.ExpectLog(fmt.Sprintf("handled %d, spooled 0, lost 0, killed 0", len(bodies)), nil)
}

// A failure is delivered again, a death too; what exit() says counts.
func TestSDKPHPDeaths(t *testing.T) {
	for _, tt := range []struct {
		message, why, says string
		code               int
		env                []string
	}{
		// (That the channel is closed may be seen before the end of the process.)
		{"exit 0", "the worker ", "exit() in the message handler ends this worker", 0, nil},
		{"exit 3", "the worker ", "exit() in the message handler ends this worker", 3, nil},
		{"fatal", "the worker ", "a fatal error in the message handler ends this worker", 255, nil},
		{"loop", "no answer within 3s", "worker exceeded the message timeout", 0, []string{"POOLINIT_MESSAGE_TIMEOUT=3s"}},
	} {
		t.Run(tt.message, func(t *testing.T) {
			t.Parallel()
			url := harness.UnixURL(t, phpAlways)
			p := phpPool(t, url, phpDeeds, append(tt.env, "POOLINIT_ATTEMPTS=2")...)
			c := newPHPClient(t, url)
			c.send("before")
			c.want("before")
			c.send(tt.message)
			if body, failed, err := harness.ReadFrame(c); err != nil || !failed || !strings.HasPrefix(string(body), "given-up: after 2 attempts: "+tt.why) {
				t.Errorf("%q, %v", body, err)
			}
			c.send("after")
			c.want("after")
			p.Stderr.ExpectTimes(t, tt.says, 2)
			testkit.Eventually(t, "both ends are logged", func() (any, bool) { return p.Stderr.String(), p.Count("worker exited") == 2 })
			for _, r := range p.Records() {
				if r.Message == "worker exited" && r.Code != tt.code {
					t.Errorf("%+v", r)
				}
			}
			if tt.code < 255 && tt.env == nil {
				p.Stdout.ExpectTimes(t, "stopped ", 2) // exit() is an end like any other
			}
			p.Signal(syscall.SIGTERM)
			p.ExpectExit(0)
		})
	}
}

// The message in hand is finished, its reply goes out, and no other is lost:
// whoever sends the signal, and at what time.
func TestSDKPHPTermInHandler(t *testing.T) {
	t.Parallel()
	url := harness.UnixURL(t, phpAlways)
	p := phpPool(t, url, phpDeeds, "POOLINIT_ATTEMPTS=1")
	c := newPHPClient(t, url)
	for n := 1; n <= 5; n++ {
		c.send("term")
		c.want("told")
		p.Stdout.ExpectTimes(t, "stopped ", n)
		p.Stdout.ExpectTimes(t, "started ", 2+n)
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.Stdout.ExpectTimes(t, "stopped ", 7)
	expectClean(p)
}

// A worker that waits for a message, and one that asks for its end itself.
func TestSDKPHPStop(t *testing.T) {
	url := harness.UnixURL(t, phpAlways)
	p := phpPool(t, url, phpDeeds, "POOLINIT_ATTEMPTS=1")
	if err := syscall.Kill(p.Worker(0).PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.Stdout.ExpectTimes(t, "stopped 0\n", 1)
	p.Stdout.ExpectTimes(t, "started 0\n", 2)
	c := newPHPClient(t, url)
	c.send("stop")
	c.want("stopping")
	p.Stdout.ExpectTimes(t, "stopped ", 2)
	p.Stdout.ExpectTimes(t, "started ", 4)
	c.send("who")
	body, _, err := harness.ReadFrame(c)
	if got := string(body); err != nil || got != "0 of 2, generation 1" && got != "1 of 2, generation 1" {
		t.Errorf("%q, %v", got, err)
	}
	c.send("shutdown")
	c.want("shutting down")
	p.ExpectExit(0)
	p.Stdout.ExpectTimes(t, "stopped ", 4)
	expectClean(p)
}

// One that has detached answers, is replaced, works on, and still hears of the
// stop.
func TestSDKPHPDetach(t *testing.T) {
	url := harness.UnixURL(t, phpAlways)
	p := phpPool(t, url, phpDeeds)
	c := newPHPClient(t, url)
	c.send("detach")
	c.want("I am off")
	p.Stdout.Expect(t, "detached\n")
	p.ExpectLog("worker closed its channel, it is now detached", nil)
	p.Stdout.ExpectTimes(t, "started ", 3)
	for range 100 {
		c.send("next")
		c.want("next")
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.Stdout.ExpectTimes(t, "let go\n", 1)
	p.Stdout.ExpectTimes(t, "stopped ", 3)
}
