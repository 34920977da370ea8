package kubernetes

import (
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// A scaledObject is KEDA's, as far as it is used here: its own Go types bring half
// of Kubernetes along. The cluster's tests hold the manifests to KEDA's own CRD.
type scaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ScaleTargetRef struct {
			Kind string `json:"kind,omitempty"` // Deployment
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
		PollingInterval *int32 `json:"pollingInterval"`
		MinReplicaCount *int32 `json:"minReplicaCount"`
		MaxReplicaCount *int32 `json:"maxReplicaCount"`
		Advanced        struct {
			HorizontalPodAutoscalerConfig struct {
				Behavior autoscalingv2.HorizontalPodAutoscalerBehavior `json:"behavior"`
			} `json:"horizontalPodAutoscalerConfig"`
		} `json:"advanced"`
		Triggers []trigger `json:"triggers"`
	} `json:"spec"`
}

type trigger struct {
	Type       string                         `json:"type"`
	MetricType autoscalingv2.MetricTargetType `json:"metricType"`
	Metadata   map[string]string              `json:"metadata"`
}

// parameters are those of the scalers in KEDA's documentation, with those that
// must be there.
var parameters = map[string]map[string]bool{
	"prometheus": {"serverAddress": true, "query": true, "threshold": true, "activationThreshold": false, "ignoreNullValues": false},
	"metrics-api": {
		"url": true, "valueLocation": true, "targetValue": true, "format": false,
		"aggregateFromKubeServiceEndpoints": false, "aggregationType": false,
	},
}

func decodeScaledObject(t *testing.T, document string) *scaledObject {
	t.Helper()
	text, err := yaml.YAMLToJSONStrict([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	o := new(scaledObject)
	unknown, err := json.UnmarshalStrict(text, o)
	if err != nil || len(unknown) > 0 {
		t.Fatalf("%v %v\n%s", err, unknown, document)
	}
	if o.APIVersion != "keda.sh/v1alpha1" {
		t.Errorf("%s: apiVersion %s", o.Name, o.APIVersion)
	}
	for _, tr := range o.Spec.Triggers {
		known := parameters[tr.Type]
		for name := range tr.Metadata {
			if _, ok := known[name]; !ok {
				t.Errorf("a trigger %s has no parameter %s", tr.Type, name)
			}
		}
		for name, must := range known {
			if must && tr.Metadata[name] == "" {
				t.Errorf("a trigger %s has no %s", tr.Type, name)
			}
		}
	}
	return o
}
