// Poolinit is a container's ENTRYPOINT: it runs as PID 1, reaps zombies, and
// keeps a pool of worker processes alive.
//
// docs/decisions.md says why it is as it is, CONTRIBUTING.md what is where.
package main

import (
	_ "embed"
	"os"
	"os/signal"

	"github.com/poolinit/poolinit/cli"
	"github.com/poolinit/poolinit/supervisor/launch"
)

// version is set at link time (-ldflags "-X main.version=v1.2.3").
var version = ""

//go:embed LICENSE
var license string

func main() {
	os.Exit(run(os.Args))
}

// run does what the command line says and returns the exit code. Two jobs are
// done earlier. "poolinit init" begins before main, while packages are
// initialised: see reaper/tini/early.go. And a process that is on its way to
// become a worker with shared sockets must not be kept waiting.
func run(args []string) int {
	if launch.IsShareExec(args) {
		signal.Reset() // a worker may be ended before it is one
		return launch.ShareExec(args)
	}
	return cli.Main(args, cli.About{Version: version, License: license})
}
