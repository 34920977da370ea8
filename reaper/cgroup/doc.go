// Package cgroup tells whether the OOM killer has killed a process of this
// container.
//
// A process that the OOM killer took has died of SIGKILL, like one that an operator
// killed. The kernel does not say which it was, but it counts the victims of each
// cgroup. Memory finds this process's cgroup, of version 1 or 2, and reads the
// count. OOM compares the count with the deaths that the pool has seen.
//
// A container may have no cgroup mounted, and an old kernel does not count. Then
// nothing fails: OOM.Err says why, and every such death counts as an ordinary one.
package cgroup
