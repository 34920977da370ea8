// Package output carries text to poolinit's stdout and stderr: the log lines of
// poolinit itself (Sink) and the lines of its workers (Relay).
//
// The place behind stdout or stderr is not under poolinit's control. Its reader may
// stop reading, the pipe may be closed, the disk may be full. Whatever happens
// there, poolinit goes on, and lines that are lost are counted.
//
//	worker's stdout -> pipe -> pump -> splitter -+
//	                                             +-> Dest -> descriptor 1 or 2
//	logger -> Sink (a bounded queue) ------------+
//
// A Dest is one such place. It writes whole lines, one writer at a time, and owns
// the buffers, so that 1,000 idle workers cost 1,000 parked goroutines and no
// more. A Sink never blocks its caller: it queues lines up to a limit, drops what is
// over it, and says later how many were lost. A Relay does block: a place that takes
// nothing holds up the workers that print, as a full pipe would, but nothing else.
// It also keeps the end of each worker's stderr, for reports about a failed message.
package output
