package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/status"
	"github.com/poolinit/poolinit/supervisor"
)

// A collector turns a snapshot into metrics when it is asked for them. It keeps
// nothing, so there is nothing to pay for between two scrapes.
//
// Labels have few values: a worker's number, a source's name, and the fixed words
// of this program. A PID is none, as every restart would leave a series behind.
type collector struct {
	view    *status.View
	signals func() map[string]uint64
}

type desc = *prometheus.Desc

func describe(name, help string, labels ...string) desc {
	return prometheus.NewDesc("poolinit_"+name, help, labels, nil)
}

// The metrics. Their table is in docs/metrics.md, and a test holds it.
var (
	workersDesc     = describe("workers", "Workers by what they do now.", "state")
	wantedDesc      = describe("workers_wanted", "Workers that there should be.")
	waitingDesc     = describe("restarts_waiting", "Workers that wait for their next start (backoff).")
	busyDesc        = describe("worker_busy_seconds_total", "Time with messages in hand; its rate is the utilization.", "worker")
	startsDesc      = describe("worker_starts_total", "Processes started.", "worker")
	exitsDesc       = describe("worker_exits_total", "Processes that ended, or could not be started, by why.", "reason")
	uptimeDesc      = describe("worker_uptime_seconds", "Age of the process.", "worker")
	memoryDesc      = describe("worker_memory_bytes", "Resident memory of the process.", "worker")
	cpuDesc         = describe("worker_cpu_seconds_total", "CPU time of all processes of the worker.", "worker")
	generationDesc  = describe("generation", "Generation of the workers that are started now; grows with each reload.")
	reloadsDesc     = describe("reloads_total", "Rolling reloads that ended, by how.", "result")
	reloadingDesc   = describe("reload_running", "1 while a reload is under way.")
	readyDesc       = describe("ready", "1 if the pool serves, as /readyz says.")
	stoppingDesc    = describe("stopping", "1 while the pool stops.")
	signalsDesc     = describe("signals_received_total", "Signals that poolinit got; those passed on to the workers are other.", "signal")
	orphansDesc     = describe("orphans_reaped_total", "Processes reaped that were nobody's worker.")
	workerDoneDesc  = describe("worker_messages_total", "Messages that the worker ended, by how.", "worker", "result")
	inHandDesc      = describe("worker_in_hand_messages", "Messages with the worker.", "worker")
	heldDesc        = describe("worker_held_seconds", "How long the worker has had the oldest message in its hands.", "worker")
	windowDesc      = describe("worker_window_messages", "Messages that may be on the way to the worker at a time.", "worker")
	queuedDesc      = describe("queue_messages", "Messages that wait for a worker.")
	queuedBytesDesc = describe("queue_bytes", "Their bytes.")
	oldestDesc      = describe("queue_oldest_seconds", "Age of the message that has waited longest.")
	limitDesc       = describe("queue_limit_messages", "The value of --queue-messages.")
	limitBytesDesc  = describe("queue_limit_bytes", "The value of --queue-bytes.")
	flightDesc      = describe("in_flight_messages", "Messages with workers.")
	waitDesc        = describe("message_wait_seconds", "From a message's arrival until its worker began with it.")
	handleDesc      = describe("message_handle_seconds", "From there to the worker's answer.")
)

