package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/poolinit/poolinit/cli"
	"github.com/poolinit/poolinit/internal/captured"
)

// The rules of the house, each as a test. docs/decisions.md and CONTRIBUTING.md
// say why they are there.

const modulePath = "github.com/poolinit/poolinit"

// mayImport says what each package may import beside the standard library. "."
// is main. What is not here yet is added together with the package; it is checked
// as soon as it exists. The order is cli, daemon, then supervisor, ipc and metrics,
// then reaper.
var mayImport = map[string][]string{
	".": {modulePath + "/cli", modulePath + "/supervisor/launch"},
	"cli": {modulePath + "/cli/...", modulePath + "/daemon", modulePath + "/ipc", modulePath + "/ipc/...", modulePath + "/metrics/...", modulePath + "/reaper", modulePath + "/reaper/entry", modulePath + "/reaper/signals", modulePath + "/reaper/tini",
		modulePath + "/supervisor", modulePath + "/supervisor/...", "golang.org/x/sys/unix"},
	"cli/flags":    {modulePath + "/reaper/proc", modulePath + "/reaper/signals", "github.com/spf13/pflag", "golang.org/x/sys/unix"},
	"cli/terminal": {"golang.org/x/sys/unix"},
	"cli/send":     {modulePath + "/cli/flags", modulePath + "/cli/terminal", modulePath + "/ipc", modulePath + "/ipc/dial", modulePath + "/ipc/sources", modulePath + "/ipc/sysv", modulePath + "/ipc/frame"},
	"daemon": {modulePath + "/reaper/...", modulePath + "/reaper", modulePath + "/supervisor/...", modulePath + "/supervisor",
		modulePath + "/ipc/...", modulePath + "/ipc", modulePath + "/metrics/...", modulePath + "/metrics", "github.com/rs/zerolog"},
	"reaper/entry":      {},
	"reaper/spawn":      {"golang.org/x/sys/unix"},
	"reaper/signals":    {modulePath + "/reaper/entry"},
	"reaper/ancillary":  {"golang.org/x/sys/unix"},
	"supervisor/notify": {modulePath + "/reaper/ancillary", "golang.org/x/sys/unix"},
	"reaper/proc":       {"golang.org/x/sys/unix"},
	"reaper/cgroup":     {"golang.org/x/sys/unix"},
	"reaper/awake":      {},
	"reaper":            {modulePath + "/reaper/entry", modulePath + "/reaper/proc", modulePath + "/reaper/spawn", "golang.org/x/sys/unix"},
	"supervisor/output": {modulePath + "/reaper", "golang.org/x/sys/unix", "github.com/rs/zerolog"},
	"supervisor":        {modulePath + "/ratelog", modulePath + "/reaper", modulePath + "/reaper/awake", modulePath + "/supervisor/notify", modulePath + "/reaper/signals", "github.com/rs/zerolog"},
	"supervisor/launch": {modulePath + "/reaper", modulePath + "/supervisor", modulePath + "/supervisor/notify", modulePath + "/supervisor/output",
		modulePath + "/ipc", modulePath + "/ipc/frame", modulePath + "/ipc/stream", "github.com/rs/zerolog", "golang.org/x/sys/unix"},
	"ipc/frame": {},                          // the modules worker and client carry copies of it
	"ipc/dial":  {modulePath + "/ipc/frame"}, // the module client carries a copy of it
	"ipc/netio": {modulePath + "/reaper/ancillary", "golang.org/x/sys/unix"},
	"ratelog":   {"github.com/rs/zerolog"},
	"ipc":       {modulePath + "/ratelog", modulePath + "/reaper/ancillary", modulePath + "/reaper/awake", modulePath + "/ipc/frame", modulePath + "/ipc/netio", "golang.org/x/sys/unix", "github.com/rs/zerolog"},
	"ipc/stream": {modulePath + "/reaper/ancillary", modulePath + "/ipc", modulePath + "/ipc/frame", modulePath + "/ipc/netio", modulePath + "/ratelog",
		"golang.org/x/sys/unix", "github.com/rs/zerolog"},
	"ipc/sysv":        {modulePath + "/ipc", modulePath + "/ipc/frame", modulePath + "/ratelog", "golang.org/x/sys/unix", "github.com/rs/zerolog"},
	"ipc/spool":       {modulePath + "/ipc", modulePath + "/ipc/frame", modulePath + "/ratelog", "golang.org/x/sys/unix", "github.com/rs/zerolog"},
	"ipc/sources":     {modulePath + "/ipc", modulePath + "/ipc/stream", modulePath + "/ipc/sysv", "github.com/rs/zerolog"},
	"metrics/status":  {modulePath + "/supervisor", modulePath + "/ipc", modulePath + "/reaper", modulePath + "/reaper/proc"},
	"metrics/control": {modulePath + "/reaper/ancillary", modulePath + "/metrics/status", modulePath + "/metrics/limit", modulePath + "/supervisor", modulePath + "/reaper/proc", "golang.org/x/sys/unix"},
	"metrics/limit":   {modulePath + "/reaper/ancillary", "golang.org/x/sys/unix"},
	"metrics":         {modulePath + "/metrics/status", modulePath + "/metrics/limit", modulePath + "/supervisor", modulePath + "/ipc", "github.com/prometheus/..."},
	"reaper/tini":     {modulePath + "/reaper", modulePath + "/reaper/signals", "golang.org/x/sys/unix"},
	// A program that uses one of these takes nothing else along. What is below their
	// internal/ is copies: modules_test.go.
	"worker": {modulePath + "/worker/internal/frame"},
	"client": {modulePath + "/client/internal/frame", modulePath + "/client/internal/dial"},
	// The feeders: a module of its own, which may require what brokers need.
	"feeders/secret": {},
	"feeders/link":   {modulePath + "/feeders/internal/frame", modulePath + "/feeders/secret", "golang.org/x/sys/unix"},
	"feeders/flow":   {modulePath + "/feeders/link"},
}

