package daemon

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func testLogger(w io.Writer) zerolog.Logger { return zerolog.New(w) }

// logged returns what a logger of that format and level writes.
func logged(t *testing.T, format, level string) string {
	t.Helper()
	var text bytes.Buffer
	log, sink := newLogger(LogConfig{Format: format, Level: level}, &text)
	log.Debug().Msg("a debug line")
	log.Info().Int("worker", 3).Msg("an info line")
	log.Warn().Msg("a warn line")
	log.Error().Msg("an error line")
	if err := sink.Close(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestLogFormats(t *testing.T) {
	for line := range strings.Lines(logged(t, "json", "debug")) {
		var record struct{ Level, Time, Message string }
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		if _, err := time.Parse(timeLayout, record.Time); err != nil || record.Message != "a "+record.Level+" line" && record.Message != "an "+record.Level+" line" {
			t.Errorf("%q: %v", line, err)
		}
	}
	text := logged(t, "text", "debug")
	if !strings.Contains(text, "an info line worker=3\n") || strings.Contains(text, "{") {
		t.Errorf("text: %q", text)
	}
}

func TestLogLevels(t *testing.T) {
	for level, lines := range map[string]int{"debug": 4, "info": 3, "warn": 2, "error": 1} {
		if got := strings.Count(logged(t, "json", level), "\n"); got != lines {
			t.Errorf("%s: %d lines, want %d", level, got, lines)
		}
	}
}

// A stuckWriter takes nothing until it is let go.
type stuckWriter struct {
	stuck chan struct{} // 1: a Write has begun
	free  chan struct{}
	mu    sync.Mutex
	text  bytes.Buffer
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	select {
	case w.stuck <- struct{}{}:
	default:
	}
	<-w.free
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

// With a stderr that nobody reads the log drops lines and says so later; it
// never blocks who logs.
func TestLogNeverBlocks(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		w := &stuckWriter{stuck: make(chan struct{}, 1), free: make(chan struct{})}
		log, sink := newLogger(LogConfig{Format: format, Level: "info"}, w)
		long := strings.Repeat("x", 1000)
		log.Info().Msg("the first line")
		<-w.stuck // else the sink may look after some of those below were dropped, and tell of them twice
		for range 2 * logBuffer / len(long) {
			log.Info().Msg(long)
		}
		if sink.Lost() == 0 {
			t.Error("nothing was dropped")
		}
		close(w.free)
		if err := sink.Close(30 * time.Second); err != nil {
			t.Fatal(err)
		}
		if text := w.text.String(); strings.Count(text, "log lines lost") != 1 || len(text) > 2*logBuffer {
			t.Errorf("%s: %d bytes, %d notices", format, len(text), strings.Count(text, "log lines lost"))
		}
	}
}
