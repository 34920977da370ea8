// Package pool has the tests of poolinit run: workers, restart, reload, stop, output.
package pool

import (
	"os"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
