// Package harness runs the real binary as a real PID 1, for tests that look at it
// from outside: in a PID namespace, on a terminal, in docker.
//
// A test says what to run in a Program and calls Start, which returns a Process:
// what it prints, its processes, its end. Pool is a Process that is poolinit with
// workers, and reads its log. PTY is a terminal with the test at the keyboard.
// RunContainer starts a container of an image that is made on the spot. Send and
// RunClient run clients to their end. Tests wait for conditions with
// testkit.Eventually.
//
// The test binary plays the workers and other programs itself: Child adds one,
// and the TestMain of each package calls Main. WorkerChild is a worker that does
// the deed that its arguments name.
//
// Each subject has a package of tests beside this one: init, pool, control,
// metrics, messages, sdk, image. The go command runs two of them at a time, so
// they use no fixed port, no fixed key and no fixed name, but in a namespace of
// their own.
package harness
