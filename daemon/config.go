package daemon

import (
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ipc/sources"
	"github.com/poolinit/poolinit/ipc/stream"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/launch"
	"github.com/poolinit/poolinit/supervisor/output"
)

// A Config says what one poolinit does. Its fields, and those of the configs in
// it, are the flags of "poolinit run"; the package that acts on a flag says what
// its values mean. The functions in Pool and Queue are set by this package.
type Config struct {
	Version  string
	Revision string // of the source; may be empty

	Command     []string // and its arguments
	Env         []string // what workers inherit
	Chdir       string   // the workers' directory, resolved at each start; "": this program's
	Credential  *syscall.Credential
	NewPrivs    bool // workers with a Credential may gain privileges
	OOMScoreAdj int  // how much sooner than poolinit the OOM killer takes a worker; 0: not
	Output      output.Mode
	DrainDelay  time.Duration // from the stop request to the drain, for which the pool still serves
	Signals     Signals
	RunAtExit   bool // run Command once more when no worker is left

	TerminationLog string        // the file, if it exists, that is told why poolinit ends; "": none
	LostOK         bool          // a stop that loses messages may end with code 0
	GracePeriod    time.Duration // after which the orchestrator kills all that is left; 0: not known

	auto       *autoWorkers      // set by workers
	Pool       supervisor.Config // Workers may be 0: as many as there are CPUs
	Queue      ipc.Config
	Listen     []*sources.Endpoint // the message sources
	Spool      string              // a directory; "": none
	SpoolBytes uint64              // that it may take; 0: no limit
	Deliver    string              // how workers get messages: frames, tagged, lines or exec
	Share      []*stream.Share     // sockets that all workers accept from
	HTTP       string              // the address of metrics, health and status; "": none
	HTTPHost   []string            // names that requests to it may be for, beside its own
	// MemoryLimit is what the container may use, in bytes; 0: there is no limit. Main
	// sets it.
	MemoryLimit uint64
	Log         LogConfig
}

// A LogConfig says how the log is written.
type LogConfig struct {
	Level    string // debug, info, warn or error
	Format   string // auto, text or json
	Terminal bool   // stderr is a terminal: auto is text then, and text has colours
}

// httpHosts returns the names that requests by HTTP may be for.
func (c *Config) httpHosts() []string {
	bound, _, err := net.SplitHostPort(c.HTTP)
	if err != nil { // none
		return c.HTTPHost
	}
	return append([]string{bound}, c.HTTPHost...)
}

// RunsPerMessage reports whether the command is started for each message.
func (c *Config) RunsPerMessage() bool { return c.Deliver == launch.DeliverExec }

// workers returns how many workers the pool has, and logs where the number comes
// from if it is not the user's.
func (c *Config) workers(log zerolog.Logger) int {
	if c.Pool.Workers != 0 {
		return c.Pool.Workers
	}
	n := runtime.GOMAXPROCS(0)
	auto := log.Info().Int("workers", n).Int("cpus", runtime.NumCPU())
	if n, err := strconv.ParseInt(os.Getenv("GOMAXPROCS"), 10, 32); err == nil && n > 0 { // as the Go runtime reads it
		auto.Msg("--workers auto: using GOMAXPROCS")
	} else {
		auto.Msg("--workers auto: using the CPU limit of the cgroup (GOMAXPROCS)")
		c.auto = &autoWorkers{cpus: usableCPUs, log: log}
	}
	return n
}
