package supervisor

// A State is what a slot or a worker does, as Stats shows it.
type State string

// The states.
const (
	Starting State = "starting" // the process runs, but does not count as ready yet
	Ready    State = "ready"
	Detached State = "detached" // it closed its channel, and lives on
	Stopping State = "stopping" // it was asked to stop, or said that it stops
	Backoff  State = "backoff"  // no process: it waits for the next start
	Stopped  State = "stopped"  // no process, and none to come
)

// States returns every State.
func States() []State { return []State{Starting, Ready, Detached, Stopping, Backoff, Stopped} }

// A workerState is where one process is in its life.
type workerState string

const (
	workerStarting  workerState = "starting"
	workerSettling  workerState = "settling" // started up; must stay up for minReady
	workerReady     workerState = "ready"
	workerLeaving   workerState = "leaving" // it said that it stops
	workerDetached  workerState = "detached"
	workerFinishing workerState = "finishing" // told to stop by the end of its input, with messages in hand
	workerSignalled workerState = "signalled" // its group was sent the signal to stop
	workerKilled    workerState = "killed"    // its group was sent SIGKILL
	workerReaping   workerState = "reaping"   // the process has exited
	workerSweeping  workerState = "sweeping"  // the rest of its group has to end
	workerSwept     workerState = "swept"     // the rest of its group was sent SIGKILL
	workerGivenUp   workerState = "given up"  // it survives SIGKILL: its slot goes on without it
	workerGone      workerState = "gone"
)

// shows returns what Stats calls a worker's state.
func (s workerState) shows() State {
	switch s {
	case workerStarting, workerSettling:
		return Starting
	case workerReady:
		return Ready
	case workerDetached:
		return Detached
	}
	return Stopping
}

// A workerEvent is what happens to a worker.
type workerEvent string

const (
	startedUp        workerEvent = "started up"         // READY=1, or at once where no worker has to say so
	answeredOne      workerEvent = "answered one"       // message, without failure
	stayedUp         workerEvent = "stayed up"          // minReady elapsed
	becameLate       workerEvent = "became late"        // ReadyTimeout elapsed
	announcedStop    workerEvent = "announced stop"     // STOPPING=1
	missedWatchdog   workerEvent = "missed watchdog"    // no WATCHDOG=1 in time
	handledShare     workerEvent = "handled its share"  // of messages
	failedInRow      workerEvent = "failed in a row"    // at too many messages
	heldTooLong      workerEvent = "held message"       // longer than the message timeout
	brokeProtocol    workerEvent = "broke protocol"     //
	closedChannel    workerEvent = "closed channel"     // and is not exiting
	orderedToStop    workerEvent = "ordered to stop"    // by its slot
	orderedToDie     workerEvent = "ordered to die"     // by the pool, which kills all workers
	answeredAll      workerEvent = "answered all"       // nothing is left in its hands
	lastPartBegan    workerEvent = "last part began"    // little time is left before SIGKILL
	graceElapsed     workerEvent = "grace elapsed"      // SIGKILL is due
	killGraceElapsed workerEvent = "kill grace elapsed" // SIGKILL had no effect in time
	exited           workerEvent = "exited"             // the process, not its group
	groupLeft        workerEvent = "group left"         // the process has left others in its group
	groupGone        workerEvent = "group gone"
	poolEnded        workerEvent = "pool ended" // no place has a worker any more
)

type (
	workerRule  = rule[workerState, workerEvent, *worker]
	workerTable = table[workerState, workerEvent, *worker]
)

