// Package sysv is the source of messages that come by a System V message queue,
// sysv://KEY, and the sending to one.
//
// A message for which no worker is free stays in the kernel, and survives there a
// stop of poolinit; but for one message at most, which may arrive in a call that
// has begun to wait while a worker was free. There are no replies.
//
// msgrcv(2) knows no descriptor, so one thread waits in it, and a stop interrupts
// that thread with a signal. A queue that is removed is made again (mending.go),
// also while no thread is in the call because all workers are busy.
package sysv
