// Package sdk has the tests of the SDKs, each with its own interpreter.
package sdk

import (
	"os"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
