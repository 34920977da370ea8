package daemon

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/reaper"
	"github.com/poolinit/poolinit/reaper/proc"
	"github.com/poolinit/poolinit/supervisor/output"
)

// logBuffer is how many bytes of log wait while nothing reads stderr. More than
// that is dropped and counted: a full pipe must not stop PID 1.
const logBuffer = 1 << 20

const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// newLogger returns the logger to stderr, and the sink that it writes to. Writing
// to that never blocks; it has to be closed last.
func newLogger(cfg LogConfig, stderr io.Writer) (zerolog.Logger, *output.Sink) {
	zerolog.TimeFieldFormat = timeLayout
	var dress func(io.Writer) io.Writer // what a record goes through
	if cfg.Format == "text" || cfg.Format == "auto" && cfg.Terminal {
		dress = func(w io.Writer) io.Writer {
			return zerolog.ConsoleWriter{Out: w, NoColor: !cfg.Terminal, TimeFormat: "15:04:05.000"}
		}
	} else {
		dress = func(w io.Writer) io.Writer { return w }
	}
	lost := func(n uint64) []byte {
		var line bytes.Buffer
		log := zerolog.New(dress(&line)).With().Timestamp().Logger()
		log.Warn().Uint64("lost", n).Msg("log lines lost: stderr was not read in time, or writing failed")
		return line.Bytes()
	}
	sink := output.NewSink(stderr, logBuffer, lost)
	return zerolog.New(dress(sink)).Level(logLevel(cfg.Level)).With().Timestamp().Logger(), sink
}

func logLevel(name string) zerolog.Level {
	level, err := zerolog.ParseLevel(name)
	if err != nil {
		return zerolog.InfoLevel // the flag's own parser knows only names that zerolog knows
	}
	return level
}

// logStart names the program only: its arguments may hold passwords.
func logStart(log zerolog.Logger, cfg *Config) {
	log.Info().Str("version", cfg.Version).Int("pid", os.Getpid()).Int("workers", cfg.Pool.Workers).
		Str("command", cfg.Command[0]).Int("arguments", len(cfg.Command)-1).Msg("starting poolinit")
	log.Debug().Strs("arguments", redacted(cfg.Command[1:])).Msg("arguments of the command")
	if shell := proc.ShellAbove(); shell != "" {
		log.Warn().Str("shell", shell).Msg("PID 1 is a shell, which does not forward signals: docker stop will not reach this pool")
	}
}

// An end is what the last line tells.
type end struct {
	code   int
	killed int        // workers
	left   []int      // the workers that survived SIGKILL
	totals ipc.Totals // of messages
	began  time.Time  // of the stop
}

func (e end) String() string {
	return fmt.Sprintf("stopped: handled %d, spooled %d, lost %d, killed %d, in %.1fs",
		e.totals.Handled, e.totals.Spooled, e.totals.Lost, e.killed, time.Since(e.began).Seconds())
}

// logEnd writes the last line, however a pool ends: if it is missing, poolinit was
// killed. A pool that has not logged its start does not log its end either.
func logEnd(log zerolog.Logger, e end) {
	event := log.Info()
	if e.code != 0 || e.totals.Lost > 0 {
		event = log.Warn()
	}
	switch {
	case len(e.left) > 0 && os.Getpid() == 1:
		event = event.Ints("left", e.left).Str("exit", "the kernel holds the exit of PID 1 until they are gone")
	case len(e.left) > 0:
		event = event.Ints("left", e.left)
	}
	event.Int("code", e.code).Msg(e.String())
}

// killedCode is the exit code of a stop that had to kill a worker.
const killedCode = 128 + int(syscall.SIGKILL)

// refuse is the whole log of a pool whose command can never run. It returns the
// exit code.
func refuse(log zerolog.Logger, cfg *Config, err error) int {
	code := reaper.ExitCode(err)
	logStart(log, cfg)
	log.Error().Err(err).Msg("cannot start the command")
	last := end{code: code, began: time.Now()}
	terminationLog{cfg.TerminationLog, log}.write(fmt.Sprintf("%v\ncannot start the command: %v", last, err), "")
	logEnd(log, last)
	return code
}
