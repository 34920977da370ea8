// Package strict is the old path of internal/testkit/strict. It is here until the
// last test has moved on.
package strict

import (
	"testing"

	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// Skip is strict.Skip of the testkit.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	strict.Skip(t, format, args...)
}
