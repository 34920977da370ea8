package init_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// An initCase is one row of what tini and poolinit init are both held to. A row
// with other is one where poolinit does it differently on purpose: other is
// what tini does, and differs is the name of the row in docs/tini.md that says
// why.
type initCase struct {
	name string
	prog harness.Program // args are those of the init: flags and command
	want outcome

	differs string
	other   outcome
}

// An outcome is what is seen from outside. The texts are to be contained in
// what the program writes; "-" is "writes nothing".
type outcome struct {
	code           int
	stdout, stderr string
}

// Every init has its command line after its own name.
func inits(t *testing.T) map[string][]string {
	harness.Need(t, "tini")
	return map[string][]string{"tini": {"tini"}, "poolinit": {harness.Binary(t), "init"}}
}

func args(words ...string) harness.Program { return harness.Program{Args: words} }

func under(p harness.Program) harness.Program { p.Under = true; return p }

func with(p harness.Program, change func(*harness.Program)) harness.Program { change(&p); return p }

func TestInitTable(t *testing.T) {
	harness.Need(t, "sh", "true", "echo")
	cases := [][]initCase{exitCases(t), optionCases(), execCases(t), startCases(t)}
	for who, command := range inits(t) {
		t.Run(who, func(t *testing.T) {
			for _, group := range cases {
				for _, c := range group {
					t.Run(c.name, func(t *testing.T) {
						want := c.want
						if who == "tini" && c.differs != "" {
							want = c.other
						}
						c.prog.Args = append(append([]string{}, command...), c.prog.Args...)
						p, code := harness.Run(t, c.prog)
						want.check(t, p, code)
					})
				}
			}
		})
	}
}

func (want outcome) check(t *testing.T, p *harness.Process, code int) {
	t.Helper()
	stdout, stderr := p.Stdout.String(), p.Stderr.String()
	if code != want.code || !fits(stdout, want.stdout) || !fits(stderr, want.stderr) {
		t.Errorf("exit code %d\nstdout %q\nstderr %q\nwant %d, %q, %q",
			code, stdout, stderr, want.code, want.stdout, want.stderr)
	}
}

func fits(got, want string) bool {
	if want == "-" {
		return got == ""
	}
	return strings.Contains(got, want)
}

// sh is a command line that exits, or does worse.
func sh(script string) []string { return []string{"--", "sh", "-c", script} }

func exitCases(t *testing.T) []initCase {
	withEnv := func(env string, words ...string) harness.Program {
		return with(args(words...), func(p *harness.Program) { p.Env = []string{env} })
	}
	flags := func(script string, flags ...string) harness.Program { return args(append(flags, sh(script)...)...) }
	return []initCase{
		{name: "exit 0", prog: flags("exit 0"), want: outcome{0, "-", "-"}},
		{name: "exit 42", prog: flags("exit 42"), want: outcome{42, "-", "-"}},
		{name: "exit 255", prog: flags("exit 255"), want: outcome{255, "-", "-"}},
		{name: "dies of TERM", prog: flags("kill -TERM $$"), want: outcome{143, "-", "-"}},
		{name: "dies of KILL", prog: flags("kill -KILL $$"), want: outcome{137, "-", "-"}},
		{name: "dies of ABRT", prog: flags("kill -ABRT $$"), want: outcome{134, "-", "-"}},
		{name: "dies of RTMAX", prog: flags("kill -64 $$"), want: outcome{192, "-", "-"}},
		{name: "-e 143", prog: flags("kill -TERM $$", "-e", "143"), want: outcome{0, "-", "-"}},
		{name: "-e 42 of 43", prog: flags("exit 43", "-e", "42"), want: outcome{43, "-", "-"}},
		{name: "-e twice", prog: flags("exit 43", "-e42", "-e", "43"), want: outcome{0, "-", "-"}},
		{name: "arguments", prog: args("--", "echo", "-n", "-v", "--", "$x"), want: outcome{0, "-v -- $x", "-"}},
		{name: "environment", prog: withEnv("A=b c", sh("echo $A")...), want: outcome{0, "b c\n", "-"}},
		{name: "child pid 2 or so, own group", prog: flags("test $$ != 1 && test $(ps -o pgid= -p $$) = $$"), want: outcome{0, "-", "-"}},
		{name: "not PID 1", prog: under(flags("exit 4")), want: outcome{4, "-", "Zombie processes will not be re-parented"}},
		{name: "not PID 1, -s", prog: under(flags("exit 4", "-s")), want: outcome{4, "-", "-"}},
		{name: "not PID 1, TINI_SUBREAPER", prog: under(withEnv("TINI_SUBREAPER=", sh("exit 4")...)), want: outcome{4, "-", "-"}},
		{name: "not PID 1, silent", prog: under(withEnv("TINI_VERBOSITY=0", sh("exit 4")...)), want: outcome{4, "-", "-"}},
		{name: "TINI_VERBOSITY is stronger than -v", prog: withEnv("TINI_VERBOSITY=0", "-vvv", "--", "true"), want: outcome{0, "-", "-"}},
		{name: "TINI_VERBOSITY that is no number", prog: under(withEnv("TINI_VERBOSITY=x", "true")), want: outcome{0, "-", "-"}},
		{name: "-v", prog: args("-v", "true"), want: outcome{0, "-", "Main child exited normally (with status '0')"},
			differs: "messages", other: outcome{0, "Main child exited normally (with status '0')", "-"}},
		{name: "-vvv in one", prog: under(args("-svvv", "true")), want: outcome{0, "-", "Registered as child subreaper"},
			differs: "messages", other: outcome{0, "Registered as child subreaper", "-"}},
	}
}

