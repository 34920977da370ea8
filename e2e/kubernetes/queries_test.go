package kubernetes

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
	"sigs.k8s.io/yaml"
)

// metricNames are those that poolinit has.
func metricNames(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("../../metrics/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"(poolinit_[a-z_]+)"`).FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	if len(names) < 20 {
		t.Fatalf("only %q", names)
	}
	return names
}

// checkQuery parses a query and looks for its metrics.
func checkQuery(t *testing.T, query string) {
	t.Helper()
	if _, err := metricsql.Parse(query); err != nil {
		t.Errorf("%q: %v", query, err)
	}
	names := metricNames(t)
	found := regexp.MustCompile(`poolinit_\w+`).FindAllString(query, -1)
	for _, name := range found {
		if !slices.Contains(names, name) {
			t.Errorf("%q: poolinit has no metric %s", query, name)
		}
	}
	if len(found) == 0 {
		t.Errorf("%q asks for nothing of poolinit", query)
	}
}

// The rules of prometheus-adapter's configuration, as far as they are used here.
type (
	adapterRules struct {
		Rules []adapterRule `json:"rules"`
	}
	adapterRule struct {
		SeriesQuery string `json:"seriesQuery"`
		Resources   struct {
			Overrides map[string]struct {
				Resource string `json:"resource"`
			} `json:"overrides"`
		} `json:"resources"`
		Name struct {
			Matches string `json:"matches"`
			As      string `json:"as"`
		} `json:"name"`
		MetricsQuery string `json:"metricsQuery"`
	}
)

// series is what the rule is about.
func (r *adapterRule) series() string {
	name, _, _ := strings.Cut(r.SeriesQuery, "{")
	return name
}

// offers is what the rule makes of it.
func (r *adapterRule) offers() string {
	if r.Name.As != "" {
		return r.Name.As
	}
	return r.series()
}

// query is what the adapter asks for the pods that match.
func (r *adapterRule) query(matchers string) string {
	return strings.NewReplacer("<<.Series>>", r.series(), "<<.LabelMatchers>>", matchers, "<<.GroupBy>>", "pod").Replace(r.MetricsQuery)
}

func loadAdapterRules(t *testing.T) (r adapterRules) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(manifests, "components/autoscale/adapter-rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// The autoscaler asks for metrics that the adapter's rules make of poolinit's.
func TestAdapterRules(t *testing.T) {
	offered := map[string]bool{}
	for _, rule := range loadAdapterRules(t).Rules {
		checkQuery(t, rule.SeriesQuery)
		query := rule.query(`namespace="poolinit",pod=~"poolinit-1|poolinit-2"`)
		if strings.Contains(query, "<<") {
			t.Errorf("%q is not all of it", query)
		}
		checkQuery(t, query)
		if name := rule.Name; name.As != "" && !regexp.MustCompile(name.Matches).MatchString(rule.series()) {
			t.Errorf("%s is not matched by %s", rule.series(), name.Matches)
		}
		offered[rule.offers()] = true
		if o := rule.Resources.Overrides; o["namespace"].Resource != "namespace" || o["pod"].Resource != "pod" {
			t.Errorf("%s: %v", rule.offers(), o)
		}
	}
	for _, metric := range render(t, choice{on: "base", components: []string{"autoscale"}}).autoscale[0].Spec.Metrics {
		if name := metric.Pods.Metric.Name; !offered[name] {
			t.Errorf("no rule makes %s", name)
		}
	}
}

// KEDA's queries are of that namespace, and its URL is that of the Service and of
// the pods' port.
func TestTriggers(t *testing.T) {
	for _, component := range []string{"keda", "keda-direct"} {
		s := render(t, choice{on: "overlays/rollout", components: []string{component}})
		name := s.namespaces[0].Name
		for _, tr := range s.scaled[0].Spec.Triggers {
			switch tr.Type {
			case "prometheus":
				query := tr.Metadata["query"]
				checkQuery(t, query)
				if n := strings.Count(query, `namespace="`+name+`"`); n != strings.Count(query, "poolinit_") {
					t.Errorf("%q is not of the namespace %s", query, name)
				}
			case "metrics-api":
				u, err := url.Parse(tr.Metadata["url"])
				if err != nil {
					t.Fatal(err)
				}
				service, rest, _ := strings.Cut(u.Hostname(), ".")
				if space, _, _ := strings.Cut(rest, "."); s.service(service) == nil || space != name || u.Path != "/queue.json" {
					t.Errorf("%s: service %q, namespace %q", u, service, space)
				}
				c, n := s.workloads[0].container(s.service(service).Spec.Ports[0].TargetPort)
				if u.Port() != strings.TrimPrefix(s.settingsOf(t, c)["http"], ":") || n == 0 {
					t.Errorf("%s: not the pods' port", u)
				}
			}
		}
	}
}
