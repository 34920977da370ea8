package spool

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/ratelog"
)

// hangsAfter is how long the disk may do nothing before it counts as hanging: then
// no client waits for it any more, and no worker.
const hangsAfter = 2 * time.Second

// What was given up waits for the disk in memory, within these limits. Beyond them
// it is lost if the disk hangs; otherwise the worker that failed the message waits.
const (
	mostWaiting  = 1024
	bytesWaiting = 8 << 20
)

// batchSize is how many files share one sync of the directory, and writers how many
// are written at a time: each waits for the disk, which writes many as fast as one.
const (
	batchSize = 128
	writers   = 16
)

// recountAfter is how often the files are counted while --spool-bytes is used up:
// an operator may have removed some.
const recountAfter = 10 * time.Second

var (
	errLimit = errors.New("the limit of --spool-bytes is reached")
	errSlow  = errors.New("the disk does not respond")
)

// A writer does all that a spool wants of its disk, on goroutines of its own: all
// others only add tasks.
type writer struct {
	opened <-chan struct{} // closed when dir and openErr are set
	dir    *dir
	err    error // why there is no directory
	limit  int64

	log      zerolog.Logger
	complain *ratelog.Log // about the disk
	full     *ratelog.Log // about the limit

	files, bytes                   atomic.Int64 // in the directory
	lostLimit, lostError, lostSlow atomic.Uint64
	counted                        time.Time // when the files were last counted because of the limit; run's own

	mu       sync.Mutex
	waiting  []*task
	active   []*task
	given    int           // tasks with a size
	held     int           // their bytes
	progress time.Time     // when the disk last did something, or was asked for the first thing
	hangs    bool          // it has been long since then
	changed  chan struct{} // closed at the next progress; nil: no goroutine waits for that
	wake     chan struct{} // 1: there are tasks, or it is time to end
	isClosed bool

	isWatched bool // watch is due
}

// add adds a task. If there is no room for it, it waits until there is, but not
// for a disk that hangs. It reports whether it has added the task: done and answer
// are not called otherwise.
func (w *writer) add(t *task, mayWait bool) bool {
	w.mu.Lock()
	for t.size > 0 && (w.given >= mostWaiting || w.given > 0 && w.held+t.size > bytesWaiting) {
		if w.hangs || w.isClosed || !mayWait {
			w.mu.Unlock()
			return false
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		<-changed // or the watch finds that it hangs
		w.mu.Lock()
	}
	if w.isClosed {
		w.mu.Unlock()
		return false
	}
	if len(w.waiting)+len(w.active) == 0 {
		w.progress = time.Now()
	}
	if !w.isWatched {
		w.isWatched = true
		time.AfterFunc(hangsAfter, w.watch)
	}
	if t.size > 0 {
		w.given++
		w.held += t.size
	}
	w.waiting = append(w.waiting, t)
	var answer func()
	if w.hangs {
		answer, t.answer = t.answer, nil
	}
	w.mu.Unlock()
	w.poke()
	if answer != nil {
		answer()
	}
	return true
}

func (w *writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run does the tasks until it is closed.
func (w *writer) run() {
	<-w.opened
	for range w.wake {
		for batch := w.next(); len(batch) > 0; batch = w.next() {
			w.do(batch)
		}
		if w.closed() {
			return
		}
	}
}

func (w *writer) closed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isClosed
}

// next takes tasks to do.
func (w *writer) next() []*task {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.waiting), batchSize)
	w.active = append([]*task(nil), w.waiting[:n]...)
	w.waiting = w.waiting[n:]
	if len(w.waiting) == 0 {
		w.waiting = nil
	}
	return w.active
}

// do does tasks.
func (w *writer) do(batch []*task) {
	var (
		next  atomic.Int64
		group sync.WaitGroup
	)
	w.recountFor(batch)
	for range min(writers, len(batch)) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(batch); i = int(next.Add(1)) - 1 {
				if batch[i].kind != "" {
					batch[i].err = w.write(batch[i])
					w.advance()
				}
			}
		})
	}
	group.Wait()
	w.sync(batch)
	w.advance()
	for _, t := range batch {
		if t.err == nil && t.old != "" {
			w.remove(t.old)
			w.advance()
		}
	}
	w.end(batch)
}

// write writes a task's file.
func (w *writer) write(t *task) (err error) {
	if w.err != nil {
		return w.err
	}
	b := t.image()
	if b == nil {
		return errSlow
	}
	size := onDisk(int64(len(b)))
	name := t.name
	if name == "" {
		if !w.reserve(t.kind, size) {
			return errLimit
		}
		name = w.freeName(t)
	}
	tmp := name + unfinished
	if err = w.dir.create(tmp, b); err == nil {
		err = w.dir.rename(tmp, name)
	}
	if err != nil {
		_, _ = w.dir.remove(tmp) // if it is there at all
		if t.name == "" {
			w.count(-1, -size)
		}
	}
	return err
}

// count counts files that have been made or removed.
func (w *writer) count(files, bytes int64) (sum int64) {
	w.files.Add(files)
	return w.bytes.Add(bytes)
}

// reserve counts a file that is to be made, unless it is given up and
// --spool-bytes leaves no room for it.
func (w *writer) reserve(kind string, size int64) bool {
	if w.count(1, size) <= w.limit || w.limit == 0 || kind == undelivered {
		return true
	}
	w.count(-1, -size)
	return false
}

// freeName returns a name for a message that no other has: a clock may have been
// set back.
func (w *writer) freeName(t *task) string {
	stem := t.header.Arrived.UTC().Format(nameTime) + fmt.Sprintf("-%010d", t.header.ID)
	name := stem + t.kind
	for n := 1; ; n++ {
		if _, err := w.dir.stat(name); err != nil {
			return name
		}
		name = fmt.Sprintf("%s-%d%s", stem, n, t.kind)
	}
}

