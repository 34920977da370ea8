package main

import (
	_ "embed"

	"github.com/poolinit/poolinit/reaper/tini"
)

//go:embed LICENSE
var license string

// cmdInit is tini's job. As a rule it was done before main began: see
// reaper/tini/early.go.
func cmdInit(args []string) int {
	return tini.Main(args, tini.About{Version: buildVersion(), License: license})
}
