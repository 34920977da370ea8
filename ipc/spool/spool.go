package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ratelog"
)

// A Spool is a directory that keeps messages. Only one process uses it at a time.
type Spool struct {
	dir      string
	stderr   func(worker int) string
	lock     *os.File
	log      zerolog.Logger
	complain *ratelog.Log
	found    []string // undelivered ones at the start, oldest first

	renamed atomic.Uint64 // files, so far
	syncing sync.Mutex
	synced  uint64 // how many of those will outlive a power cut
}

// What the names in a spool end in.
const (
	undelivered = ".undelivered"
	givenUp     = ".given-up"
	unfinished  = ".tmp" // after one of the others: it is being written
	lockName    = ".lock"
)

// Open makes the directory if it is absent, locks it, and checks whether it can be
// written. stderr returns the last lines that a worker has printed, for the
// record of a message that is given up; it may be nil.
func Open(dir string, stderr func(worker int) string, log zerolog.Logger) (*Spool, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot use the spool %s: %w", dir, err)
	}
	log = log.With().Str("spool", dir).Logger()
	s := &Spool{dir: dir, stderr: stderr, log: log, complain: ratelog.New(log)}
	if err := s.open(); err != nil {
		s.Close()
		return nil, fmt.Errorf("cannot use the spool %s: %w", dir, err)
	}
	return s, nil
}

func (s *Spool) open() (err error) {
	if err = os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	s.lock, err = os.OpenFile(s.path(lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == unix.EWOULDBLOCK:
		return errors.New("another poolinit uses it")
	case err != nil:
		return fmt.Errorf("cannot lock it: %w", err)
	}
	if err := s.probe(); err != nil {
		return err
	}
	return s.look()
}

// Close lets another process use the directory.
func (s *Spool) Close() {
	if s.lock != nil {
		s.lock.Close()
	}
}

func (s *Spool) path(name string) string { return filepath.Join(s.dir, name) }

// probe writes as much as a small message takes.
func (s *Spool) probe() error {
	name := s.path("probe" + unfinished)
	defer os.Remove(name)
	return writeSynced(name, make([]byte, 4096))
}

// look finds what there is.
func (s *Spool) look() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		s.consider(e.Name(), e.Type().IsRegular())
	}
	if len(s.found) > 0 {
		s.log.Info().Int("messages", len(s.found)).Msg("found undelivered messages in the spool")
	}
	return nil
}

// consider notes an undelivered message. A file that was being written when its
// writer was killed is one too, if it is whole: its sender may not have the message
// any more.
func (s *Spool) consider(name string, regular bool) {
	if whole, ok := strings.CutSuffix(name, unfinished); ok && regular && isMessage(whole) {
		if !s.finish(whole) {
			return
		}
		name = whole
	}
	switch {
	case name == lockName, name == "lost+found": // every ext4 has that
	case !regular || !isMessage(name):
		s.log.Warn().Str("file", name).Msg("unexpected file in the spool, leaving it in place")
	case strings.HasSuffix(name, givenUp):
	case len(s.found) > 0 && s.found[len(s.found)-1] == name: // a rewritten one has just replaced it
	default:
		s.found = append(s.found, name)
	}
}

// finish makes a file of one that was being written. If that was not written to
// its end it is removed: its sender has not been told that the message is kept.
func (s *Spool) finish(name string) bool {
	tmp := s.path(name + unfinished)
	if _, _, err := readFile(tmp, maxBody); err != nil {
		_ = os.Remove(tmp) // if not now, then next time
		return false
	}
	return os.Rename(tmp, s.path(name)) == nil
}

// Keep is for ipc.Config.Spool: it writes a message that was not delivered. One
// that came from here stays where it is.
func (s *Spool) Keep(d *ipc.Delivery) bool {
	if m, ok := d.Origin().(*message); ok {
		return s.keepAgain(m, d)
	}
	return s.write(undelivered, headerOf(d), d.Body())
}

// keepAgain notes the attempts that a message from the spool has had since.
func (s *Spool) keepAgain(m *message, d *ipc.Delivery) bool {
	m.stays = true
	if d.Attempts() != m.header.Attempts {
		m.header.Attempts = d.Attempts()
		_ = s.replace(m.name, m.header, d.Body()) // has complained: it stays as it was
	}
	return true
}

// GiveUp is for ipc.Config.GivenUp: it writes a message that failed every attempt.
// If it cannot, one that came from here stays; any other is lost.
func (s *Spool) GiveUp(d *ipc.Delivery, reason string) {
	h := headerOf(d)
	m, ours := d.Origin().(*message)
	if ours {
		h = m.header
		h.Attempts = d.Attempts()
	}
	h.Reason, h.Stderr = reason, s.lastLines(d.Worker())
	kept := s.write(givenUp, h, d.Body())
	switch {
	case ours:
		m.moved, m.stays = kept, !kept
	case !kept:
		d.Source().Lost.Add(1)
	}
}

func (s *Spool) lastLines(worker int) []string {
	if s.stderr == nil || worker < 0 {
		return nil
	}
	text := s.stderr(worker)
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// write makes a file for a message, under a name that no other has.
func (s *Spool) write(kind string, h header, body []byte) bool {
	stem := h.Arrived.UTC().Format(nameTime) + fmt.Sprintf("-%010d", h.ID)
	name := stem + kind
	for n := 1; s.exists(name); n++ { // a clock that was set back
		name = fmt.Sprintf("%s-%d%s", stem, n, kind)
	}
	return s.replace(name, h, body)
}

func (s *Spool) exists(name string) bool {
	_, err := os.Lstat(s.path(name))
	return err == nil
}

// replace writes a file in the place of any that has the name, or fails and
// leaves that as it was.
func (s *Spool) replace(name string, h header, body []byte) bool {
	h.Kept = time.Now()
	tmp := s.path(name + unfinished)
	err := writeSynced(tmp, appendFile(nil, h, body))
	if err == nil {
		err = os.Rename(tmp, s.path(name))
	}
	if err == nil {
		err = s.syncDir()
	}
	if err != nil {
		_ = os.Remove(tmp) // if it is there at all
		s.complain.Warn("cannot write to the spool", err.Error())
	}
	return err == nil
}

// syncDir makes a rename before it durable. Calls that come while one is under way
// share the next one.
func (s *Spool) syncDir() error {
	mine := s.renamed.Add(1)
	s.syncing.Lock()
	defer s.syncing.Unlock()
	if s.synced >= mine {
		return nil
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	all := s.renamed.Load()
	if err := dir.Sync(); err != nil {
		return err
	}
	s.synced = all
	return nil
}

// writeSynced writes a file, and returns when it is on the disk.
func writeSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (s *Spool) remove(name string) {
	if err := os.Remove(s.path(name)); err != nil {
		s.complain.Warn("cannot remove handled message from the spool", err.Error())
	}
}
