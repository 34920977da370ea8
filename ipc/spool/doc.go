// Package spool is a directory that keeps messages: undelivered ones until the
// next start, given-up ones until a person looks at them.
//
// Each message is a file of its own, whole or not there (file.go); the names sort
// by the time at which the messages arrived. The queue knows nothing of this
// package. It is given two functions, Spool.Keep for what a stop leaves, and
// Spool.GiveUp for what has failed every attempt. At the next start Spool.Replay is
// a source like others, and comes first.
//
// All that has to do with the disk is done by the goroutines of a writer
// (writer.go), which others give tasks to: a disk may hang. The directory is one
// that other users cannot write to (dir.go).
//
// A message from the spool keeps its file until it is settled, so it is never lost
// if poolinit is killed: it is delivered again.
package spool
