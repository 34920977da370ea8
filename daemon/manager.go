package daemon

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/supervisor"
	"github.com/poolinit/poolinit/supervisor/notify"
)

// managerTick is how often the manager is told what has changed.
const managerTick = 200 * time.Millisecond

// A manager is what started poolinit and listens to sd_notify(3): systemd, podman, or
// another poolinit. It hears READY=1 when the pool is ready for the first time,
// STATUS=, STOPPING=1, and WATCHDOG=1 for as long as the pool is alive as /livez has
// it. A manager that does not read is not waited for. A nil manager hears nothing.
type manager struct {
	socket   string
	watchdog time.Duration // how often WATCHDOG=1 is sent; 0: never
	view     *status.View
	log      zerolog.Logger

	mu       sync.Mutex
	ready    bool // READY=1 was sent
	stopping bool
	status   string
	failed   bool // and was logged
}

// newManager reads from an environment whether there is one.
func newManager(getenv func(string) string, pid int, view *status.View, log zerolog.Logger) *manager {
	socket := getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	m := &manager{socket: socket, view: view, log: log}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if to := getenv("WATCHDOG_PID"); err == nil && usec > 0 && (to == "" || to == strconv.Itoa(pid)) {
		m.watchdog = max(time.Duration(min(usec, int64(24*time.Hour/time.Microsecond)))*time.Microsecond/3, time.Millisecond)
	}
	return m
}

// serve tells the manager what changes, until end is closed.
func (m *manager) serve(end <-chan struct{}) {
	if m == nil {
		return
	}
	look := time.NewTicker(managerTick)
	defer look.Stop()
	var alive <-chan time.Time // nil: no watchdog
	if m.watchdog > 0 {
		ticker := time.NewTicker(m.watchdog)
		defer ticker.Stop()
		alive = ticker.C
	}
	for {
		m.report()
		select {
		case <-look.C:
		case <-alive:
			if live, _ := m.view.Live(); live {
				m.feedWatchdog()
			}
		case <-end:
			return
		}
	}
}

func (m *manager) feedWatchdog() {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.tell("WATCHDOG=1") // the next one is due soon
}

// report says whether the pool is ready, if that has changed.
func (m *manager) report() {
	ready, why := m.view.Ready()
	text := describe(m.view.Pool.Stats(), ready, why)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping || text == m.status && (m.ready || !ready) {
		return
	}
	state := "STATUS=" + text
	if ready && !m.ready {
		state = "READY=1\n" + state
	}
	if m.tell(state) == nil {
		m.status, m.ready = text, m.ready || ready
	}
}

func describe(s supervisor.Stats, ready bool, why string) string {
	if !ready {
		return "not ready: " + why
	}
	n := 0
	for i := range s.Workers {
		if s.Workers[i].State == supervisor.Ready {
			n++
		}
	}
	return fmt.Sprintf("%d of %d workers ready", n, len(s.Workers))
}

// stop says that the pool stops.
func (m *manager) stop(why string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopping = true
	_ = m.tell("STOPPING=1\nSTATUS=stopping: " + why) // it is told once: there is no time to repeat it
}

// tell sends a message, and logs the first failure. The caller holds mu.
func (m *manager) tell(state string) error {
	err := notify.Tell(m.socket, state)
	if err != nil && !m.failed {
		m.failed = true
		m.log.Warn().Err(err).Str("socket", m.socket).Msg("cannot notify the service manager")
	}
	return err
}
