package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// The manual page and the completions, which are made from --help.

// reference makes the manual page and the completions from the binary under
// test, and returns their directory.
func reference(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	make := exec.Command("go", "-C", "../../tools/release", "run", "./reference", harness.Binary(t), dir)
	make.Env = append(os.Environ(), "VERSION="+releaseVersion, "SOURCE_DATE_EPOCH=1700000000", "GOWORK=off")
	if out, err := make.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// longFlags are all that --help lists, of all subcommands.
func longFlags(t *testing.T) (flags []string) {
	t.Helper()
	for _, command := range []string{"run", "send", "status", "reload", "stop", "scale", "pause", "resume", "queue", "health", "notify"} {
		out, err := exec.Command(harness.Binary(t), command, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^  (?:-\w, |    )(--[a-z-]+)`).FindAllStringSubmatch(string(out), -1) {
			flags = append(flags, m[1])
		}
	}
	if len(flags) < 50 {
		t.Fatalf("only %q", flags)
	}
	return flags
}

func TestReleaseManual(t *testing.T) {
	harness.Need(t, "man", "mandoc")
	page := filepath.Join(reference(t), "poolinit.1")
	if out, err := exec.Command("mandoc", "-T", "lint", "-W", "warning", page).CombinedOutput(); err != nil {
		t.Errorf("mandoc: %v\n%s", err, out)
	}
	man := exec.Command("man", "--warnings", "--local-file", page)
	man.Env = append(os.Environ(), "MANWIDTH=200", "LC_ALL=C.UTF-8", "MAN_KEEP_FORMATTING=")
	var warnings strings.Builder
	man.Stderr = &warnings
	text, err := man.Output()
	if err != nil || warnings.Len() > 0 {
		t.Errorf("man: %v\n%s", err, warnings.String())
	}
	for _, flag := range longFlags(t) {
		if !regexp.MustCompile(`(?m)^ +(-\w, )?` + flag + `\b`).Match(text) {
			t.Errorf("%s is not in it", flag)
		}
	}
	for _, part := range []string{"NAME\n", "SYNOPSIS\n", "OPTIONS\n", "ENVIRONMENT\n", "SIGNALS\n", "EXIT STATUS\n", "POOLINIT SEND\n", "poolinit " + releaseVersion, "2023-11-14"} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%q is not in it", part)
		}
	}
}

func TestReleaseCompletions(t *testing.T) {
	harness.Need(t, "bash", "zsh", "fish")
	dir := reference(t)
	for _, name := range []string{"poolinit.bash", "_poolinit", "poolinit.fish"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, flag := range longFlags(t) {
			if word := strings.TrimPrefix(flag, "--"); !regexp.MustCompile(`[ -]` + word + `\b`).Match(text) {
				t.Errorf("%s does not know %s", name, flag)
			}
		}
	}
	if out, err := exec.Command("zsh", "-n", filepath.Join(dir, "_poolinit")).CombinedOutput(); err != nil {
		t.Errorf("zsh: %v\n%s", err, out)
	}
	for _, c := range []struct{ line, want string }{
		{"poolinit sta", "status"},
		{"poolinit --rest", "--restart --restart-delay --restart-delay-max"},
		{"poolinit --restart ", "always on-failure never"},
		{"poolinit run -n 4 --output p", "prefix"},
		{"poolinit --stop-signal US", "USR1 USR2"},
		{"poolinit send --conn", "--connect-timeout"},
		{"poolinit reload --w", "--wait"},
		{"poolinit -n 4 -- sleep --re", ""},
	} {
		want := strings.Fields(c.want)
		slices.Sort(want)
		for shell, got := range map[string][]string{"bash": completeBash(t, dir, c.line), "fish": completeFish(t, dir, c.line)} {
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: %q is completed to %q, want %q", shell, c.line, got, want)
			}
		}
	}
}

func completeBash(t *testing.T, dir, line string) []string {
	t.Helper()
	script := `. "$1/poolinit.bash"; IFS=' '; COMP_WORDS=($2); [[ $2 == *" " ]] && COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
		unset IFS; _poolinit; printf '%s\n' "${COMPREPLY[@]}"`
	return answer(t, "bash", "--norc", "-c", script, "bash", dir, line)
}

func completeFish(t *testing.T, dir, line string) (words []string) {
	t.Helper()
	out, err := exec.Command("fish", "--no-config", "-c", fmt.Sprintf("source %s/poolinit.fish; complete -C'%s'", dir, line)).Output()
	if err != nil {
		t.Fatalf("fish: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		words = append(words, word)
	}
	return words
}
