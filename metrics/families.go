package metrics

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/metrics/status"
	"github.com/poolinit/poolinit/supervisor"
)

// The metrics of a pool, each list of families next to the function that returns
// their values. docs/metrics.md has the table of all of them, which a test compares.

// addPool adds the metrics of a pool as it is now.
func addPool(out *output, view *status.View, signals map[string]uint64) {
	s := view.Look()
	out.add(poolFamilies, []labels{nil}, func(int) []float64 { return poolValues(s) })
	addCounts(out, s)
	addWords(out, signalFamilies, "signal", slices.Sorted(maps.Keys(signals)), signals)
	ids := make([]labels, len(s.Pool.Workers))
	for i := range ids {
		ids[i] = labels{label("worker", strconv.Itoa(i))}
	}
	out.add(processFamilies, ids, func(i int) []float64 { return processValues(s, i) })
	if !s.HasMessages() {
		return
	}
	out.add(queueFamilies, []labels{nil}, func(int) []float64 {
		q := &s.Queue
		return []float64{
			float64(q.Messages), float64(q.Bytes), q.Oldest.Seconds(), float64(q.InFlight),
			float64(view.QueueMessages), float64(view.QueueBytes), boolValue(q.Paused), float64(q.Delayed), float64(q.Isolated),
			float64(q.Held), float64(q.Replies), float64(view.ReplyBytes),
		}
	})
	out.addHistogram(&waitTime, toPrometheus(&s.Queue.Waiting))
	out.addHistogram(&handleTime, toPrometheus(&s.Queue.Handling))
	addWorkers(out, s, ids)
	addSources(out, s.Sources())
	if spool := s.Spool(); spool != nil {
		addSpool(out, spool)
	}
}

var spoolFamilies = []family{
	{"poolinit_spool_files", "Messages in the spool.", gauge},
	{"poolinit_spool_bytes", "Bytes that the files of the spool take, in blocks of 4 KiB.", gauge},
	{"poolinit_spool_limit_bytes", "Bytes that they may take (--spool-bytes); 0: no limit.", gauge},
}

var spoolLostFamilies = []family{{"poolinit_spool_lost_total", "Messages that the spool could not keep, by why.", counter}}

func addSpool(out *output, s *ipc.SpoolStats) {
	out.add(spoolFamilies, []labels{nil}, func(int) []float64 {
		return []float64{float64(s.Files), float64(s.Bytes), float64(s.Limit)}
	})
	reasons := []labels{{label("reason", "limit")}, {label("reason", "error")}, {label("reason", "slow")}}
	out.add(spoolLostFamilies, reasons, func(i int) []float64 {
		return []float64{float64([...]uint64{s.LostLimit, s.LostError, s.LostSlow}[i])}
	})
}

var poolFamilies = []family{
	{"poolinit_workers_wanted", "Workers that there should be.", gauge},
	{"poolinit_generation", "Generation of the workers that are started now; grows with each reload.", gauge},
	{"poolinit_reload_running", "1 while a reload is under way.", gauge},
	{"poolinit_ready", "1 if the pool serves, as /readyz says.", gauge},
	{"poolinit_stopping", "1 while the pool stops.", gauge},
	{"poolinit_orphans_reaped_total", "Processes reaped that were nobody's worker.", counter},
}