// workerRules is the whole life of a worker. Causes that can wait for messages
// in hand lead to finishing, the others to signalled.
func workerRules() []workerRule {
	one := func(s ...workerState) []workerState { return s }
	alive := one(workerStarting, workerSettling, workerReady, workerLeaving, workerDetached)
	attached := one(workerStarting, workerSettling, workerReady, workerLeaving)
	obeying := one(workerFinishing, workerSignalled)
	return []workerRule{
		{in: one(workerStarting), on: startedUp, when: (*worker).mustSettle, to: workerSettling, do: (*worker).settle},
		{in: one(workerStarting), on: startedUp, to: workerReady, do: (*worker).becomeReady},
		{in: one(workerStarting), on: answeredOne, to: workerReady, do: (*worker).becomeReady},
		{in: one(workerStarting, workerSettling), on: stayedUp, to: workerReady, do: (*worker).becomeReady},
		{in: attached, on: announcedStop, to: workerLeaving, do: (*worker).stopFeeding},
		{in: alive, on: handledShare, when: (*worker).isNotDue, do: (*worker).becomeDue},
		{in: alive, on: failedInRow, when: (*worker).isNotDue, do: (*worker).becomeDueByFailures},
		{in: attached, on: closedChannel, to: workerDetached, do: (*worker).detach},

		{in: one(workerStarting, workerSettling, workerLeaving), on: becameLate, to: workerFinishing, do: (*worker).stopForReadyTimeout},
		{in: alive, on: orderedToStop, to: workerFinishing, do: (*worker).finish},
		{in: alive, on: missedWatchdog, to: workerSignalled, do: (*worker).stopForWatchdog},
		{in: alive, on: heldTooLong, to: workerSignalled, do: (*worker).stopForTimeout},
		{in: alive, on: brokeProtocol, to: workerSignalled, do: (*worker).stopForProtocol},
		{in: alive, on: orderedToDie, to: workerKilled, do: (*worker).killUnasked},
		{in: alive, on: exited, to: workerReaping, do: (*worker).stopFeeding},

		{in: one(workerFinishing), on: answeredAll, to: workerSignalled, do: (*worker).signalOrder},
		{in: one(workerFinishing), on: lastPartBegan, to: workerSignalled, do: (*worker).signalOrder},
		{in: one(workerFinishing), on: heldTooLong, to: workerSignalled, do: (*worker).signalForTimeout},
		{in: obeying, on: orderedToStop, do: (*worker).shortenGrace},
		{in: obeying, on: orderedToDie, to: workerKilled, do: (*worker).kill},
		{in: obeying, on: graceElapsed, to: workerKilled, do: (*worker).killLate},
		{in: obeying, on: exited, to: workerReaping},

		{in: one(workerKilled), on: killGraceElapsed, to: workerGivenUp, do: (*worker).giveUp},
		{in: one(workerKilled), on: exited, to: workerReaping},
		{in: one(workerGivenUp), on: exited, to: workerGone, do: (*worker).exitLate},
		{in: one(workerGivenUp), on: poolEnded, to: workerGone},

		{in: one(workerReaping), on: groupGone, to: workerGone, do: (*worker).sayGone},
		{in: one(workerReaping), on: groupLeft, when: (*worker).wasKilled, to: workerSwept, do: (*worker).killRest},
		{in: one(workerReaping), on: groupLeft, when: (*worker).endedByItself, to: workerSweeping, do: (*worker).sweepOwn},
		{in: one(workerReaping), on: groupLeft, to: workerSweeping, do: (*worker).sweep},
		{in: one(workerSweeping), on: orderedToStop, do: (*worker).shortenGrace},
		{in: one(workerSweeping), on: orderedToDie, to: workerSwept, do: (*worker).killRest},
		{in: one(workerSweeping), on: graceElapsed, to: workerSwept, do: (*worker).killRest},
		{in: one(workerSweeping, workerSwept), on: groupGone, to: workerGone, do: (*worker).sayGone},
		{in: one(workerSwept), on: killGraceElapsed, to: workerGone, do: (*worker).leaveRest},
	}
}

// A slotState is what happens at one place of the pool. Each worker there has a
// workerState of its own: the slot's worker, its successor, and detached ones,
// which do not hold the place.
type slotState string