// all is what Describe tells.
func (c *collector) all() []desc {
	ds := []desc{
		workersDesc, wantedDesc, waitingDesc, startsDesc, exitsDesc, uptimeDesc, memoryDesc, cpuDesc, generationDesc,
		reloadsDesc, reloadingDesc, readyDesc, stoppingDesc, signalsDesc, orphansDesc,
	}
	if c.view.Queue == nil {
		return ds
	}
	ds = append(ds, busyDesc, workerDoneDesc, inHandDesc, heldDesc, windowDesc, queuedDesc, queuedBytesDesc, oldestDesc,
		limitDesc, limitBytesDesc, flightDesc, waitDesc, handleDesc)
	for _, s := range sourceCounts {
		ds = append(ds, s.desc)
	}
	return append(ds, connectionsDesc, frameErrorsDesc)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.all() {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.view.Look()
	e := emitter{out}
	c.pool(e, s)
	for i := range s.Pool.Workers {
		worker(e, s, i)
	}
	if c.view.Queue == nil {
		return
	}
	queue(e, s, c.view)
	for i := range s.Pool.Workers {
		workerMessages(e, s, i)
	}
	for _, stats := range s.Sources() {
		source(e, stats)
	}
}

// An emitter makes metrics of numbers.
type emitter struct{ out chan<- prometheus.Metric }

func (e emitter) gauge(d desc, v float64, labels ...string) {
	e.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (e emitter) counter(d desc, v float64, labels ...string) {
	e.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (e emitter) yes(d desc, v bool) {
	if v {
		e.gauge(d, 1)
		return
	}
	e.gauge(d, 0)
}

func (c *collector) pool(e emitter, s *status.Snapshot) {
	states := make(map[supervisor.State]int)
	for i := range s.Pool.Workers {
		states[s.State(i)]++
	}
	for _, state := range status.States() {
		e.gauge(workersDesc, float64(states[state]), string(state))
	}
	e.gauge(wantedDesc, float64(len(s.Pool.Workers)))
	e.gauge(waitingDesc, float64(states[supervisor.Backoff]))
	for _, cause := range supervisor.Causes() {
		e.counter(exitsDesc, float64(s.Pool.Exits[cause]), string(cause))
	}
	e.gauge(generationDesc, float64(s.Pool.Generation))
	for _, outcome := range supervisor.Outcomes() {
		e.counter(reloadsDesc, float64(s.Pool.Reload.Results[outcome]), string(outcome))
	}
	e.yes(reloadingDesc, s.Pool.Reload.Running)
	ready, _ := c.view.Ready()
	e.yes(readyDesc, ready)
	e.yes(stoppingDesc, s.Pool.Stopping != "")
	for name, n := range c.signals() {
		e.counter(signalsDesc, float64(n), name)
	}
	e.counter(orphansDesc, float64(s.Reaper.Orphans))
}

func worker(e emitter, s *status.Snapshot, i int) {
	w, id := &s.Pool.Workers[i], strconv.Itoa(i)
	e.counter(startsDesc, float64(w.Starts), id)
	uptime := time.Duration(0)
	if !w.Started.IsZero() {
		uptime = s.At.Sub(w.Started)
	}
	e.gauge(uptimeDesc, uptime.Seconds(), id)
	e.gauge(memoryDesc, float64(s.Usage[i].RSS), id)
	e.counter(cpuDesc, s.Usage[i].CPU.Seconds(), id)
}

func workerMessages(e emitter, s *status.Snapshot, i int) {
	w, id := &s.Queue.Workers[i], strconv.Itoa(i)
	e.counter(busyDesc, w.Busy.Seconds(), id)
	e.counter(workerDoneDesc, float64(w.Handled), id, "handled")
	e.counter(workerDoneDesc, float64(w.Failed), id, "failed")
	e.gauge(inHandDesc, float64(w.InHand), id)
	e.gauge(heldDesc, w.Held.Seconds(), id)
	e.gauge(windowDesc, float64(w.Window), id)
}

func queue(e emitter, s *status.Snapshot, v *status.View) {
	q := &s.Queue
	e.gauge(queuedDesc, float64(q.Messages))
	e.gauge(queuedBytesDesc, float64(q.Bytes))
	e.gauge(oldestDesc, q.Oldest.Seconds())
	e.gauge(limitDesc, float64(v.QueueMessages))
	e.gauge(limitBytesDesc, float64(v.QueueBytes))
	e.gauge(flightDesc, float64(q.InFlight))
	e.out <- &histogram{waitDesc, &q.Waiting}
	e.out <- &histogram{handleDesc, &q.Handling}
}

var (
	connectionsDesc = describe("connections", "Connections that are open.", "source")
	frameErrorsDesc = describe("frame_errors_total", "Connections that broke the protocol, by how.", "source", "reason")
)

// sourceCounts are the plain counts of a source.
var sourceCounts = []struct {
	desc  desc
	value func(*ipc.SourceStats) uint64
}{
	{sourceCount("connections_accepted_total", "Connections accepted."), func(s *ipc.SourceStats) uint64 { return s.Accepted.Load() }},
	{sourceCount("connections_refused_total", "Connections closed at once: over the limit, or not allowed."),
		func(s *ipc.SourceStats) uint64 { return s.TurnedAway.Load() }},
	{sourceCount("messages_received_total", "Messages that arrived whole."), func(s *ipc.SourceStats) uint64 { return s.Received.Load() }},
	{sourceCount("messages_handled_total", "Messages that a worker answered, and not with a failure."),
		func(s *ipc.SourceStats) uint64 { return s.Handled.Load() }},
	{sourceCount("messages_failed_total", "Messages that ended in a failure."), func(s *ipc.SourceStats) uint64 { return s.Failed.Load() }},
	{sourceCount("messages_retried_total", "Deliveries that failed and were repeated."), func(s *ipc.SourceStats) uint64 { return s.Retried.Load() }},
	{sourceCount("messages_given_up_total", "Messages that failed every attempt."), func(s *ipc.SourceStats) uint64 { return s.GivenUp.Load() }},
	{sourceCount("messages_spooled_total", "Messages kept for the next start."), func(s *ipc.SourceStats) uint64 { return s.Spooled.Load() }},
	{sourceCount("messages_lost_total", "Messages that the stop left unhandled and nothing keeps."),
		func(s *ipc.SourceStats) uint64 { return s.Lost.Load() }},
	{sourceCount("queues_remade_total", "Times that somebody had removed the System V queue."),
		func(s *ipc.SourceStats) uint64 { return s.Remade.Load() }},
}

func sourceCount(name, help string) desc { return describe(name, help, "source") }

func source(e emitter, s *ipc.SourceStats) {
	e.gauge(connectionsDesc, float64(s.Connections.Load()), s.Name)
	for _, c := range sourceCounts {
		e.counter(c.desc, float64(c.value(s)), s.Name)
	}
	for reason, n := range map[string]uint64{
		"too-big": s.FramesTooBig.Load(), "partial": s.FramesPartial.Load(), "tls": s.HandshakesFailed.Load(),
	} {
		e.counter(frameErrorsDesc, float64(n), s.Name, reason)
	}
}
