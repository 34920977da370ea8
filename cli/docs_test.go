package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/cli/flags"
)

// document returns a file of the repository, by its name from the root.
func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// docs/reference.md has the output of --help. go test ./cli -run README -update writes it
// there.
func TestREADMEHasHelp(t *testing.T) {
	help, text := usage(), document(t, "docs/reference.md")
	before, rest, ok := strings.Cut(text, "\n## Flags\n\n```text\n")
	was, after, ok2 := strings.Cut(rest, "```\n")
	switch {
	case !ok || !ok2:
		t.Error("docs/reference.md has no section Flags that begins with a block ```text")
	case was == help:
	case *update:
		text = before + "\n## Flags\n\n```text\n" + help + "```\n" + after
		if err := os.WriteFile("../docs/reference.md", []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	default:
		t.Error("docs/reference.md does not have the output of --help: go test ./cli -run README -update")
	}
}

func TestREADMENamesVariables(t *testing.T) {
	text := document(t, "docs/reference.md")
	for _, flag := range runFlags(new(options)).Names() {
		if name := "`" + flags.Variable(flag) + "`"; flag != "help" && !strings.Contains(text, name) {
			t.Errorf("docs/reference.md does not name %s", name)
		}
	}
	for _, name := range []string{"POOLINIT_WORKER_ID", "POOLINIT_WORKERS", "POOLINIT_GENERATION", "NOTIFY_SOCKET", "WATCHDOG_USEC"} {
		if !strings.Contains(document(t, "docs/reference.md"), "`"+name+"`") {
			t.Errorf("docs/reference.md does not name %s", name)
		}
	}
}
