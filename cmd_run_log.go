package main

import (
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper"
)

func logStart(log zerolog.Logger, workers int, command []string) {
	log.Info().Str("version", buildVersion()).Int("pid", os.Getpid()).Int("workers", workers).
		Strs("command", command).Msg("poolinit starts")
}

// logEnd is the last line, however a pool ends: who finds none knows that
// poolinit was killed. A pool that has not logged its start has none either.
func logEnd(log zerolog.Logger, code, killed int, t ipc.Totals, began time.Time) {
	event := log.Info()
	if code != 0 || t.Lost > 0 {
		event = log.Warn()
	}
	event.Int("code", code).Msgf("stopped: handled %d, spooled %d, lost %d, killed %d, in %.1fs",
		t.Handled, t.Spooled, t.Lost, killed, time.Since(began).Seconds())
}

// endBefore is the whole log of a pool whose command can never run, and returns
// its exit code.
func endBefore(log zerolog.Logger, workers int, command []string, err error) int {
	code := reaper.ExitCode(err)
	logStart(log, workers, command)
	log.Error().Err(err).Msg("the command cannot be started")
	logEnd(log, code, 0, ipc.Totals{}, time.Now())
	return code
}
