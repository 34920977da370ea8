// Package image has the tests of the images and of the release.
package image

import (
	"os"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