func optionCases() []initCase {
	usage := "Usage: "
	return []initCase{
		{name: "nothing", prog: args(), want: outcome{1, "-", usage}},
		{name: "only --", prog: args("--"), want: outcome{1, "-", usage}},
		{name: "only options", prog: args("-s", "-g"), want: outcome{1, "-", usage}},
		{name: "unknown option", prog: args("-x", "true"), want: outcome{1, "-", "invalid option -- 'x'"}},
		{name: "unknown option in a cluster", prog: args("-vx", "true"), want: outcome{1, "-", "invalid option -- 'x'"}},
		{name: "-p without", prog: args("-p"), want: outcome{1, "-", "option requires an argument -- 'p'"}},
		{name: "-e without", prog: args("-ve"), want: outcome{1, "-", "option requires an argument -- 'e'"}},
		{name: "-p of nothing known", prog: args("-p", "SIGFOO", "true"), want: outcome{1, "-", "Not a valid option for -p: SIGFOO"}},
		{name: "-e too big", prog: args("-e", "256", "true"), want: outcome{1, "-", "Not a valid option for -e: 256"}},
		{name: "-e negative", prog: args("-e", "-1", "true"), want: outcome{1, "-", "Not a valid option for -e: -1"}},
		{name: "-e no number", prog: args("-e", "1x", "true"), want: outcome{1, "-", "Not a valid option for -e: 1x"}},
		{name: "-p in one word", prog: args("-pSIGTERM", "true"), want: outcome{0, "-", "-"}},
		{name: "-h", prog: args("-h"), want: outcome{0, usage, "-"}},
		{name: "-h before an error", prog: args("-h", "-x"), want: outcome{0, usage, "-"}},
		{name: "-l", prog: args("-l"), want: outcome{0, "MIT License", "-"}, differs: "license", other: outcome{0, "The MIT License", "-"}},
		{name: "--version", prog: args("--version"), want: outcome{0, "poolinit", "-"}, differs: "version", other: outcome{0, "tini version", "-"}},
		{name: "--version and more", prog: args("-v", "--version"), want: outcome{1, "-", "invalid option -- '-'"}},
		{name: "--help", prog: args("--help"), want: outcome{0, usage, "-"}, differs: "help", other: outcome{1, "-", "invalid option -- '-'"}},
		{name: "-p TERM", prog: args("-p", "TERM", "true"), want: outcome{0, "-", "-"},
			differs: "signal names", other: outcome{1, "-", "Not a valid option for -p: TERM"}},
		{name: "options after the command", prog: args("echo", "-x", "y"), want: outcome{0, "-x y\n", "-"},
			differs: "options after the command", other: outcome{1, "-", "invalid option -- 'x'"}},
		{name: "-- after the command", prog: args("echo", "--", "y"), want: outcome{0, "-- y\n", "-"},
			differs: "options after the command", other: outcome{0, "y\n", "-"}},
		{name: "a lone - is a command", prog: args("-", "x"), want: outcome{127, "-", "exec - failed: No such file or directory"}},
	}
}