// notProduct are directories whose Go code is not part of the binary, nor
// meant to be imported.
var notProduct = []string{"e2e", "bench", "examples", "tools", "deploy", "bin", "internal", "ipc/ipctest", "reaper/ancillary/ancillarytest",
	"worker/examples", "worker/internal", "client/examples", "client/internal", "feeders/internal"}

// A goFile is a file of the product, without tests.
type goFile struct {
	path string // slash-separated, from the root of the repository
	dir  string // its package's
	*ast.File
}

// productFiles parses the product, once.
var productFiles = sync.OnceValues(func() ([]goFile, error) {
	var files []goFile
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(name, ".") || d.Name() == "testdata" || slices.Contains(notProduct, name)):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(fileSet, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		files = append(files, goFile{filepath.ToSlash(name), path.Dir(filepath.ToSlash(name)), f})
		return err
	})
	return files, err
})

var fileSet = token.NewFileSet()

func product(t *testing.T) []goFile {
	t.Helper()
	files, err := productFiles()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d files found", len(files))
	}
	return files
}

// position is where something is, for an error message.
func position(n ast.Node) string { return fileSet.Position(n.Pos()).String() }

func (f goFile) imports() (paths []string) {
	for _, spec := range f.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

func TestImportsGoOneWay(t *testing.T) {
	for _, f := range product(t) {
		allowed, ok := mayImport[f.dir]
		if !ok {
			t.Errorf("%s: package %s is not in mayImport: say what it may import", f.path, f.dir)
			continue
		}
		for _, p := range f.imports() {
			if strings.Contains(strings.Split(p, "/")[0], ".") && !slices.ContainsFunc(allowed, func(a string) bool { return matches(a, p) }) {
				t.Errorf("%s imports %s: package %s may not", f.path, p, f.dir)
			}
			if p == "os/exec" {
				t.Errorf("%s imports os/exec, whose Wait steals what belongs to the reaper", f.path)
			}
		}
	}
}

func matches(pattern, importPath string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(importPath, prefix)
	}
	return pattern == importPath
}

