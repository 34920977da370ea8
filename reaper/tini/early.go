package tini

import "os"

// An init has one job, and a few milliseconds for it. Half of those would go into
// the initialisers of packages that only a pool needs, above all the metrics'. Go
// initialises packages in the order of their import paths, as far as what they
// import allows, and this one comes before those, as signals does. So the job is
// done here, and main never begins. What needs no hurry, such as --help or a
// wrong flag, is left to it.
//
// A test holds that the order is so.
func init() {
	args, ok := Arguments(os.Args)
	if !ok {
		return
	}
	o, err := parse(args, os.LookupEnv)
	if err != nil {
		return
	}
	// Not in main's goroutine: that is tied to its thread until main begins, and whenever it
	// waited, threads would take turns.
	go func() { os.Exit(o.run(&messenger{name: nameOf(os.Args[0]), verbosity: o.verbosity})) }()
	select {}
}
