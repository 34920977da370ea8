// Package ancillary deals with open files that a peer attaches to what it writes
// to a unix socket (SCM_RIGHTS, unix(7)).
//
// poolinit has no use for such files, but they are dangerous all the same. When
// the last descriptor of a file is closed, the kernel may wait inside close(2) for
// as long as the file's first owner likes: a TCP socket with SO_LINGER, a file of a
// FUSE or network file system. And read(2), or the close of the socket itself,
// closes files that were attached and not received.
//
// Refuse is the cure where the kernel has it (Linux 6.16): the sender gets EPERM.
// On older kernels a Closer is used for everything that could meet such files: it
// receives them with room for all of them, and closes them in goroutines that no
// caller waits for. Their number is bounded; while all are busy, nothing is
// received, so the files that wait stay the sender's problem.
package ancillary