// Not even through others may the core reach what serves and counts.
func TestCoreDoesNotReachHTTP(t *testing.T) {
	for _, dir := range []string{"reaper", "reaper/signals", "reaper/proc", "reaper/cgroup", "reaper/tini", "supervisor", "supervisor/notify", "supervisor/output", "supervisor/launch", "ipc", "ipc/netio", "ipc/sources", "ipc/spool", "metrics/status", "metrics/control", "metrics/limit"} {
		if _, err := os.Stat(dir); err != nil {
			continue // not there yet
		}
		out, err := exec.Command("go", "list", "-deps", "./"+dir).Output()
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			if dep == "net/http" || dep == "os/exec" || strings.Contains(dep, "prometheus") || strings.Contains(dep, "spf13") {
				t.Errorf("%s reaches %s", dir, dep)
			}
		}
	}
}

func TestPackagesHaveNames(t *testing.T) {
	for _, f := range product(t) {
		for _, name := range []string{f.Name.Name, path.Base(f.dir)} {
			switch name {
			case "util", "utils", "common", "types", "pkg", "helpers", "misc":
				t.Errorf("%s: %q says nothing about what is in it", f.path, name)
			}
		}
	}
}

// panics are the only ones, with the reason.
var panics = map[string]string{
	"cli/flags/flags.go: Add": "a flag's own default is refused by its parser: TestDefaults runs it for every flag",
}

// A dead PID 1 kills the container: nothing ends it but main's last line.
func TestNothingEndsTheProcess(t *testing.T) {
	for _, f := range product(t) {
		for _, decl := range f.Decls {
			where := f.path
			if fn, ok := decl.(*ast.FuncDecl); ok {
				where += ": " + fn.Name.Name
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					switch name := types.ExprString(call.Fun); {
					case name == "panic" && panics[where] == "":
						t.Errorf("%s: panic in %s", position(n), where)
					case name == "os.Exit" && where != "main.go: main" && where != "reaper/tini/early.go: init", name == "syscall.Exit", name == "unix.Exit", name == "runtime.Goexit":
						t.Errorf("%s: %s", position(n), name)
					case fatal.MatchString(name):
						t.Errorf("%s: %s", position(n), name)
					}
				}
				return true
			})
		}
	}
}

var fatal = regexp.MustCompile(`\.(Fatal|Panic)(f|ln)?$`)

func TestMainEndsWithExit(t *testing.T) {
	for _, f := range product(t) {
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || f.path != "main.go" || fn.Name.Name != "main" {
				continue
			}
			last, ok := fn.Body.List[len(fn.Body.List)-1].(*ast.ExprStmt)
			if !ok || !strings.HasPrefix(types.ExprString(last.X), "os.Exit(") {
				t.Error("main's last line is not os.Exit")
			}
			return
		}
	}
	t.Error("no main")
}

// changed are variables of other packages that must be set once.
var changed = map[string]string{
	"daemon/log.go: zerolog.TimeFieldFormat": "zerolog has no other place for it; set before there is a logger",
}

// No package-level variable is assigned to by a function: what changes has an
// owner.
func TestPackageVariablesDoNotChange(t *testing.T) {
	packages := map[string][]*ast.File{}
	for _, f := range product(t) {
		packages[f.dir] = append(packages[f.dir], f.File)
	}
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
		// What it imports is not loaded: only this package's own names count.
		conf := types.Config{Importer: noImporter{}, Error: func(error) {}}
		pkg, _ := conf.Check(dir, fileSet, packages[dir], info) // fails, of course
		for _, file := range packages[dir] {
			ast.Inspect(file, func(n ast.Node) bool {
				for _, target := range assigned(n) {
					checkAssigned(t, pkg, info, target)
				}
				return true
			})
		}
	}
}

func checkAssigned(t *testing.T, pkg *types.Package, info *types.Info, target ast.Expr) {
	id := root(target)
	if id == nil {
		return
	}
	place := fileSet.Position(target.Pos())
	switch obj := info.Uses[id].(type) {
	case *types.Var:
		if obj.Parent() == pkg.Scope() {
			t.Errorf("%s: the package variable %s changes", place, id.Name)
		}
	case *types.PkgName:
		if name := types.ExprString(target); changed[filepath.ToSlash(place.Filename)+": "+name] == "" {
			t.Errorf("%s: another package's %s changes", place, name)
		}
	}
}