const (
	slotLaunching     slotState = "launching"      // no worker: one is being started
	slotBackoff       slotState = "backoff"        // no worker: the next start waits
	slotStopped       slotState = "stopped"        // no worker, and none to come, unless a reload wants one
	slotOccupied      slotState = "occupied"       // a worker has the place
	slotProving       slotState = "proving"        // a new worker has the place, and its replacement waits until it is ready
	slotReplacing     slotState = "replacing"      // stop-first: the worker was told to stop; then another one is started
	slotLaunchingNext slotState = "launching next" // start-first: the successor is being started
	slotAwaitingNext  slotState = "awaiting next"  // start-first: the successor has to get ready
	slotDiscarding    slotState = "discarding"     // start-first: the successor detached; it was told to stop
	slotHandingOver   slotState = "handing over"   // start-first: the successor is ready; the worker was told to stop
	slotVacating      slotState = "vacating"       // the pool was scaled down: the worker was told to stop, and none follows
	slotParked        slotState = "parked"         // the pool was scaled down: no worker, until it is scaled up
	slotHalted        slotState = "halted"         // the pool stops: every worker was told to stop
)

// A slotEvent is what happens to a slot.
type slotEvent string

const (
	workerStarted     slotEvent = "worker started"
	startFailed       slotEvent = "start failed"
	backoffElapsed    slotEvent = "backoff elapsed"
	skipAsked         slotEvent = "skip asked"      // the backoff, by a drain
	reloadAsked       slotEvent = "reload asked"    // by the pool's reload
	workerFellDue     slotEvent = "worker due"      // by its messages, lifetime or memory, or to try that again
	livedLong         slotEvent = "lived long"      // HealthyAfter elapsed
	workerAnswered    slotEvent = "worker answered" // a message without failure, after failures in a row
	workerBecameReady slotEvent = "worker ready"    //
	workerWasDetached slotEvent = "worker detached"
	workerEnded       slotEvent = "worker ended"
	nextBecameReady   slotEvent = "next ready"
	nextWasDetached   slotEvent = "next detached"
	nextEnded         slotEvent = "next ended"
	detachedEnded     slotEvent = "detached ended" // a worker that had been detached from the slot
	scaledDown        slotEvent = "scaled down"    // no worker is wanted in this slot
	scaledUp          slotEvent = "scaled up"      // one is
	stopAsked         slotEvent = "stop asked"     // the pool sends the stop signal
)

type (
	slotRule  = rule[slotState, slotEvent, *slot]
	slotTable = table[slotState, slotEvent, *slot]
)

