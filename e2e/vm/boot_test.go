package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// machineTime is how long the machine may run. It takes less than half a minute on
// a machine that does nothing else.
const machineTime = 5 * time.Minute

// boot runs the machine to its end, and judges what it has printed.
func boot(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the machine is an amd64 one") // no lack
	}
	harness.Need(t, "qemu-system-x86_64", "busybox")
	kernel := filepath.Join("..", "..", "bin", "vm", "vmlinuz")
	if _, err := os.Stat(kernel); err != nil {
		strict.Skip(t, "no kernel (tools/vm-kernel.sh bin/vm gets one): %v", err)
	}
	dir := t.TempDir()
	initrd, results := filepath.Join(dir, "initrd"), filepath.Join(dir, "results")
	writeInitrd(t, initrd, filepath.Dir(kernel))
	args := []string{"-nodefaults", "-display", "none", "-no-reboot", "-m", "384", "-smp", "4", "-accel", "tcg,thread=multi",
		"-serial", "stdio", "-serial", "file:" + results, "-kernel", kernel, "-initrd", initrd, "-append",
		"console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off E2E_RUN=" + flag.Lookup("test.run").Value.String()}
	ctx, cancel := context.WithTimeout(t.Context(), machineTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	start := time.Now()
	err := cmd.Run()
	if err != nil {
		err = errors.Join(err, ctx.Err())
		t.Errorf("qemu: %v", err)
	}
	t.Logf("the machine ran for %v", time.Since(start).Round(time.Second))
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	judge(t, strings.ReplaceAll(console.String(), "\r", ""), strings.ReplaceAll(string(text), "\r", ""))
}

var (
	verdict = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): Test/(\w+) \(([0-9.]+)s\)$`)
	section = regexp.MustCompile(`(?m)^=== (RUN|CONT|NAME)  +Test/(\w+)$`)
)

// judge makes each check of the machine a subtest, and then looks at how its init ended.
func judge(t *testing.T, console, results string) {
	found := make(map[string][]string)
	for _, m := range verdict.FindAllStringSubmatch(results, -1) {
		found[m[2]] = m
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			m := found[c.name]
			switch {
			case m == nil:
				t.Errorf("the check has not ended:\n%s", sectionOf(results, c.name))
			case m[1] == "SKIP":
				strict.Skip(t, "%s", sectionOf(results, c.name))
			case m[1] == "FAIL":
				t.Error(sectionOf(results, c.name))
			default:
				t.Logf("%ss in the machine", m[3])
			}
		})
	}
	// The kernel panics when its init ends. The code is the one that poolinit exits with.
	for _, words := range []string{`stopped: handled 0, spooled 0, lost 0, killed 0, in `, "Attempted to kill init! exitcode=0x00000000"} {
		if !strings.Contains(console, words) {
			t.Errorf("no %q on the console", words)
		}
	}
	if t.Failed() {
		t.Logf("the console:\n%s", tail(console))
	}
}

// sectionOf returns what a check has printed.
func sectionOf(results, name string) string {
	marks := section.FindAllStringSubmatchIndex(results, -1)
	for i, m := range marks {
		if results[m[4]:m[5]] == name {
			end := len(results)
			if i+1 < len(marks) {
				end = marks[i+1][0]
			}
			return results[m[0]:end]
		}
	}
	return results
}

// tail returns the end of the console, without the registers that a panic prints.
func tail(console string) string {
	if before, _, found := strings.Cut(console, "Call Trace:"); found {
		console = before
	}
	return console[max(0, len(console)-6000):]
}

// writeInitrd writes the machine's root file system.
func writeInitrd(t *testing.T, path, kernel string) {
	guest := filepath.Join(filepath.Dir(path), "guest")
	build := exec.Command("go", "test", "-c", "-o", guest, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the machine's tests: %v\n%s", err, out)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	if f, err := elf.Open(busybox); err != nil {
		t.Fatal(err)
	} else if libraries, _ := f.ImportedLibraries(); len(libraries) > 0 {
		strict.Skip(t, "busybox is not static: it needs %v", libraries)
	}
	var a archive
	for _, dir := range []string{"bin", "dev", "proc", "sys", "tmp", "etc"} {
		a.add(dir, 0o040755, nil)
	}
	a.add("etc/passwd", 0o100644, []byte("root:x:0:0:root:/:/bin/sh\n"))
	a.add("init", 0o100755, read(t, guest))
	a.add("poolinit", 0o100755, read(t, harness.Binary(t)))
	a.add("bin/busybox", 0o100755, read(t, busybox))
	for _, name := range []string{"sh", "sleep", "cat", "nsenter", "mke2fs", "losetup"} {
		a.add("bin/"+name, 0o120777, []byte("busybox"))
	}
	a.add("loop.ko", 0o100644, read(t, filepath.Join(kernel, "loop.ko")))
	if err := os.WriteFile(path, a.end(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// An archive is what the kernel unpacks into its first file system: cpio's format
// "newc". Everything in it belongs to root.
type archive struct {
	out bytes.Buffer
	ino int
}

// add adds a file, a directory or a symbolic link: the mode says which.
func (a *archive) add(name string, mode int, content []byte) {
	a.ino++
	fmt.Fprintf(&a.out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.ino, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	a.out.WriteString(name + "\x00")
	a.pad()
	a.out.Write(content)
	a.pad()
}

func (a *archive) pad() { a.out.Write(make([]byte, -a.out.Len()&3)) }

func (a *archive) end() []byte {
	a.add("TRAILER!!!", 0, nil)
	return a.out.Bytes()
}