// assigned returns what a statement assigns to.
func assigned(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			return []ast.Expr{n.Key, n.Value}
		}
	}
	return nil
}

// root is a in a, a.b, a[i].b, *a.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

type noImporter struct{}

func (noImporter) Import(importPath string) (*types.Package, error) {
	return nil, fmt.Errorf("%s is not loaded", importPath)
}

// The sizes that let a reader keep one thing in sight.
func TestSizes(t *testing.T) {
	var lengths []int
	for _, f := range product(t) {
		if n := fileSet.File(f.Pos()).LineCount(); n > 500 {
			t.Errorf("%s has %d lines: more than 500", f.path, n)
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			n := fileSet.Position(fn.End()).Line - fileSet.Position(fn.Pos()).Line + 1
			lengths = append(lengths, n)
			if n > 80 {
				t.Errorf("%s: %s has %d lines: more than 80", position(fn), fn.Name.Name, n)
			}
		}
	}
	slices.Sort(lengths)
	median, p90 := lengths[len(lengths)/2], lengths[len(lengths)*9/10]
	if median > 12 || p90 > 40 {
		t.Errorf("functions: median %d lines, 90 %% under %d; at most 12 and 40", median, p90)
	}
}

// maxBinary is the budget, in bytes, of the stripped binary.
const maxBinary = 10_500_000

// builds are release builds for a few architectures, each made once.
var builds = map[string]func() (string, error){
	"amd64": sync.OnceValues(func() (string, error) { return release("amd64") }),
	"arm64": sync.OnceValues(func() (string, error) { return release("arm64") }),
}

// release builds as the Makefile does.
func release(arch string) (string, error) {
	name := filepath.Join(buildDir, "poolinit-"+arch)
	build := exec.Command("tools/build.sh", name)
	build.Env = append(os.Environ(), "VERSION=v0.0.0-test", "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return name, nil
}

func TestBinary(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		t.Run(arch, func(t *testing.T) {
			name, err := builds[arch]()
			if err != nil {
				t.Fatal(err)
			}
			f, err := elf.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Machine != machine {
				t.Errorf("built for %v", f.Machine)
			}
			for _, p := range f.Progs {
				if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
					t.Errorf("not static: has %v", p.Type)
				}
			}
			if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 {
				t.Errorf("libraries: %v %v", libs, err)
			}
			if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
				t.Error("not stripped")
			}
			fi, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if fi.Size() > maxBinary {
				t.Errorf("%d bytes: more than %d", fi.Size(), maxBinary)
			}
		})
	}
}

func reference(t *testing.T) string { return document(t, "docs/reference.md") }

func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Each message of the log is explained, for whom it wakes at night.
func TestEveryLogLineIsExplained(t *testing.T) {
	text, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range product(t) {
		ast.Inspect(f.File, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Msg", "Msgf", "warn", "Warn"}, sel.Sel.Name) || f.dir == "reaper/tini" { // whose words are tini's
				return true
			}
			if lit, ok := call.Args[0].(*ast.BasicLit); ok {
				message, _ := strconv.Unquote(lit.Value)
				message = verb.ReplaceAllString(message, "N")
				if !strings.Contains(string(text), "`"+message+"`") {
					t.Errorf("%s: docs/operations.md does not explain `%s`", position(n), message)
				}
			}
			return true
		})
	}
}

var verb = regexp.MustCompile(`%(\.\d)?[a-z]`)

// exitCodes are the rows of the reference's table of that name.
func exitCodes(t *testing.T) (codes []string) {
	t.Helper()
	_, table, ok := strings.Cut(reference(t), "\n## Exit codes\n")
	if !ok {
		t.Fatal("docs/reference.md has no section Exit codes")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			codes = append(codes, strings.TrimSpace(cells[1]))
		}
	}
	return codes[min(2, len(codes)):] // without the head
}