// slotRules is the whole life of a slot. What a state has no rule for it
// ignores; what is asked by a channel that waits is heard in a later state.
func slotRules() []slotRule {
	one := func(s ...slotState) []slotState { return s }
	waiting := one(slotBackoff, slotStopped, slotOccupied, slotProving, slotReplacing, slotAwaitingNext, slotDiscarding, slotHandingOver, slotVacating, slotParked)
	all := append(one(slotHalted), waiting...)
	holds := one(slotOccupied, slotProving)
	staffed := append(one(slotReplacing, slotAwaitingNext, slotDiscarding, slotHandingOver), holds...)
	gettingNext := one(slotAwaitingNext, slotDiscarding)
	return []slotRule{
		{in: one(slotLaunching), on: workerStarted, when: (*slot).isReplacing, to: slotProving, do: (*slot).occupy},
		{in: one(slotLaunching), on: workerStarted, to: slotOccupied, do: (*slot).occupy},
		{in: one(slotLaunching), on: startFailed, when: (*slot).isBroken, to: slotStopped, do: (*slot).reportBroken},
		{in: one(slotLaunching), on: startFailed, when: (*slot).restarts, to: slotBackoff, do: (*slot).comeBack},
		{in: one(slotLaunching), on: startFailed, to: slotStopped, do: (*slot).comeBack},

		{in: one(slotBackoff), on: backoffElapsed, to: slotLaunching},
		{in: one(slotBackoff), on: skipAsked, when: (*slot).maySkip, to: slotLaunching, do: (*slot).noteSkip},
		{in: one(slotBackoff), on: reloadAsked, to: slotLaunching, do: (*slot).accept},
		{in: one(slotStopped), on: reloadAsked, to: slotLaunching, do: (*slot).revive},

		{in: one(slotOccupied), on: reloadAsked, when: (*slot).startsFirst, to: slotLaunchingNext, do: (*slot).accept},
		{in: one(slotOccupied), on: reloadAsked, to: slotReplacing, do: (*slot).acceptAndStop},
		{in: one(slotOccupied), on: workerFellDue, when: (*slot).startsFirst, to: slotLaunchingNext, do: (*slot).replaceDue},
		{in: one(slotOccupied), on: workerFellDue, to: slotReplacing, do: (*slot).replaceDueAndStop},
		{in: one(slotProving, slotReplacing, slotAwaitingNext, slotDiscarding, slotHandingOver), on: workerFellDue, do: (*slot).noteDue},
		{in: one(slotProving), on: workerBecameReady, to: slotOccupied, do: (*slot).proveReady},

		{in: holds, on: workerEnded, when: (*slot).startsAtOnce, to: slotLaunching, do: (*slot).comeBack},
		{in: holds, on: workerEnded, when: (*slot).restarts, to: slotBackoff, do: (*slot).comeBack},
		{in: holds, on: workerEnded, to: slotStopped, do: (*slot).comeBack},
		{in: holds, on: workerWasDetached, when: (*slot).isYoung, to: slotBackoff, do: (*slot).detachYoung},
		{in: holds, on: workerWasDetached, to: slotLaunching, do: (*slot).detach},

		{in: one(slotReplacing), on: workerEnded, to: slotLaunching, do: (*slot).clear},
		{in: one(slotReplacing), on: workerWasDetached, to: slotLaunching, do: (*slot).setAside},

		{in: one(slotLaunchingNext), on: workerStarted, to: slotAwaitingNext, do: (*slot).admitNext},
		{in: one(slotLaunchingNext), on: startFailed, to: slotOccupied, do: (*slot).nextFailed},
		{in: one(slotAwaitingNext), on: nextBecameReady, to: slotHandingOver, do: (*slot).stopOld},
		{in: one(slotAwaitingNext), on: nextWasDetached, when: (*slot).nextIsReady, to: slotHandingOver, do: (*slot).stopOld},
		{in: one(slotAwaitingNext), on: nextWasDetached, to: slotDiscarding, do: (*slot).discardNext},
		{in: one(slotAwaitingNext), on: nextEnded, to: slotOccupied, do: (*slot).nextFailed},
		{in: one(slotDiscarding), on: nextEnded, to: slotOccupied, do: (*slot).nextDiscarded},
		{in: gettingNext, on: workerEnded, to: slotProving, do: (*slot).succeed},
		{in: gettingNext, on: workerWasDetached, to: slotProving, do: (*slot).succeedDetached},
		{in: one(slotHandingOver), on: workerEnded, to: slotOccupied, do: (*slot).succeedReady},
		{in: one(slotHandingOver), on: workerWasDetached, to: slotOccupied, do: (*slot).succeedDetachedReady},
		{in: one(slotHandingOver), on: nextEnded, to: slotOccupied, do: (*slot).nextFailed},

		{in: staffed, on: livedLong, do: (*slot).proveHealthy},
		{in: staffed, on: workerAnswered, do: (*slot).forgetFailures},

		// Of two workers one has to be gone before the slot is vacating.
		{in: one(slotLaunchingNext), on: scaledDown, to: slotOccupied},
		{in: one(slotAwaitingNext, slotHandingOver), on: scaledDown, to: slotDiscarding, do: (*slot).stopBothForScale},
		{in: one(slotLaunching, slotBackoff, slotStopped), on: scaledDown, to: slotParked, do: (*slot).park},
		{in: one(slotOccupied, slotProving, slotReplacing), on: scaledDown, to: slotVacating, do: (*slot).stopForScale},
		{in: one(slotVacating), on: workerEnded, to: slotParked, do: (*slot).parkEnded},
		{in: one(slotVacating), on: workerWasDetached, to: slotParked, do: (*slot).parkDetached},
		{in: one(slotParked), on: scaledUp, to: slotLaunching, do: (*slot).unpark},

		{in: all, on: detachedEnded, do: (*slot).forgetDetached},
		{in: append(one(slotLaunching, slotLaunchingNext), waiting...), on: stopAsked, to: slotHalted, do: (*slot).halt},
		{in: one(slotHalted), on: workerEnded, do: (*slot).noteStopped},
		{in: one(slotHalted), on: nextEnded, do: (*slot).noteNextStopped},
		{in: one(slotHalted), on: workerWasDetached, do: (*slot).setAside},
	}
}
