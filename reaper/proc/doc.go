// Package proc reads what the kernel tells about processes: every file below
// /proc/PID that poolinit looks at is read and parsed here, and nowhere else.
//
// Three questions are asked. How much does a process use (RSS and CPU, from
// statm and the process's CPU clock)? What is it doing, and whose child is it
// (Stat, from stat)? And which PID namespace is it in (Namespace, OnlyHere)?
//
// Every answer may be missing: an image from scratch need not mount /proc, and
// hidepid hides the processes of other users. So an error, or the zero value,
// means "not known", never "not there". Only the kernel's own calls, such as
// kill(2) and getpgid(2), say that a process has ended.
//
// The package keeps nothing and starts nothing. It imports the standard library
// and x/sys only, so any package may use it.
package proc