// The reference's table of exit codes has these rows, and they are true.
func TestExitCodes(t *testing.T) {
	binary, err := builds[runtime.GOARCH]()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	tests := []struct {
		row  string
		role string // of the worker
		args []string
		want int
	}{
		{"0", "exit 0", []string{"--restart", "never", self}, 0},
		{"0", "exit 0", []string{"--restart", "on-failure", self}, 0},
		{"0", "", []string{"version"}, 0},
		{"2", "", []string{"--workers", "0", self}, 2},
		{"126", "", []string{"/"}, 126},
		{"126", "", []string{"./go.mod"}, 126},
		{"127", "", []string{"./no-such-program"}, 127},
		{"127", "", []string{"no-such-program"}, 127},
		{"75", "holds " + socket, []string{"--deliver", "lines", "--listen", "unix://" + socket, "--stop-timeout", "50ms", self}, 75},
		{"137", "deaf", []string{"--stop-timeout", "50ms", self}, 137},
		{"the worker's", "exit 7", []string{"--restart", "never", self}, 7},
		{"the worker's", "die 15", []string{"--restart", "never", self}, 143},
		{"the worker's", "exit 3", []string{"--give-up", "2", "--restart-delay", "1ms", self}, 3},
		{"the worker's", "die 9", []string{"--give-up", "1", self}, 137},
	}
	var rows []string
	for _, tt := range tests {
		if len(rows) == 0 || rows[len(rows)-1] != tt.row {
			rows = append(rows, tt.row)
		}
		cmd := exec.Command(binary, tt.args...)
		cmd.Env = append(os.Environ(), "TEST_CHILD="+tt.role, "GORACE=atexit_sleep_ms=0")
		if got, out := exitCode(t, cmd, tt.want == 75 || tt.role == "deaf"); got != tt.want {
			t.Errorf("poolinit %q with %q: exit code %d, want %d\n%s", tt.args, tt.role, got, tt.want, out)
		}
	}
	if got := exitCodes(t); !slices.Equal(got, rows) {
		t.Errorf("docs/reference.md has the rows %q, tested are %q", got, rows)
	}
}

// exitCode runs a program to its end, which it is asked for, if stop says so,
// when it has written a line.
func exitCode(t *testing.T, cmd *exec.Cmd, stop bool) (code int, output string) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if stop {
		if _, err := stdout.Read(make([]byte, 1)); err != nil {
			t.Errorf("the worker wrote nothing: %v", err)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
	}
	_ = cmd.Wait() // the code is what counts
	return cmd.ProcessState.ExitCode(), stderr.String()
}

// An init is done before the packages are initialised that only a pool needs: see
// reaper/tini/early.go.
func TestInitIsEarly(t *testing.T) {
	binary, err := builds[runtime.GOARCH]()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "tini")
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		command []string
		all     bool
	}{
		{[]string{binary, "version"}, true}, // else the words below are not those of the trace
		{[]string{binary, "init", "--", "true"}, false},
		{[]string{link, "-g", "true"}, false},
	} {
		cmd := exec.Command(tt.command[0], tt.command[1:]...)
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		trace, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", tt.command, err, trace)
		}
		// TERM is asked for before all that can wait.
		early, _, ok := strings.Cut(string(trace), "init "+modulePath+"/reaper/signals @")
		for _, later := range []string{"fmt", "bufio", "crypto/internal/fips140", "google.golang.org/protobuf/internal/detrand"} {
			if !ok || strings.Contains(early, "init "+later+" @") {
				t.Errorf("%v initialises %s before signals", tt.command[1:], later)
			}
		}
		for _, late := range []string{"github.com/prometheus/client_golang/prometheus", "net/http", "github.com/rs/zerolog", modulePath + "/ipc"} {
			if got := strings.Contains(string(trace), "init "+late+" @"); got != tt.all {
				t.Errorf("%v initialises %s: %v", tt.command[1:], late, got)
			}
		}
	}
}

// --help needs no pool, and the binary prints the help of package cli, whose tests
// compare it with the documents.
func TestBinaryHelp(t *testing.T) {
	binary, err := builds[runtime.GOARCH]()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := captured.Run(t, func() int { return cli.Main([]string{"poolinit", "help"}, cli.About{}) })
	if string(out) != want {
		t.Errorf("%q, want %q", out, want)
	}
}
