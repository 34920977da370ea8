#!/bin/sh
# A worker that writes its own loop, in shell.
#
#   poolinit -n 4 --output prefix -- examples/worker.sh

# A shell runs its traps when a command has ended, or at once while it waits: a
# job is finished, the sleep is not. (The sleep gets the signal as well, since
# it goes to the whole process group.)
stopping=
trap 'stopping=yes' TERM

echo "started: worker $POOLINIT_WORKER_ID of $POOLINIT_WORKERS, generation $POOLINIT_GENERATION, pid $$"
jobs=0
while [ -z "$stopping" ]; do
	sleep 2 & wait $! # stands for waiting for a job
	[ -n "$stopping" ] && break
	jobs=$((jobs + 1))
	echo "job $jobs done"
done
echo "stopping after $jobs jobs"
