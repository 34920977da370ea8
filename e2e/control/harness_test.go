package control

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// bareName is an image with /poolinit and no other file, and its own health check.
var bareName = fmt.Sprintf("poolinit-e2e:%d-bare", os.Getpid())

var importBare = sync.OnceValue(func() error {
	binary, err := harness.BinaryPath()
	if err != nil {
		return err
	}
	var rootfs bytes.Buffer
	w := harness.NewImageWriter(&rootfs)
	w.File("/poolinit", binary)
	if err := w.Close(); err != nil {
		return err
	}
	cmd := exec.Command("docker", "import", "--change", `HEALTHCHECK CMD ["/poolinit", "health", "--ready"]`, "-", bareName)
	cmd.Stdin = &rootfs
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %w\n%s", err, out)
	}
	harness.AtEnd(func() { _ = exec.Command("docker", "rmi", "-f", bareName).Run() })
	return nil
})

// bareRun starts a container of nothing but poolinit. Its workers are poolinit,
// too: for want of another program they watch the pool.
func bareRun(t testing.TB, options []string, flags ...string) *harness.Container {
	t.Helper()
	harness.NeedDocker(t)
	harness.Binary(t)
	if err := importBare(); err != nil {
		t.Fatal(err)
	}
	command := append(append([]string{"/poolinit"}, flags...), "--", "/poolinit", "status", "--watch", "--json")
	return harness.RunContainerOf(t, bareName, options, command...)
}

// row is the line of a table that begins with a word.
func row(table, word string) []string {
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == word {
			return f
		}
	}
	return nil
}

// column is a field of a worker's line, by its head.
func column(t testing.TB, table, worker, head string) string {
	t.Helper()
	heads, cells := row(table, "WORKER"), row(table, worker)
	i := slices.Index(heads, head)
	if i < 0 || i >= len(cells) {
		t.Fatalf("no %s of worker %s in\n%s", head, worker, table)
	}
	return cells[i]
}
