package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/output"
)

// mostTermination is how many bytes the kubelet takes from a termination log.
const mostTermination = 4096

// lostCode is the exit code of a stop that lost messages: EX_TEMPFAIL.
const lostCode = 75

// A terminationLog is where Kubernetes reads why a container has ended. It is a file
// that others have made: nothing is written if it is not there, or is not a file.
type terminationLog struct {
	path string
	log  zerolog.Logger
}

// write writes why poolinit ends, and after it the last lines of the worker that is
// to blame, as far as there is room: of these the end counts. A disk that hangs does
// not hold it up.
func (t terminationLog) write(why, lastLines string) {
	if t.path == "" {
		return
	}
	written := make(chan error, 1)                                                           // 1: it may come late
	go func() { written <- output.WriteExisting(t.path, terminationText(why, lastLines)) }() // ends with the program, if the disk hangs
	var err error
	select {
	case err = <-written:
	case <-time.After(overrun):
		err = os.ErrDeadlineExceeded
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.log.Warn().Err(err).Str("file", t.path).Msg("cannot write the termination log")
	}
}

func terminationText(why, lastLines string) string {
	why = strings.ToValidUTF8(why, "?")
	if len(why) >= mostTermination {
		return strings.ToValidUTF8(why[:mostTermination], "")
	}
	room := mostTermination - len(why) - len("\n")
	if lastLines == "" || room <= 0 {
		return why
	}
	lastLines = strings.ToValidUTF8(lastLines, "?")
	if cut := len(lastLines) - room; cut > 0 {
		lastLines = strings.ToValidUTF8(lastLines[cut:], "")
	}
	return why + "\n" + lastLines
}

// reason says in words why a pool had to stop by itself; over is nil if it was asked
// to.
func reason(over *supervisor.Over) string {
	switch {
	case over == nil:
		return ""
	case over.Worker < 0:
		return "\n" + over.Why
	case over.Broken:
		return fmt.Sprintf("\n%s: %s", over.Why, over.How)
	}
	return fmt.Sprintf("\n%s: worker %d %s", over.Why, over.Worker, over.How)
}