func execCases(t *testing.T) []initCase {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "exit 0\n", 0o644)
	script := write("script", "echo \"$0 $1\"; exit 5\n", 0o755)
	lost := write("lost", "#!/no/such/interpreter\n", 0o755)
	inPath := func(path, command string) harness.Program {
		return with(args("--", command), func(p *harness.Program) { p.Env = []string{"PATH=" + path} })
	}
	return []initCase{
		{name: "absent", prog: args("--", "/no/such"), want: outcome{127, "-", "exec /no/such failed: No such file or directory"}},
		{name: "absent in PATH", prog: args("--", "no-such"), want: outcome{127, "-", "exec no-such failed: No such file or directory"}},
		{name: "empty", prog: args("--", ""), want: outcome{127, "-", "exec  failed: No such file or directory"}},
		{name: "a directory", prog: args("--", dir), want: outcome{126, "-", "exec " + dir + " failed: Permission denied"}},
		{name: "not executable", prog: args("--", plain), want: outcome{126, "-", "exec " + plain + " failed: Permission denied"}},
		{name: "not executable in PATH", prog: inPath(dir, "plain"), want: outcome{126, "-", "exec plain failed: Permission denied"}},
		{name: "below a file", prog: args("--", plain+"/x"), want: outcome{1, "-", "exec " + plain + "/x failed: Not a directory"}},
		{name: "script without #!", prog: args("--", script, "x"), want: outcome{5, script + " x\n", "-"}},
		{name: "script without #! in PATH", prog: inPath("/no:"+dir, "script"), want: outcome{5, dir + "/script", "-"}},
		{name: "no interpreter", prog: args("--", lost), want: outcome{127, "-", "exec " + lost + " failed: No such file or directory"}},
	}
}

// startCases is what an init may find at its start.
func startCases(t *testing.T) []initCase {
	started := func(script string, change func(*harness.Program)) harness.Program {
		return with(args(sh(script)...), change)
	}
	closed := func(fd int) func(*harness.Program) { return func(p *harness.Program) { p.Closed = []int{fd} } }
	status := func(change func(*harness.Program)) harness.Program {
		return with(args("cat", "/proc/self/status"), change)
	}
	return []initCase{
		{name: "stdin closed", prog: started("readlink /proc/$$/fd/0; exit 6", closed(0)), want: outcome{6, "/dev/null", "-"},
			differs: "closed descriptors", other: outcome{1, "-", "tcsetpgrp failed: Bad file descriptor"}},
		{name: "stdout closed", prog: started("test -c /proc/self/fd/1 && exit 6", closed(1)), want: outcome{6, "-", "-"},
			differs: "closed descriptors", other: outcome{1, "-", "-"}},
		{name: "stderr closed", prog: started("readlink /proc/$$/fd/2; exit 6", closed(2)), want: outcome{6, "/dev/null", "-"},
			differs: "closed descriptors", other: outcome{6, "-", "-"}},
		{name: "a closed stderr and a message", prog: with(args("--", "/no/such"), closed(2)), want: outcome{127, "-", "-"}},
		{name: "signals blocked", prog: status(func(p *harness.Program) { p.Blocked = []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR2} }),
			want: outcome{0, "SigBlk:\t0000000000004800\nSigIgn:\t0000000000000000\n", "-"}},
		{name: "signals ignored", prog: status(func(p *harness.Program) {
			p.Ignored = []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCONT,
				syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGSEGV, syscall.SIGURG, 34, 64}
		}),
			want: outcome{0, "SigBlk:\t0000000000000000\nSigIgn:\t80000002007a4403\n", "-"}},
		{name: "limit of descriptors", prog: started("ulimit -Sn; ulimit -Hn", func(p *harness.Program) { p.Nofile = 123 }),
			want: outcome{0, "123\n492\n", "-"}},
	}
}

// The table in docs/tini.md names every difference that the tests know, and no other.
func TestInitDifferencesAreWrittenDown(t *testing.T) {
	text, err := os.ReadFile("../../docs/tini.md")
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| \*\*(.+?)\*\* \|`).FindAllStringSubmatch(string(text), -1) {
		written[row[1]] = true
	}
	known := map[string]bool{}
	for _, group := range [][]initCase{exitCases(t), optionCases(), execCases(t), startCases(t)} {
		for _, c := range group {
			if c.differs != "" {
				known[c.differs] = true
			}
		}
	}
	for _, name := range otherDifferences {
		known[name] = true
	}
	for name := range known {
		if !written[name] {
			t.Errorf("docs/tini.md does not have %q", name)
		}
	}
	for name := range written {
		if !known[name] {
			t.Errorf("docs/tini.md has %q, which no test shows", name)
		}
	}
}

// otherDifferences have tests of their own, in this and the other init_ files.
var otherDifferences = []string{
	"broken stderr",        // TestInitBrokenStderr
	"full stderr",          // TestInitFullStderr
	"SIGCHLD ignored",      // TestInitSIGCHLDIgnored
	"uncatchable signals",  // TestInitForwardsSignals
	"queued signals",       // TestInitQueuedSignals
	"deadly signals",       // TestInitDeadlySignals
	"the first moment",     // TestInitEarlySIGTERM
	"Ctrl-Z as PID 1",      // TestInitTerminalCtrlZ
	"Ctrl-Z under a shell", // TestInitTerminalJob
	"background",           // TestInitTerminalBackground
}
