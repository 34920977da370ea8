package metrics

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// A prometheus is a real one.
type prometheus struct {
	t    testing.TB
	base string
}

// startPrometheus starts one that scrapes the addresses and knows the rules. Its
// flags are those of the command line.
func startPrometheus(t testing.TB, targets []string, flags ...string) *prometheus {
	t.Helper()
	harness.Need(t, "prometheus")
	dir := t.TempDir()
	rules, err := filepath.Abs("../../deploy/prometheus/poolinit-rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{ // which is YAML, too
		"global":     map[string]any{"scrape_interval": "400ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
		"rule_files": []string{rules},
		"scrape_configs": []any{map[string]any{
			"job_name": "poolinit", "static_configs": []any{map[string]any{"targets": targets}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	file, addr := filepath.Join(dir, "prometheus.yml"), harness.FreePort(t)
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	p := harness.Start(t, harness.Program{Host: true, Args: append([]string{"prometheus", "--config.file", file, "--storage.tsdb.path", dir,
		"--web.listen-address", addr, "--log.level", "warn"}, flags...)})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("prometheus says:\n%s", p.Stderr.String())
		}
	})
	return &prometheus{t, "http://" + addr}
}

// A series is one of the answers to a query. The value of a native histogram is
// its count.
type series struct {
	Metric    map[string]string
	Value     [2]any
	Histogram [2]any
}

func (s series) number() float64 {
	text, _ := s.Value[1].(string)
	if h, ok := s.Histogram[1].(map[string]any); ok {
		text, _ = h["count"].(string)
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return math.NaN()
	}
	return n
}

// ask asks the API, and fills in what it answers.
func (p *prometheus) ask(path string, query url.Values, data any) error {
	text, err := harness.Get(http.DefaultClient, p.base+"/api/v1/"+path+"?"+query.Encode())
	if err != nil {
		return err
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return fmt.Errorf("%w: %.300s", err, text)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s", answer.Error)
	}
	return nil
}

// query returns what an expression tells now.
func (p *prometheus) query(expr string) ([]series, error) {
	var data struct{ Result []series }
	err := p.ask("query", url.Values{"query": {expr}}, &data)
	return data.Result, err
}

// expect waits until an expression tells what is wanted, and returns it.
func (p *prometheus) expect(expr string, wanted func([]series) bool) (found []series) {
	p.t.Helper()
	testkit.Eventually(p.t, expr, func() (any, bool) {
		var err error
		found, err = p.query(expr)
		return fmt.Sprint(found, err), err == nil && wanted(found)
	})
	return found
}

// expectValue waits until an expression is one number.
func (p *prometheus) expectValue(expr string, want float64) {
	p.t.Helper()
	p.expect(expr, func(list []series) bool { return len(list) == 1 && list[0].number() == want })
}

// hasData reports whether there is a number.
func hasData(list []series) bool {
	return slices.ContainsFunc(list, func(s series) bool { return !math.IsNaN(s.number()) })
}

// A rule is what Prometheus says about one.
type rule struct {
	Name, Query, Type, Health, LastError, State string
	Annotations                                 map[string]string
	Alerts                                      []struct{ Labels map[string]string }
}

// rules returns all of them, evaluated at least once.
func (p *prometheus) rules() (all []rule) {
	p.t.Helper()
	testkit.Eventually(p.t, "every rule has been evaluated", func() (any, bool) {
		var data struct{ Groups []struct{ Rules []rule } }
		err := p.ask("rules", nil, &data)
		all = nil
		for _, g := range data.Groups {
			all = append(all, g.Rules...)
		}
		fresh := slices.ContainsFunc(all, func(r rule) bool { return r.Health == "unknown" })
		return fmt.Sprint(all, err), err == nil && len(all) > 0 && !fresh
	})
	return all
}

// expectAlerts waits until these alerts are pending or firing, for these
// instances.
func (p *prometheus) expectAlerts(want map[string]string) {
	p.t.Helper()
	testkit.Eventually(p.t, "alerts", func() (any, bool) {
		active, missing := map[string]string{}, maps.Clone(want)
		for _, r := range p.rules() {
			for _, a := range r.Alerts {
				active[r.Name] += " " + a.Labels["instance"]
				if a.Labels["instance"] == want[r.Name] {
					delete(missing, r.Name)
				}
			}
		}
		return fmt.Sprintf("missing %v, active %v", missing, active), len(missing) == 0
	})
}
