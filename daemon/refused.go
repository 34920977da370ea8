package daemon

import (
	"fmt"
	"strings"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/reaper"
)

// A need is a system call that something in a configuration does not work without.
type need struct{ call, what string }

// needs returns the system calls that a pool does not work without. What the Go
// runtime itself needs is not among them: it ends the program.
func needs(cfg *Config) (all []need) {
	add := func(what string, calls ...string) {
		for _, c := range calls {
			all = append(all, need{c, what})
		}
	}
	add("workers", "wait4", "pipe2", "socket", "bind")
	if cfg.Credential != nil {
		add("--user", "setgroups")
	}
	if len(cfg.Listen) > 0 {
		add("the workers' message channels", "socketpair", "getsockopt", "recvmsg")
	}
	for _, l := range cfg.Listen {
		if strings.HasPrefix(l.Name, "sysv:") {
			add("--listen "+l.Name, "msgget", "msgrcv")
		} else {
			add("--listen "+l.Name, "socket", "setsockopt", "bind", "listen", "accept4")
		}
	}
	for _, s := range cfg.Share {
		add("--share "+s.URL, "socket", "setsockopt", "bind", "listen")
	}
	if cfg.HTTP != "" {
		add("--http", "socket", "setsockopt", "bind", "listen", "accept4")
	}
	if cfg.RunsPerMessage() {
		add("--deliver exec", "memfd_create")
	}
	if cfg.Spool != "" {
		add("--spool", "flock", "fsync")
	}
	return all
}

// refused returns an error if the kernel refuses a system call that the pool needs.
// Otherwise it would be found out one by one, and some of it never.
func refused(cfg *Config) error {
	for _, n := range needs(cfg) {
		if err := reaper.Refused(n.call); err != nil {
			return fmt.Errorf("%w; poolinit needs it for %s: allow it in the seccomp profile", err, n.what)
		}
	}
	return nil
}

// logLacks says what poolinit does without.
func logLacks(reap *reaper.Reaper, log zerolog.Logger) {
	for _, l := range reap.Lacks() {
		log.Warn().Err(l.Err).Str("effect", l.Effect).Msg("a system call is refused, going on without it")
	}
}
