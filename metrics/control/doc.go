// Package control lets the user of a running pool, or root, look at it and act on it:
// poolinit status, reload, stop, health, scale, pause, resume and queue. It has both ends,
// Server and Client.
//
// # The socket
//
// It is an abstract unix socket, which needs no file system and no flag, and ends with
// its process. Its name has the number of the PID namespace in it, because several PID
// namespaces may share one network namespace (the containers of a pod), and the PID of
// the pool, because several pools may run in one namespace.
//
// Any process may connect to an abstract socket, and any process may choose such a
// name. So the server checks the user and the PID namespace of each client, and the
// client checks that the process that listens is the one whose PID is in the name.
//
// # The protocol
//
// A request is a line of JSON, and so is each line of the answer. Fields that are
// false, 0 or empty are left out:
//
//	{"command":"status"}              a status.Document
//	{"command":"health"}              {"live":true,"ready":true}, or {"live":true,"reason":"..."}
//	{"command":"reload","wait":true}  {"accepted":true}, and {"generation":2,"replaced":1,"workers":4} each time
//	                                  this changes; at last {"generation":2,"outcome":"done","seconds":1.5}
//	{"command":"stop","wait":true}    {"accepted":true}, then the connection ends with the process;
//	                                  with "now":true {"accepted":true,"kills":true}
//	{"command":"scale","workers":5}   {"accepted":true,"workers":5}
//	{"command":"pause"}, "resume"     {"accepted":true}
//	{"command":"queue","limit":1000}  a List, of at most so many messages
//	{"command":"drop","ids":[7,8]}    {"accepted":true,"dropped":2}; fewer if some of them do not wait
//
// Without wait, reload and stop are answered {"accepted":true} alone, but a reload
// during a stop {"outcome":"interrupted","reason":"..."}. A request that fails is answered
// {"error":"..."}. A client that closes the connection does not wait any longer.
package control
