package spool

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ratelog"
)

// A Config says which directory a Spool uses, and how.
type Config struct {
	Dir        string // --spool
	SpoolBytes int64  // that the files may take; 0: no limit

	// Stderr returns the last lines that a worker has printed, for the record of a
	// message that is given up. It may be nil.
	Stderr func(worker int) string
}

// A Spool is a directory that keeps messages. Only one process uses it at a time.
type Spool struct {
	path   string
	stderr func(worker int) string
	log    zerolog.Logger
	writer *writer

	foreign, odd, unread *ratelog.Log // files that are not messages of poolinit's: others may make many

	// Set before opened is closed.
	opened chan struct{}
	dir    *dir
	shared *dir     // see openDir
	found  []string // undelivered ones at the start, oldest first
}

// What the names in a spool end in.
const (
	undelivered = ".undelivered"
	givenUp     = ".given-up"
	unfinished  = ".tmp" // after one of the others: it is being written
)

// mostFiles is how many files of a kind have a line of their own in ten seconds.
const mostFiles = 20

// openPatience is how long Open waits for the disk. A pool starts without what is
// in the spool then, and gets it when the disk responds.
const openPatience = 5 * time.Second

// Open makes the directory if it is absent, locks it, looks what is there, and
// checks whether it can be written. A full disk is a warning: what fills it may be
// messages that are delivered now.
func Open(cfg Config, log zerolog.Logger) (*Spool, error) {
	path, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot use the spool %s: %w", cfg.Dir, err)
	}
	log = log.With().Str("spool", path).Logger()
	s := &Spool{path: path, stderr: cfg.Stderr, log: log, opened: make(chan struct{})}
	for _, l := range []**ratelog.Log{&s.foreign, &s.odd, &s.unread} {
		*l = ratelog.Several(log, zerolog.WarnLevel, mostFiles)
	}
	s.writer = &writer{opened: s.opened, limit: cfg.SpoolBytes, log: log, complain: ratelog.New(log), full: ratelog.New(log), wake: make(chan struct{}, 1)}
	go s.writer.run() // ends with Close, unless the disk hangs
	go func() {       // ends when the disk responds
		if err := s.open(); err != nil {
			s.writer.err = fmt.Errorf("cannot use the spool %s: %w", path, bare(err))
		}
		s.writer.dir = s.dir
		close(s.opened)
	}()
	late := time.NewTimer(openPatience)
	defer late.Stop()
	select {
	case <-s.opened:
	case <-late.C:
		log.Warn().Str("silent_for", openPatience.String()).Msg("spool does not respond, starting without it")
		return s, nil
	}
	if err := s.writer.err; err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Spool) open() (err error) {
	if s.dir, s.shared, err = openDir(s.path); err != nil {
		return err
	}
	if s.shared != nil {
		s.log.Info().Str("directory", s.dir.path).Msg("other users may write to the spool, using a directory of its own in it")
	}
	if err = s.dir.takeLock(); err != nil {
		return err
	}
	if s.shared != nil {
		s.move()
	}
	if err = s.look(); err != nil {
		return err
	}
	return s.probe()
}

// Close lets another process use the directory.
func (s *Spool) Close() {
	s.writer.close()
	select {
	case <-s.opened:
		s.dir.close()
		s.shared.close()
	default: // the end of the program closes what is opened late
	}
}

// Flush returns when all that was to be written is on the disk, or at the given
// time. What is not by then is not kept.
func (s *Spool) Flush(until time.Time) { s.writer.flush(until) }

// Stats returns the counts of the spool.
func (s *Spool) Stats() ipc.SpoolStats { return s.writer.stats() }

// probe writes as much as a small message takes.
func (s *Spool) probe() error {
	const name = "probe" + unfinished
	err := s.dir.create(name, make([]byte, 4096))
	_ = unix.Unlinkat(s.dir.fd(), name, 0) // if it is there at all
	if isFull(err) {
		s.log.Warn().Err(err).Msg("no room for messages in the spool")
		return nil
	}
	return err
}

// move moves messages of poolinit's own into its own directory: others have got the
// right to write to the spool since it was used.
func (s *Spool) move() {
	moved := 0
	err := s.shared.each(func(name string) {
		if !isMessage(strings.TrimSuffix(name, unfinished)) {
			return
		}
		st, err := s.shared.stat(name)
		if err == nil && (!isTrusted(&st) || !isOurs(&st)) {
			s.foreign.Add("file of another user in the spool, leaving it in place", func(e *zerolog.Event) { e.Str("file", name).Uint32("uid", st.Uid) })
			return
		}
		if err == nil {
			err = s.dir.take(s.shared, name)
		}
		if err != nil {
			s.log.Warn().Str("file", name).Err(err).Msg("cannot take over spooled message, leaving it in place")
			return
		}
		moved++
	})
	if err != nil {
		s.log.Warn().Err(err).Msg("cannot look for messages of earlier starts in the spool")
	}
	if moved > 0 {
		s.log.Info().Int("messages", moved).Str("directory", s.dir.path).Msg("moved messages in the spool")
	}
}

