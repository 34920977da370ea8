// Package metrics has the tests of metrics, with a real Prometheus.
package metrics

import (
	"os"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
