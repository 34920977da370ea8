// Package ipc is the exchange between the clients that send messages and the
// workers that handle them.
//
// A Source takes messages from the outside, as each package below this one does
// in its way: stream from TCP and unix sockets, sysv from a System V queue, spool
// from the directory that the last stop has filled. It makes a Delivery of each
// message and submits it to the Queue. The Queue chooses a worker with room, and
// writes the message into that worker's Channel, which is a socket. If no worker
// has room the message waits in the Queue; if the Queue is full the source waits,
// and with it the sender: that is the back-pressure.
//
// The goroutine that reads a Channel takes the worker's reply, settles the
// Delivery by telling its Origin, and gives the worker what waits. So there is one
// goroutine a connection and one a worker, and no channel or third goroutine
// between the two sockets: the reader of one side writes to the other.
//
// A Delivery is settled exactly once. If its worker dies or answers with a failure
// it is delivered again, before new messages, until it has had as many attempts as
// the Config allows: the second time at once and by another worker, later after a
// delay. It is charged only with what it can be to blame for. Where several
// messages may have killed a worker each is delivered alone.
//
// Messages that wait are in the backlog. It is fair: the messages of one sender are
// a Flow, and of the flows with the same priority each has its turn, for a worker
// and for room. The flows of one source share a Lane.
//
// Idle workers come first, then those that work fast and have had nothing in hand
// for long, and last those that may still be starting or that fail everything.
//
// How many messages a worker has at a time is its window's to say. Memory has
// bounds too: Config for what waits, Budget for large messages that are still
// arriving, and each source for the replies that its clients do not read.
package ipc
