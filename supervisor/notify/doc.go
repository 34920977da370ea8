// Package notify is the protocol of sd_notify(3): a service tells the manager that
// started it how it is, in datagrams to the unix socket that NOTIFY_SOCKET names.
// A datagram has lines of NAME=value, such as READY=1 or STATUS=text.
//
// It has both ends. A Socket is the manager's: one for each worker, read by one
// goroutine, open for the worker's process group only. Send is the service's, for
// poolinit notify.
//
// The kernel attaches the sender's PID to each datagram, and its process group is
// looked up before the datagram is taken out of the queue. By then a short-lived
// sender may have ended. So Send, like systemd-notify, waits until its message was
// read. systemd-notify sends a descriptor along for that (BARRIER=1), which is
// refused here where the kernel can: see package ancillary.
package notify
