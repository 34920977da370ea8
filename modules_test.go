package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// The modules worker and client: a program that uses one of them takes nothing
// else along, and needs no later Go than theirs.

// moduleDirs are where they are.
var moduleDirs = []string{"worker", "client"}

// The copies of ipc/frame and ipc/dial that worker and client carry are what
// tools/modules.sh makes of the originals.
func TestModulesCarryCopies(t *testing.T) {
	want := t.TempDir()
	if out, err := exec.Command("tools/modules.sh", want).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, dir := range []string{"worker/internal/frame", "client/internal/frame", "client/internal/dial",
		"feeders/internal/frame", "feeders/internal/strict"} {
		made, here := files(t, filepath.Join(want, dir)), files(t, dir)
		for name := range here {
			if _, ok := made[name]; !ok {
				t.Errorf("%s/%s is not a copy of anything: run tools/modules.sh", dir, name)
			}
		}
		for name, text := range made {
			if !bytes.Equal(text, here[name]) {
				t.Errorf("%s/%s differs from its original: change that, and run tools/modules.sh", dir, name)
			}
		}
		if len(made) == 0 {
			t.Errorf("tools/modules.sh makes no %s", dir)
		}
	}
}

// files returns all files below a directory, by their names in it.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name) // name is below it
		found[rel] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// modulesGo is the version of Go that both modules name.
const modulesGo = 24 // 1.24

func TestModulesRequireNothing(t *testing.T) {
	for _, dir := range moduleDirs {
		want := fmt.Sprintf("module %s/%s\n\ngo 1.%d\n", modulePath, dir, modulesGo)
		if got := document(t, dir+"/go.mod"); got != want {
			t.Errorf("%s/go.mod is\n%s\nwant\n%s", dir, got, want)
		}
	}
}

// The root module requires neither of them: a replace, or a version that is not
// published, would break go install of poolinit.
func TestRootImportsNoModule(t *testing.T) {
	text := document(t, "go.mod")
	for _, dir := range moduleDirs {
		if strings.Contains(text, modulePath+"/"+dir) {
			t.Errorf("go.mod names %s/%s", modulePath, dir)
		}
	}
	if strings.Contains(text, "replace") {
		t.Error("go.mod has a replace, with which go install does not work")
	}
}

// The Go line keeps the compiler from a later language, but not from a later
// standard library: $GOROOT/api says what each version has added.
func TestModulesNeedNoLaterGo(t *testing.T) {
	later := laterAPI(t)
	if !later["pkg sync, method (*WaitGroup) Go"] {
		t.Fatal("sync.WaitGroup.Go is not known to be of Go 1.25")
	}
	fset := token.NewFileSet()
	conf := types.Config{Importer: compiled(t, fset), Error: func(error) {}}
	for _, dir := range []string{"ipc/frame", "ipc/dial", "worker", "worker/examples/echo", "worker/examples/worker-go", "client", "client/examples/ask"} {
		info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
		pkg, _ := conf.Check(dir, fset, parsed(t, fset, dir), info) // our own packages are not found, and not looked at
		if pkg == nil || len(info.Uses) == 0 {
			t.Errorf("%s: nothing was looked at", dir)
		}
		for id, obj := range info.Uses {
			if name := apiName(obj); later[name] {
				t.Errorf("%s: %s is not in Go 1.%d", fset.Position(id.Pos()), name, modulesGo)
			}
		}
	}
}

// compiled imports those packages of the standard library that poolinit has. The
// modules have no others.
func compiled(t *testing.T, fset *token.FileSet) types.Importer {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-export", "-f", "{{if .Standard}}{{.ImportPath}} {{.Export}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[path] = file
	}
	return importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("%s is not of the standard library", path)
		}
		return os.Open(exports[path])
	})
}

// parsed returns the files of a package without its tests, for Linux.
func parsed(t *testing.T, fset *token.FileSet, dir string) (list []*ast.File) {
	t.Helper()
	for name, text := range files(t, dir) {
		if strings.Contains(name, "/") || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, "_other.go") {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(dir, name), text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
	return list
}

// apiLine is a line of $GOROOT/api: functions, methods, types, constants and
// variables. What a type has got that was there before is not looked at.
var apiLine = regexp.MustCompile(`^(pkg [\w/]+)(?: \([\w-]+\))?, (func \w+|method \([\w*]+\) \w+|(?:type|const|var) \w+)`)

// member is in the line of a field, or of an interface's method.
var member = regexp.MustCompile(`, type \w+ (struct|interface),`)

// laterAPI returns the names that versions of Go after modulesGo have added.
func laterAPI(t *testing.T) map[string]bool {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for version := modulesGo + 1; ; version++ {
		text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "api", fmt.Sprintf("go1.%d.txt", version)))
		if err != nil && version == modulesGo+1 {
			strict.Skip(t, "this Go came without its list of what is new: %v", err)
		}
		if err != nil {
			return names
		}
		for line := range strings.Lines(string(text)) {
			m := apiLine.FindStringSubmatch(line)
			if m != nil && !member.MatchString(line) {
				names[m[1]+", "+m[2]] = true
			}
		}
	}
}

