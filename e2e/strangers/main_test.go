// Package strangers has the tests of what other users, other namespaces and workers
// may do to a pool: SECURITY.md names them.
package strangers

import (
	"os"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
