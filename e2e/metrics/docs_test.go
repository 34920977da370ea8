package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// A dashboard is what matters here of Grafana's JSON.
type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Panels        []panel
	Templating    struct {
		List []struct {
			Name, Type, Definition string
			IncludeAll             bool
		}
	}
	Annotations struct {
		List []struct {
			Name, Expr string
			BuiltIn    int
			Datasource datasource
		}
	}
}

type datasource struct{ Type, UID string }

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               datasource
	GridPos                  struct{ X, Y, W, H int }
	Panels                   []panel
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct {
		RefID, Expr string
		Datasource  datasource
	}
}

func readDashboard(t testing.TB) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/poolinit.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// expressions returns every query of a dashboard, by where it is. Its variables are
// replaced by what they would be with all that there is.
func (d dashboard) expressions() map[string]string {
	filled := strings.NewReplacer(
		"$__rate_interval", "5m", "$__range", "5m", "$__interval", "5m", "[1m]", "[5m]", `"$job"`, `".+"`, `"$instance"`, `".+"`)
	all := map[string]string{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all[fmt.Sprintf("%s, %s (%d)", p.Title, target.RefID, p.ID)] = filled.Replace(target.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		if a.BuiltIn == 0 {
			all["annotation "+a.Name] = filled.Replace(a.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if m := labelValues.FindStringSubmatch(v.Definition); m != nil {
			all["variable "+v.Name] = filled.Replace(fmt.Sprintf("count by (%s) (%s)", m[2], m[1]))
		}
	}
	return all
}

var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

var ourMetric = regexp.MustCompile(`\bpoolinit_[a-z_]+`)

// Grafana shows what the dashboard says: panels have their place, a title, a
// unit and a source that can be chosen.
func TestMetricsDashboard(t *testing.T) {
	d := readDashboard(t)
	chosen := datasource{"prometheus", "${datasource}"}
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" || len(p.Panels) > 0 {
			t.Errorf("panel %d, %q", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 || p.GridPos.H == 0 {
			t.Errorf("%s is at %v", p.Title, p.GridPos)
		}
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if taken[at] != "" {
					t.Errorf("%s and %s overlap at %v", p.Title, taken[at], at)
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource != chosen || p.Description == "" || len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" && p.Type != "table" {
			t.Errorf("%s: %+v", p.Title, p)
		}
		for _, target := range p.Targets {
			if target.Datasource != chosen || !strings.Contains(target.Expr, `{job=~"$job", instance=~"$instance"`) {
				t.Errorf("%s: %s", p.Title, target.Expr)
			}
		}
	}
	for where, expr := range d.expressions() {
		if strings.Contains(expr, "$") {
			t.Errorf("%s has a variable that there is not: %s", where, expr)
		}
	}
	if d.UID != "poolinit" || d.SchemaVersion < 39 || len(d.Templating.List) != 3 || len(d.Annotations.List) != 4 {
		t.Errorf("%+v", d)
	}
}

// Whatever the dashboard, the rules and the Kubernetes files ask for, there is.
func TestMetricsAreAskedForByTheirNames(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"../../deploy/prometheus/poolinit-rules.yml", "../../deploy/prometheus/poolinit-rules_test.yml", "../../deploy/grafana/poolinit.json"}
	more, err := filepath.Glob("../../deploy/kubernetes/components/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "poolinit_utilization") { // what the adapter calls it
				continue
			}
			for _, name := range ourMetric.FindAllString(line, -1) {
				for _, suffix := range []string{"", "_bucket", "_p"} {
					if base, ok := strings.CutSuffix(name, suffix); ok && strings.Contains(string(doc), "`"+base+"`") {
						name = ""
						break
					}
				}
				recorded := strings.Contains(line, "instance:"+name)
				if name != "" && !recorded {
					t.Errorf("%s asks for %s, which docs/metrics.md does not have", file, name)
				}
			}
		}
	}
}

// Each alert has its paragraph in docs/operations.md, and no paragraph is without
// an alert.
func TestMetricsRunbooks(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(doc), "\n## Alerts\n")
	if !ok {
		t.Fatal("docs/operations.md has no section Alerts")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	headings := map[string]bool{}
	for part := range strings.SplitSeq(section, "\n### ") {
		name, text, _ := strings.Cut(part, "\n")
		headings[name] = len(strings.Fields(text)) > 30
	}
	rules, err := os.ReadFile("../../deploy/prometheus/poolinit-rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("../../deploy/prometheus/poolinit-rules_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	const runbook = "https://github.com/poolinit/poolinit/blob/main/docs/operations.md#"
	count := 0
	for part := range strings.SplitSeq(string(rules), "- alert: ") {
		name, text, _ := strings.Cut(part, "\n")
		if !strings.HasPrefix(name, "Poolinit") {
			continue
		}
		count++
		if !headings[name] {
			t.Errorf("docs/operations.md does not say what to do about %s", name)
		}
		if !strings.Contains(text, "runbook_url: "+runbook+strings.ToLower(name)+"\n") || !strings.Contains(text, "severity: ") {
			t.Errorf("%s has no runbook, or no severity", name)
		}
		if !strings.Contains(string(tests), "alertname: "+name+"\n") || !strings.Contains(string(tests), "alertname: "+name+",") && name != "PoolinitQueueFull" {
			t.Errorf("%s is not tested both ways", name)
		}
	}
	if count != len(headings)-1 { // what comes before the first
		t.Errorf("%d alerts, %d headings", count, len(headings)-1)
	}
}

// What promtool finds wrong with the files of deploy/prometheus: nothing.
func TestMetricsPromtool(t *testing.T) {
	harness.Need(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", "poolinit-rules.yml"},
		{"test", "rules", "poolinit-rules_test.yml"},
		{"check", "config", "prometheus.yml"},
	} {
		cmd := exec.Command("promtool", args...)
		cmd.Dir = "../../deploy/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %q: %v\n%s", args, err, out)
		}
	}
}
