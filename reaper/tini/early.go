package tini

import "os"

// init does the work of poolinit init before main begins, and before the initialisers of
// packages that only a pool needs, above all those for metrics. Go initialises packages in
// the order of their import paths, as far as their imports allow, and this one comes
// before those, as signals does. A test of the house checks that order.
//
// Command lines that need no speed are left to main.
func init() {
	args, ok := Arguments(os.Args)
	if !ok {
		return
	}
	o, err := parse(args, os.LookupEnv)
	if err != nil {
		return
	}
	// Not in the main goroutine: that is tied to its thread until main begins, so each wait
	// would switch threads. The goroutine ends with the process.
	go func() { os.Exit(o.run(&messenger{name: nameOf(os.Args[0]), verbosity: o.verbosity})) }()
	select {}
}