func poolValues(s *status.Snapshot) []float64 {
	ready, _ := s.Ready()
	return []float64{
		float64(s.Pool.Wanted), float64(s.Pool.Generation), boolValue(s.Pool.Reload.Running), boolValue(ready),
		boolValue(s.Pool.Stopping != ""), float64(s.Reaper.Orphans),
	}
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Families with one label, whose value is one of a few words. Every word is there
// from the start.
var (
	stateFamilies   = []family{{"poolinit_workers", "Workers by what they do now.", gauge}}
	waitingFamilies = []family{{"poolinit_restarts_waiting", "Workers that wait for their next start (backoff).", gauge}}
	exitFamilies    = []family{{"poolinit_worker_exits_total", "Processes that ended, or could not be started, by why.", counter}}
	reloadFamilies  = []family{{"poolinit_reloads_total", "Rolling reloads that ended, by how.", counter}}
	signalFamilies  = []family{{"poolinit_signals_received_total", "Signals that came, also those that are passed on.", counter}}
)

func addCounts(out *output, s *status.Snapshot) {
	states := make(map[supervisor.State]int)
	for i := range s.Pool.Workers {
		states[s.State(i)]++
	}
	addWords(out, stateFamilies, "state", status.States(), states)
	out.add(waitingFamilies, []labels{nil}, func(int) []float64 { return []float64{float64(states[supervisor.Backoff])} })
	addWords(out, exitFamilies, "reason", supervisor.Causes(), s.Pool.Exits)
	addWords(out, reloadFamilies, "result", supervisor.Outcomes(), s.Pool.Reload.Results)
}

var processFamilies = []family{
	{"poolinit_worker_starts_total", "Processes started.", counter},
	{"poolinit_worker_uptime_seconds", "Age of the process.", gauge},
	{"poolinit_worker_memory_bytes", "Resident memory of the process.", gauge},
	{"poolinit_worker_cpu_seconds_total", "CPU time of all processes of the worker.", counter},
}

func processValues(s *status.Snapshot, i int) []float64 {
	w, cpu := &s.Pool.Workers[i], s.Usage[i].CPU.Seconds()
	if s.Usage[i].Gone {
		cpu = unknown // a counter that decreases would look like one that was reset
	}
	return []float64{float64(w.Starts), s.Uptime(i).Seconds(), float64(s.Usage[i].RSS), cpu}
}

// Families about messages.
var (
	queueFamilies = []family{
		{"poolinit_queue_messages", "Messages that wait for a worker.", gauge},
		{"poolinit_queue_bytes", "Their bytes.", gauge},
		{"poolinit_queue_oldest_seconds", "Age of the message that has waited longest.", gauge},
		{"poolinit_in_flight_messages", "Messages with workers.", gauge},
		{"poolinit_queue_limit_messages", "The value of --queue-messages.", gauge},
		{"poolinit_queue_limit_bytes", "The value of --queue-bytes.", gauge},
		{"poolinit_paused", "1 while no messages are handed to workers.", gauge},
		{"poolinit_queue_delayed_messages", "Messages, of those that wait, whose retry is not due yet.", gauge},
		{"poolinit_queue_isolated_messages", "Messages, of those that wait, that are to be delivered alone.", gauge},
		{"poolinit_queue_held_messages", "Messages, of those that wait, whose client has to read replies first.", gauge},
		{"poolinit_reply_bytes", "Memory of the replies that wait for their clients.", gauge},
		{"poolinit_reply_limit_bytes", "The value of --reply-bytes.", gauge},
	}
	waitTime   = family{"poolinit_message_wait_seconds", "From a message's arrival until its worker began with it.", histogram}
	handleTime = family{"poolinit_message_handle_seconds", "From there to the worker's answer.", histogram}

	workerFamilies = []family{
		{"poolinit_worker_busy_seconds_total", "Time with messages in hand; its rate is the utilization.", counter},
		{"poolinit_worker_in_hand_messages", "Messages with the worker.", gauge},
		{"poolinit_worker_held_seconds", "How long the worker has had the oldest message in its hands.", gauge},
		{"poolinit_worker_window_messages", "Messages that may be on the way to the worker at a time.", gauge},
		{"poolinit_worker_newborn", "1 while the worker is fed last, until it has answered a message.", gauge},
		{"poolinit_worker_failing", "1 while the worker is fed less, because it fails every message.", gauge},
	}
	workerDoneFamilies = []family{{"poolinit_worker_messages_total", "Messages that the worker finished, by how.", counter}}
)

func addWorkers(out *output, s *status.Snapshot, ids []labels) {
	out.add(workerFamilies, ids, func(i int) []float64 {
		w := &s.Queue.Workers[i]
		return []float64{
			w.Busy.Seconds(), float64(w.InHand), w.Held.Seconds(), float64(w.Window), boolValue(w.Newborn), boolValue(w.Failing),
		}
	})
	handled, failed := label("result", "handled"), label("result", "failed")
	var results []labels
	for _, id := range ids {
		results = append(results, labels{handled, id[0]}, labels{failed, id[0]})
	}
	out.add(workerDoneFamilies, results, func(i int) []float64 {
		w := &s.Queue.Workers[i/2]
		return []float64{float64([...]uint64{w.Handled, w.Failed}[i%2])}
	})
}

var sourceFamilies = []family{
	{"poolinit_connections", "Connections that are open.", gauge},
	{"poolinit_connections_accepted_total", "Connections accepted.", counter},
	{"poolinit_connections_refused_total", "Connections closed at once: over the limit, or not allowed.", counter},
	{"poolinit_connections_cut_off_total", "Connections closed because their client did not read its replies.", counter},
	{"poolinit_messages_received_total", "Messages that arrived whole.", counter},
	{"poolinit_messages_handled_total", "Messages that a worker answered, and not with a failure.", counter},
	{"poolinit_messages_failed_total", "Messages that ended in a failure.", counter},
	{"poolinit_messages_retried_total", "Deliveries that failed and were repeated.", counter},
	{"poolinit_messages_given_up_total", "Messages that failed every attempt.", counter},
	{"poolinit_messages_expired_total", "Messages that no worker had in time (expires=).", counter},
	{"poolinit_messages_spooled_total", "Messages kept for the next start.", counter},
	{"poolinit_messages_lost_total", "Messages that the stop left unhandled and nothing keeps.", counter},
	{"poolinit_queues_remade_total", "Times that somebody had removed the System V queue.", counter},
}

var frameErrorFamilies = []family{{"poolinit_frame_errors_total", "Connections that broke the protocol, by how.", counter}}

func addSources(out *output, list []*ipc.SourceStats) {
	names, errors, seen := make([]labels, len(list)), []labels(nil), make(map[string]int)
	for i, s := range list {
		name := strings.ToValidUTF8(s.Name, "?")
		if seen[name]++; seen[name] > 1 { // --listen tcp://127.0.0.1:0, twice
			name += "#" + strconv.Itoa(seen[name])
		}
		names[i] = labels{label("source", name)}
		for _, reason := range []string{"too-big", "partial", "tls", "not-tagged"} {
			errors = append(errors, labels{label("reason", reason), names[i][0]})
		}
	}
	out.add(sourceFamilies, names, func(i int) []float64 {
		s := list[i]
		return []float64{
			float64(s.Connections.Load()), float64(s.Accepted.Load()), float64(s.TurnedAway.Load()), float64(s.CutOff.Load()), float64(s.Received.Load()),
			float64(s.Handled.Load()), float64(s.Failed.Load()), float64(s.Retried.Load()), float64(s.GivenUp.Load()),
			float64(s.Expired.Load()), float64(s.Spooled.Load()), float64(s.Lost.Load()), float64(s.Remade.Load()),
		}
	})
	out.add(frameErrorFamilies, errors, func(i int) []float64 {
		s := list[i/4]
		n := [...]uint64{s.FramesTooBig.Load(), s.FramesPartial.Load(), s.HandshakesFailed.Load(), s.FramesNotTagged.Load()}[i%4]
		return []float64{float64(n)}
	})
}
