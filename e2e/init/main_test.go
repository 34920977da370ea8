// Package init_test has the tests of poolinit init, which is measured against tini.
package init_test

import (
	"os"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
