// Package metrics serves what a running pool shows by HTTP: Prometheus metrics,
// health for probes, numbers for autoscalers, and a page for people. It changes
// nothing, and costs nothing while there is no request.
//
// Nothing is counted here. A request takes a Snapshot of package status, which reads
// the counts of the pool, the queue and the sources, and turns it into the format
// that was asked for: a gatherer makes Prometheus' metric families of it, and the
// page gets a status.Document as JSON. Only the duration of a reload is pushed, by
// ReloadEnded.
//
// Package status makes the snapshot and the document. Package control serves the
// same document, and takes orders, on a socket for the pool's own user. Package limit
// bounds the connections of both servers.
package metrics
