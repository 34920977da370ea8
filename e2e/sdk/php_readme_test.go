package sdk

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// The first program of sdk/php/README.md does what is said below it.
func TestSDKPHPReadme(t *testing.T) {
	needPHPModules(t, "pcntl", "posix")
	text, err := os.ReadFile(sdkPHP(t, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string // their first line is the language
	for _, m := range regexp.MustCompile("(?s)\n```([a-z]+\n.*?)```").FindAllStringSubmatch(string(text), 4) {
		blocks = append(blocks, m[1])
	}
	program, ok1 := strings.CutPrefix(blocks[0], "php\n")
	command, ok2 := strings.CutPrefix(blocks[1], "sh\n")
	client, ok3 := strings.CutPrefix(blocks[2], "sh\n")
	replies, ok4 := strings.CutPrefix(blocks[3], "text\n")
	if !ok1 || !ok2 || !ok3 || !ok4 {
		t.Fatalf("the blocks are not program, command, client and replies: %q", blocks)
	}
	dir := t.TempDir()
	sdk, err := os.ReadFile(sdkPHP(t, "Pool.php"))
	if err != nil {
		t.Fatal(err)
	}
	harness.InstallScript(t, filepath.Join(dir, "Pool.php"), string(sdk))
	harness.InstallScript(t, filepath.Join(dir, "pool.php"), program)
	path := "PATH=" + filepath.Dir(harness.Named(t, "poolinit")) + ":" + os.Getenv("PATH")

	i := newIsland(t)
	prog := i.program("sh", "-c", "cd "+dir+" && exec "+command)
	prog.Env = []string{path}
	p := harness.PoolOf(harness.Start(t, prog))
	p.Stderr.Expect(t, "accepting messages")
	p.Stdout.ExpectTimes(t, " is up\n", 4)
	out := i.run("sh", "-c", path+"; cd "+dir+"; { "+client+"} 2>said; exit 0")
	said, _ := os.ReadFile(filepath.Join(dir, "said"))
	if out != replies || !strings.Contains(string(text), "`"+strings.TrimPrefix(strings.TrimSpace(string(said)), "poolinit: ")+"`") {
		t.Errorf("replies %q, want %q\nsaid %q", out, replies, said)
	}
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("reload done", nil)
	p.Stdout.ExpectTimes(t, " is down\n", 4)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.Stdout.ExpectTimes(t, " is down\n", 8)
}

// composer.json is one, and what it names is there.
func TestSDKPHPComposer(t *testing.T) {
	text, err := os.ReadFile(sdkPHP(t, "composer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var composer struct {
		Name, License string
		Require       map[string]string
		Autoload      struct{ Classmap []string }
	}
	if err := json.Unmarshal(text, &composer); err != nil {
		t.Fatal(err)
	}
	if composer.Name == "" || composer.License != "MIT" || composer.Require["php"] != ">=8.1" || len(composer.Autoload.Classmap) != 2 {
		t.Errorf("%+v", composer)
	}
	for _, name := range composer.Autoload.Classmap {
		if _, err := os.Stat(sdkPHP(t, name)); err != nil {
			t.Error(err)
		}
	}
}

// Each public method is in the README, and each file is one that PHP takes.
func TestSDKPHPFiles(t *testing.T) {
	harness.Need(t, "php")
	readme, err := os.ReadFile(sdkPHP(t, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Pool.php", "Client.php", "swoole.php"} {
		p, code := harness.Run(t, harness.Program{Host: true, Args: []string{"php", "-l", sdkPHP(t, name)}})
		if code != 0 {
			t.Errorf("%s%s", p.Stdout.String(), p.Stderr.String())
		}
	}
	text, err := os.ReadFile(sdkPHP(t, "Pool.php"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := os.ReadFile(sdkPHP(t, "Client.php"))
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, client...)
	for _, m := range regexp.MustCompile(`public function ([a-z]\w*)\(`).FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(string(readme), "`"+m[1]+"(") {
			t.Errorf("README.md does not have %s()", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`public readonly \S+ (\$\w+);`).FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(string(readme), "`"+m[1]+"`") {
			t.Errorf("README.md does not have %s", m[1])
		}
	}
}

// docs/swoole.md has a row for each method and property of Swoole's pool.
func TestSDKPHPSwooleTable(t *testing.T) {
	table, err := os.ReadFile("../../docs/swoole.md")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(sdkPHP(t, "swoole.php"))
	if err != nil {
		t.Fatal(err)
	}
	_, pool, _ := strings.Cut(string(text), "namespace Swoole\\Process {")
	names := regexp.MustCompile(`public (?:function|\??\w+) (\$?\w+)`).FindAllStringSubmatch(pool, -1)
	if len(names) < 17 {
		t.Fatalf("found only %q", names)
	}
	for _, m := range names {
		if name := "`" + m[1]; !strings.HasPrefix(m[1], "__") && !strings.Contains(string(table), name+"(") && !strings.Contains(string(table), name+"`") {
			t.Errorf("docs/swoole.md does not have %s", m[1])
		}
	}
}
