// Package supervisor keeps a fixed number of worker processes alive.
//
// A Pool has slots, numbered from 0. A slot is a place: its number stays, and
// processes come and go. When a process ends, the slot starts another one, after
// a backoff if it failed. When a process is due, because of a reload, its age,
// its memory or the messages it has handled, the slot replaces it: it stops the
// old one first, or, with StartFirst, starts a successor and stops the old one
// when the successor is ready. A process that closes its message channel and
// lives on is detached: it leaves its place to another one and may end in its
// own time.
//
// Both have a state and a table of rules, which says what each event does in
// each state: a slot (slot.go) and a process in it, called a worker (worker.go).
// The tables are in states.go, and as text in testdata/states.txt. Each slot and
// each worker is a goroutine that waits for the next event and applies the rule
// for it.
//
// The pool itself (pool.go) decides what concerns all slots: a reload, which
// replaces the workers one or a few at a time (reload.go), the exit code, and when
// to give up. It offers the phases of a stop, Halt, StopWorkers and Kill. Its
// caller decides when each of them begins, also when the pool has to stop by
// itself, which Over tells.
//
// Processes come from a Launch function as values of the interface Process. So
// the whole package can be tested with fake processes and fake time, and knows
// neither sockets nor messages.
package supervisor
