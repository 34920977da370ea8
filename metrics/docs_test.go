package metrics

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// docs/metrics.md names every metric of poolinit's, with its type and its labels, and
// no other.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`poolinit_") {
			continue
		}
		name := strings.Trim(cells[1], " `")
		if documented[name] != "" {
			t.Errorf("%s is there twice", name)
		}
		var labels []string
		for label := range strings.SplitSeq(cells[3], ",") {
			if label = strings.Trim(label, " `"); label != "" {
				labels = append(labels, label)
			}
		}
		slices.Sort(labels)
		documented[name] = strings.TrimSpace(cells[2]) + " " + strings.Join(labels, ",")
		if strings.TrimSpace(cells[4]) == "" {
			t.Errorf("%s: the table does not say what it means", name)
		}
	}
	list, _, err := newGatherer(&newFake(1, "tcp://a:1").options, newReloadTime()).Gather()
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]string{}
	for _, f := range list {
		if !strings.HasPrefix(f.GetName(), "poolinit_") {
			continue
		}
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		exported[f.GetName()] = strings.ToLower(f.GetType().String()) + " " + strings.Join(labels, ",")
	}
	for _, name := range slices.Sorted(maps.Keys(exported)) {
		if documented[name] != exported[name] {
			t.Errorf("%s is a %s; docs/metrics.md says %q", name, exported[name], documented[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if exported[name] == "" {
			t.Errorf("docs/metrics.md has %s, which there is not", name)
		}
	}
}