// apiName is what $GOROOT/api calls an object, or "".
func apiName(obj types.Object) string {
	if obj.Pkg() == nil {
		return ""
	}
	prefix := "pkg " + obj.Pkg().Path() + ", "
	switch obj := obj.(type) {
	case *types.Func:
		recv := obj.Signature().Recv()
		if recv == nil {
			return prefix + "func " + obj.Name()
		}
		return prefix + "method (" + types.TypeString(recv.Type(), func(*types.Package) string { return "" }) + ") " + obj.Name()
	case *types.TypeName:
		return prefix + "type " + obj.Name()
	case *types.Const:
		return prefix + "const " + obj.Name()
	case *types.Var:
		return prefix + "var " + obj.Name()
	}
	return ""
}

// A program with old dependencies keeps them when it starts to use the modules.
func TestModulesRaiseNothing(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) ([]byte, error) {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		return cmd.CombinedOutput()
	}
	const imports = "package main\n\nimport (\n\t_ \"github.com/prometheus/client_golang/prometheus\"\n\t_ \"golang.org/x/sys/unix\"\n%s)\n\nfunc main() {}\n"
	mod := fmt.Sprintf("module example.com/old\n\ngo 1.%d\n\nrequire (\n\tgithub.com/prometheus/client_golang v1.19.0\n\tgolang.org/x/sys v0.18.0\n)\n", modulesGo)
	var ours []string
	imported := ""
	for _, name := range moduleDirs {
		here, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		mod += fmt.Sprintf("\nreplace %s/%s v0.1.0 => %s\n", modulePath, name, here)
		ours = append(ours, modulePath+"/"+name+"@v0.1.0")
		imported += fmt.Sprintf("\t_ \"%s/%s\"\n", modulePath, name)
	}
	write("go.mod", mod)
	write("main.go", fmt.Sprintf(imports, ""))
	if out, err := run("list", "-deps", "."); err != nil {
		strict.Skip(t, "old versions of modules are not to be had: %v\n%s", err, out)
	}
	before := document(t, filepath.Join(dir, "go.mod"))
	write("main.go", fmt.Sprintf(imports, imported))
	for _, args := range [][]string{append([]string{"get"}, ours...), {"list", "-deps", "."}, {"vet", modulePath + "/worker", modulePath + "/client"}} {
		if out, err := run(args...); err != nil {
			t.Fatalf("go %s: %v\n%s", args[0], err, out)
		}
	}
	rest := strings.Fields(regexp.MustCompile(`(?m)^.*poolinit/(worker|client) v0\.1\.0( // indirect)?$`).ReplaceAllString(document(t, filepath.Join(dir, "go.mod")), ""))
	if got, want := strings.Join(rest, " "), strings.Join(strings.Fields(before), " "); !strings.Contains(before, "client_model v0.5.0") || !sameRequirements(got, want) {
		t.Errorf("go.mod was\n%s\nand is, without the two,\n%s", want, got)
	}
}

// sameRequirements compares two texts of a go.mod but for its empty blocks.
func sameRequirements(a, b string) bool {
	empty := strings.NewReplacer("require ( )", "", " ", "")
	return empty.Replace(a) == empty.Replace(b)
}

// go.work changes no version of what is in the binary.
func TestWorkspaceRaisesNothing(t *testing.T) {
	if _, err := os.Stat("go.work"); err != nil {
		t.Fatal(err)
	}
	list := func(workspace string) string {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}", ".")
		cmd.Env = append(os.Environ(), "GOWORK="+workspace, "GOARCH="+runtime.GOARCH)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if with, without := list("auto"), list("off"); with != without || !strings.Contains(with, "github.com/rs/zerolog v") {
		t.Errorf("with go.work the binary has\n%s\nand without it\n%s", with, without)
	}
}
