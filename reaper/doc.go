// Package reaper is the part of poolinit that makes it a PID 1: it starts
// processes, sends them signals, waits for them, and collects the orphans that
// the kernel hands to it. It does not know what a pool is.
//
// # One owner of wait4
//
// Two callers of wait4(2) in one process steal each other's statuses: wait4(-1)
// takes any child, and a pidfd does not protect its process from that. So one
// Reaper, with one loop, waits for all children, and everything else learns of an
// exit from a Process. For the same reason nothing in poolinit uses os/exec or
// os.Process.Wait.
//
// # One mutex for starting, signalling and waiting
//
// The kernel may give a PID to another process as soon as it has been waited for.
// So a process is registered under the mutex under which it was forked, a signal
// is sent under that mutex and only to a registered process, and a process is
// waited for under it too. A signal can never hit a stranger.
//
// The loop looks before it waits: waitid(2) with WNOWAIT names a child that has
// ended and leaves it a zombie. While the zombie is there, its PID and its process
// group belong to no other process, and it can be decided whose child this was.
// Only then wait4 takes it. Each turn of the loop holds the mutex for one child, so
// that starts and signals go on while orphans arrive by the thousand.
//
// # Groups
//
// A child usually leads a process group. The group may outlive its leader, and
// then Process.SignalGroup still reaches it, until Process.Gone says that it is
// empty. The last member may leave without a SIGCHLD, because another process
// waits for it; so while such groups exist the loop looks at them now and then.
//
// # Orphans
//
// When a process ends, the kernel makes its children the children of PID 1, or of
// the nearest ancestor that is a child subreaper. New makes this program a
// subreaper if it is not PID 1. Orphans are waited for like all children, and
// counted. When a pool has stopped, EndRest ends whatever is left in the PID
// namespace.
//
// # The thread that forks
//
// Children are forked from one goroutine that is locked to its thread until the
// Reaper is closed, because the kernel sends the parent-death signal when the
// thread that forked ends, not when the process does.
//
// # The terminal
//
// A single interactive child gets the foreground of the terminal (Terminal), so
// that Ctrl-C and Ctrl-Z go to it as if poolinit were not there. When its group is
// gone the foreground comes back.
package reaper