// sync makes the files of tasks outlive a power cut.
func (w *writer) sync(batch []*task) {
	wrote := false
	for _, t := range batch {
		wrote = wrote || t.kind != "" && t.err == nil
	}
	if !wrote {
		return
	}
	if err := w.dir.sync(); err != nil {
		for _, t := range batch {
			if t.kind != "" && t.err == nil {
				t.err = err
			}
		}
	}
}

func (w *writer) remove(name string) {
	if w.err != nil {
		return // it cannot have been found
	}
	size, err := w.dir.remove(name)
	if err != nil {
		w.complain.Warn("cannot remove handled message from the spool", err.Error())
		return
	}
	w.count(-1, -size)
}

// end says how tasks have ended.
func (w *writer) end(batch []*task) {
	for _, t := range batch {
		if !t.finish(t.err == nil) {
			continue // it was too late
		}
		if t.err != nil {
			w.lose(t.err)
		}
		w.answer(t)
	}
	w.mu.Lock()
	w.active = nil
	for _, t := range batch {
		if t.size > 0 {
			w.given--
			w.held -= t.size
		}
	}
	w.mu.Unlock()
	w.advance()
}

// answer calls a task's answer, unless it was called before.
func (w *writer) answer(t *task) {
	w.mu.Lock()
	answer := t.answer
	t.answer = nil
	w.mu.Unlock()
	if answer != nil {
		answer()
	}
}

// lose counts and logs that a message is not kept.
func (w *writer) lose(err error) {
	switch {
	case errors.Is(err, errLimit):
		w.lostLimit.Add(1)
		w.full.Warn("spool is full, given-up message lost", fmt.Sprintf("--spool-bytes %d is used up by %d files", w.limit, w.files.Load()))
		return
	case errors.Is(err, errSlow):
		w.lostSlow.Add(1)
	default:
		w.lostError.Add(1)
	}
	w.complain.Warn("cannot write to the spool", err.Error())
}

// advance notes that the disk has done something.
func (w *writer) advance() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress = time.Now()
	if w.hangs {
		w.hangs = false
		w.log.Info().Msg("spool responds again")
	}
	w.tell()
}

// tell wakes what waits for progress. With the mutex held.
func (w *writer) tell() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// watch looks whether the disk hangs, as long as there are tasks.
func (w *writer) watch() {
	w.mu.Lock()
	if len(w.waiting)+len(w.active) == 0 {
		w.isWatched = false
		w.mu.Unlock()
		return
	}
	silent := time.Since(w.progress)
	if silent < hangsAfter {
		time.AfterFunc(hangsAfter-silent, w.watch)
		w.mu.Unlock()
		return
	}
	time.AfterFunc(hangsAfter, w.watch)
	if !w.hangs {
		w.hangs = true
		w.log.Warn().Int("waiting", len(w.waiting)+len(w.active)).Str("silent_for", hangsAfter.String()).Msg("spool does not respond, going on without waiting for it")
	}
	var answers []func()
	for _, list := range [][]*task{w.active, w.waiting} {
		for _, t := range list {
			if t.answer != nil {
				answers = append(answers, t.answer)
				t.answer = nil
			}
		}
	}
	w.tell()
	w.mu.Unlock()
	for _, answer := range answers {
		answer()
	}
}

// flush returns when all tasks are done, or at the given time. What is not written
// by then is not kept.
func (w *writer) flush(until time.Time) {
	late := time.NewTimer(time.Until(until))
	defer late.Stop()
	for {
		w.mu.Lock()
		left := append(append([]*task(nil), w.active...), w.waiting...)
		if len(left) > 0 && w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		if len(left) == 0 {
			return
		}
		select {
		case <-changed:
		case <-late.C:
			w.giveUp(left)
			return
		}
	}
}

// giveUp ends tasks that there is no time for any more.
func (w *writer) giveUp(left []*task) {
	lost := 0
	for _, t := range left {
		if !t.finish(false) || t.kind == "" {
			continue
		}
		lost++
		w.lostSlow.Add(1)
		w.answer(t)
	}
	w.log.Warn().Int("messages", lost).Msg("spool did not respond before the end; the kernel may hold the exit until its disk does")
}

// close ends run when there are no tasks any more.
func (w *writer) close() {
	w.mu.Lock()
	w.isClosed = true
	w.tell()
	w.mu.Unlock()
	w.poke()
}

// recountFor counts what is in the directory if the limit may leave no room for
// tasks, but not too often. Nothing is being written meanwhile.
func (w *writer) recountFor(batch []*task) {
	sum := w.bytes.Load()
	for _, t := range batch {
		if t.kind == givenUp {
			sum += onDisk(int64(len(t.body) + taskSize))
		}
	}
	if w.limit == 0 || sum <= w.limit || w.err != nil || time.Since(w.counted) < recountAfter {
		return
	}
	w.counted = time.Now()
	names, err := w.dir.names()
	if err != nil {
		return
	}
	var files, bytes int64
	for _, name := range names {
		if st, err := w.dir.stat(name); err == nil && isMessage(name) {
			files++
			bytes += onDisk(st.Size)
		}
	}
	w.files.Store(files)
	w.bytes.Store(bytes)
}

// stats returns the counts.
func (w *writer) stats() ipc.SpoolStats {
	return ipc.SpoolStats{
		Files: w.files.Load(), Bytes: w.bytes.Load(), Limit: w.limit,
		LostLimit: w.lostLimit.Load(), LostError: w.lostError.Load(), LostSlow: w.lostSlow.Load(),
	}
}
