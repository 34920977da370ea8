// Package stream is the source of messages that come over connections: tcp://,
// with or without TLS, and unix://.
//
// A listener accepts connections, with fewer system calls than
// net.Listener needs, since a client that sends one message a connection pays for
// each. Every connection has one goroutine, which cuts whole frames off what has
// arrived, submits them as a batch, and waits while the queue is full or the
// client does not read its replies. Replies come from the goroutines of the
// workers' channels. They go out in the order of the messages, and never make
// those goroutines wait.
//
// A stop has three steps. Drain accepts what the kernel has accepted already,
// closes the listening socket, and waits until each connection has submitted what
// had arrived by then; a message that comes later is answered "stopping". Linger
// waits until the clients have their replies. Close ends what is left.
//
// The package also has the shared sockets of --share, which it binds in the same
// way and leaves to the workers.
package stream
