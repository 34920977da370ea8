// Package kubernetes holds deploy/kubernetes to what it says. The manifests are
// rendered as kubectl does and decoded by the types of the API itself, and what one
// of them assumes of another, or of poolinit's flags, is looked at.
//
// With the build tag k8s there are tests in a real cluster, too: make e2e-k8s.
package kubernetes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// manifests is where they are.
const manifests = "../../deploy/kubernetes"

// A workload is what makes pods.
type workload struct {
	kind, name string
	replicas   *int32 // nil: somebody else's to say
	selector   map[string]string
	service    string // a StatefulSet's
	rollout    *appsv1.RollingUpdateDeployment
	template   corev1.PodTemplateSpec
	claims     []string // a StatefulSet's volumes
}

// A set is what a kustomization renders to, by kind.
type set struct {
	name       string
	text       []byte
	workloads  []workload
	configs    []*corev1.ConfigMap
	services   []*corev1.Service
	budgets    []*policyv1.PodDisruptionBudget
	policies   []*networkingv1.NetworkPolicy
	autoscale  []*autoscalingv2.HorizontalPodAutoscaler
	scaled     []*scaledObject
	monitors   []*monitoringv1.PodMonitor
	namespaces []*corev1.Namespace
}

// A choice is a directory of overlays (or base) with components.
type choice struct {
	on         string
	components []string
	more       string // further lines of a kustomization.yaml
}

func (c choice) String() string { return strings.Join(append([]string{c.on}, c.components...), "+") }

// choices are what is there, alone and together.
func choices(t *testing.T) (list []choice) {
	t.Helper()
	on := []string{"base"}
	for _, overlay := range entries(t, "overlays") {
		on = append(on, "overlays/"+overlay)
	}
	for _, o := range on {
		list = append(list, choice{on: o})
		for _, component := range entries(t, "components") {
			// What patches the Deployment finds none there.
			if o == "overlays/spool" && component != "prometheus-operator" {
				continue
			}
			list = append(list, choice{on: o, components: []string{component}})
		}
		if o != "overlays/spool" {
			list = append(list, choice{on: o, components: []string{"prometheus-operator", "autoscale", "exec-probes"}})
		}
	}
	return list
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(manifests, dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// rendered are those that were rendered before, by what they are of.
var rendered sync.Map

// kustomize renders a choice, once.
func kustomize(t *testing.T, c choice) []byte {
	t.Helper()
	key := c.String() + "\n" + c.more
	if text, ok := rendered.Load(key); ok {
		return text.([]byte)
	}
	text := kustomizeNow(t, c)
	rendered.Store(key, text)
	return text
}

// kustomizeNow writes a kustomization and renders it.
func kustomizeNow(t *testing.T, c choice) []byte {
	t.Helper()
	dir := t.TempDir()
	var text strings.Builder
	path := func(name string) string {
		root, err := filepath.Abs(manifests)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(dir, filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return rel
	}
	fmt.Fprintf(&text, "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [%s]\n", path(c.on))
	if len(c.components) > 0 {
		text.WriteString("components:\n")
	}
	for _, name := range c.components {
		fmt.Fprintf(&text, "  - %s\n", path("components/"+name))
	}
	text.WriteString(c.more)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	out, err := resources.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// strict decodes the types of the API, and nothing that they do not have.
var strict = sync.OnceValues(func() (runtime.Decoder, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, policyv1.AddToScheme, networkingv1.AddToScheme, autoscalingv2.AddToScheme,
		monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	options := serializer.SerializerOptions{Yaml: true, Strict: true}
	return serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, scheme, scheme, options), nil
})

// render renders and decodes a choice.
func render(t *testing.T, c choice) *set {
	t.Helper()
	s := &set{name: c.String(), text: kustomize(t, c)}
	decoder, err := strict()
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(s.text), "\n---\n") {
		if strings.Contains(document, "kind: ScaledObject\n") {
			s.scaled = append(s.scaled, decodeScaledObject(t, document))
			continue
		}
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", s.name, err, document)
		}
		s.add(t, object)
	}
	return s
}

func (s *set) add(t *testing.T, object runtime.Object) {
	t.Helper()
	switch o := object.(type) {
	case *appsv1.Deployment:
		s.workloads = append(s.workloads, workload{
			kind: "Deployment", name: o.Name, replicas: o.Spec.Replicas, selector: o.Spec.Selector.MatchLabels,
			rollout: o.Spec.Strategy.RollingUpdate, template: o.Spec.Template,
		})
	case *appsv1.StatefulSet:
		w := workload{
			kind: "StatefulSet", name: o.Name, replicas: o.Spec.Replicas, selector: o.Spec.Selector.MatchLabels,
			service: o.Spec.ServiceName, template: o.Spec.Template,
		}
		for _, claim := range o.Spec.VolumeClaimTemplates {
			w.claims = append(w.claims, claim.Name)
		}
		s.workloads = append(s.workloads, w)
	case *corev1.ConfigMap:
		s.configs = append(s.configs, o)
	case *corev1.Service:
		s.services = append(s.services, o)
	case *corev1.Namespace:
		s.namespaces = append(s.namespaces, o)
	case *policyv1.PodDisruptionBudget:
		s.budgets = append(s.budgets, o)
	case *networkingv1.NetworkPolicy:
		s.policies = append(s.policies, o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		s.autoscale = append(s.autoscale, o)
	case *monitoringv1.PodMonitor:
		s.monitors = append(s.monitors, o)
	default:
		t.Errorf("%s: nothing looks at a %T", s.name, object)
	}
}

// each runs a test with every choice.
func each(t *testing.T, test func(t *testing.T, s *set)) {
	t.Helper()
	for _, c := range choices(t) {
		t.Run(c.String(), func(t *testing.T) { test(t, render(t, c)) })
	}
}

// service returns the Service of that name, or nil.
func (s *set) service(name string) *corev1.Service {
	i := slices.IndexFunc(s.services, func(o *corev1.Service) bool { return o.Name == name })
	if i < 0 {
		return nil
	}
	return s.services[i]
}

// What only runs in a cluster compiles all the same.
func TestClusterTestsCompile(t *testing.T) {
	if out, err := exec.Command("go", "vet", "-tags", "k8s", ".").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
