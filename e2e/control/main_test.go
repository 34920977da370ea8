// Package control has the tests of what a user asks a running pool: status, reload, stop, health.
package control

import (
	"os"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
