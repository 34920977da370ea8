package main

import (
	"bytes"
	"io"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/supervisor/output"
)

// logBuffer is how many bytes of log wait for a stderr that nobody reads. What
// comes then is dropped and counted: a full pipe must not stop PID 1.
const logBuffer = 1 << 20

const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// newLogger returns the logger to stderr, and what it writes to without ever
// blocking, which is to be closed last.
func newLogger(o *options, stderr io.Writer) (zerolog.Logger, *output.Sink) {
	zerolog.TimeFieldFormat = timeLayout
	var dress func(io.Writer) io.Writer // what a record goes through
	tty := isTerminal(2)
	if o.logFormat == "text" || o.logFormat == "auto" && tty {
		dress = func(w io.Writer) io.Writer {
			return zerolog.ConsoleWriter{Out: w, NoColor: !tty, TimeFormat: "15:04:05.000"}
		}
	} else {
		dress = func(w io.Writer) io.Writer { return w }
	}
	lost := func(n uint64) []byte {
		var line bytes.Buffer
		log := zerolog.New(dress(&line)).With().Timestamp().Logger()
		log.Warn().Uint64("lost", n).Msg("log lines lost: nobody read them in time, or writing them failed")
		return line.Bytes()
	}
	sink := output.NewSink(stderr, logBuffer, lost)
	return zerolog.New(dress(sink)).Level(logLevel(o.logLevel)).With().Timestamp().Logger(), sink
}

func logLevel(name string) zerolog.Level {
	level, err := zerolog.ParseLevel(name)
	if err != nil {
		return zerolog.InfoLevel // the flag's own parser knows only names that zerolog knows
	}
	return level
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}
