// Package netio moves bytes over non-blocking sockets.
//
// A Reader waits until a socket can be read, and only then takes a buffer from
// a pool, so that ten thousand idle connections hold none. One read fetches as
// much as is there; the owner cuts messages off the front of it without a copy.
//
// A Writer collects what is to be written and passes it on with one system
// call. It never waits for its peer: what the socket does not take goes to a
// goroutine that exists only as long as that lasts.
//
// System calls that cannot wait are made without telling the Go runtime (see
// calls.go), and a Late socket is not even known to the runtime's poller until
// something has to wait for it. Neither is needed for correctness: both are on
// the path of every message, and were measured.
//
// The package knows nothing of frames, queues or TLS.
package netio