// look finds what there is.
func (s *Spool) look() error {
	names, err := s.dir.names()
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		s.consider(name)
	}
	if len(s.found) > 0 {
		s.log.Info().Int("messages", len(s.found)).Msg("found undelivered messages in the spool")
	}
	return nil
}

// consider counts a message, and notes an undelivered one. A file that was being
// written when its writer was killed is one too, if it is whole: its sender may not
// have the message any more.
func (s *Spool) consider(name string) {
	if whole, ok := strings.CutSuffix(name, unfinished); ok && isMessage(whole) && s.isRegular(name) {
		if !s.finish(whole) {
			return
		}
		name = whole
	}
	switch {
	case name == lockName, name == "lost+found": // every ext4 has that
		return
	case !isMessage(name), !s.isRegular(name):
		s.odd.Add("unexpected file in the spool, leaving it in place", func(e *zerolog.Event) { e.Str("file", name) })
		return
	case len(s.found) > 0 && s.found[len(s.found)-1] == name: // a rewritten one has just replaced it
		return
	case strings.HasSuffix(name, undelivered):
		s.found = append(s.found, name)
	}
	if st, err := s.dir.stat(name); err == nil {
		s.writer.count(1, onDisk(st.Size))
	}
}

func (s *Spool) isRegular(name string) bool {
	st, err := s.dir.stat(name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// finish makes a file of one that was being written. If that was not written to
// its end it is removed: its sender has not been told that the message is kept.
func (s *Spool) finish(name string) bool {
	if _, _, err := s.read(name+unfinished, maxBody); err != nil {
		_, _ = s.dir.remove(name + unfinished) // if not now, then next time
		return false
	}
	return s.dir.rename(name+unfinished, name) == nil
}

// read reads a file. The error says what is wrong with one that is not a whole
// message, or that another user has made.
func (s *Spool) read(name string, limit int) (h header, body []byte, err error) {
	f, err := s.dir.read(name)
	if err != nil {
		return h, nil, err
	}
	defer f.Close()
	return readMessage(f, limit)
}

// Keep is for ipc.Config.Spool: it writes a message that was not delivered. One
// that came from here stays where it is.
func (s *Spool) Keep(d *ipc.Delivery, done func(kept bool)) {
	if m, ok := d.Origin().(*message); ok {
		s.keepAgain(m, d, done)
		return
	}
	t := &task{kind: undelivered, header: headerOf(d), body: d.Body(), done: done}
	if !s.writer.add(t, false) {
		done(false)
	}
}

// keepAgain notes the attempts that a message from the spool has had since. If that
// cannot be written it stays as it was.
func (s *Spool) keepAgain(m *message, d *ipc.Delivery, done func(kept bool)) {
	m.stays = true
	if d.Attempts() == m.header.Attempts {
		done(true)
		return
	}
	m.header.Attempts = d.Attempts()
	t := &task{kind: undelivered, name: m.name, header: m.header, body: d.Body(), done: func(bool) { done(true) }}
	if !s.writer.add(t, false) {
		done(true)
	}
}

// GiveUp is for ipc.Config.GivenUp: it writes a message that failed every attempt,
// and calls done when it is on the disk, or will not be, or the disk hangs. If it
// cannot be written, one that came from here stays; any other is lost.
func (s *Spool) GiveUp(d *ipc.Delivery, reason string, done func()) {
	h := headerOf(d)
	h.Reason, h.Stderr = reason, s.lastLines(d.Worker())
	if m, ok := d.Origin().(*message); ok {
		s.giveUpAgain(m, h, d, done)
		return
	}
	// The body is a copy: the client may have its answer before it is written.
	lost := &d.Source().Lost
	t := &task{kind: givenUp, header: h, body: slices.Clone(d.Body()), answer: done, size: taskSize + len(d.Body())}
	t.done = func(kept bool) { addLost(lost, kept) }
	if !s.writer.add(t, true) {
		s.writer.lose(errSlow)
		addLost(lost, false)
		done()
	}
}

// taskSize is about what a task takes of the memory beside its body.
const taskSize = 1 << 10

func addLost(lost *atomic.Uint64, kept bool) {
	if !kept {
		lost.Add(1)
	}
}

// giveUpAgain gives up a message that came from here.
func (s *Spool) giveUpAgain(m *message, h header, d *ipc.Delivery, done func()) {
	reason, stderr := h.Reason, h.Stderr
	h = m.header
	h.Attempts, h.Reason, h.Stderr = d.Attempts(), reason, stderr
	finished := func(kept bool) {
		m.moved, m.stays = kept, !kept
		done()
	}
	t := &task{kind: givenUp, header: h, body: d.Body(), old: m.name, size: taskSize + len(d.Body()), done: finished}
	if !s.writer.add(t, false) { // this call must not wait: the queue may be telling how the message ended
		finished(false)
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

// drop removes the file of a message that was handled.
func (s *Spool) drop(name string) { s.writer.add(&task{old: name}, false) }
