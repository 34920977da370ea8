// Package messages has the tests of messages: sources, poolinit send, the spool, TLS, --deliver exec.
package messages

import (
	"os"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
