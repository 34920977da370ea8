// Package status looks at a running pool from outside. A View knows where to look: at
// the supervisor, the queue, the sources, the reaper and the kernel. Look puts together
// what they know at one time, as a Snapshot, for metrics and for the Document that
// poolinit status and the page show. Ready and Live are the answers to health checks.
//
// Nothing here costs anything between two looks.
package status
