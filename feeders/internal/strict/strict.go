// Package strict lets tests skip what a machine lacks, but not in CI.
package strict

import (
	"os"
	"testing"
)

// On is whether nothing may be skipped: POOLINIT_E2E=strict, which CI sets.
var On = os.Getenv("POOLINIT_E2E") == "strict"

// Skip says why a test cannot run here. If On that is a failure: in CI nothing may be
// missing without a word. Like t.Skipf it does not return.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if On {
		t.Fatalf("POOLINIT_E2E=strict: "+format, args...)
	}
	t.Skipf(format, args...)
}
