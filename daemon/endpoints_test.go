package daemon

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
)

// The names that signals are counted by are there from the start, before any came.
func TestCountSignals(t *testing.T) {
	got := slices.Sorted(maps.Keys(countSignals(Signals{}.orDefault())))
	want := []string{"SIGHUP", "SIGINT", "SIGQUIT", "SIGRTMIN+3", "SIGTERM", "SIGUSR1", "other"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// What anybody can cause fills no log.
func TestComplaintsAreFew(t *testing.T) {
	var text bytes.Buffer
	complain := sometimes(testLogger(&text))
	for range 1000 {
		complain.Warn().Msg("control socket: access denied")
	}
	if n := strings.Count(text.String(), "\n"); n != 1 {
		t.Errorf("%d lines", n)
	}
}
