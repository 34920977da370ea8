// Package launch starts the processes of a pool's workers.
//
// A Launcher is made from a Config, and its method Launch is what the supervisor
// calls. A worker's process gets an environment that says which worker it is, a
// group of its own, a socket on which it can say that it is ready (package
// notify), pipes for what it prints (package output), and, where the pool takes
// messages, a socket as descriptor 3 on which it gets them. What that socket's
// channel wants of the pool, a feed tells in the supervisor's words (feed.go).
//
// Sockets that the workers share (--share) are handed over by systemd's
// protocol. It demands the PID of the receiver, so that the process first runs
// this program again, which sets the PID and becomes the worker (share.go).
//
// With --deliver exec a worker is not a process. This package has the worker's
// end of the channel itself, and runs the command once a message (exec.go): the
// body is its stdin, and what it prints is the reply (exec_job.go).
package launch
