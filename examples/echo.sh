#!/bin/sh
# A worker in shell: it answers each line with itself.
#
#   poolinit -n 4 --deliver lines --listen tcp://127.0.0.1:8089 -- examples/echo.sh
#   echo hello | poolinit send tcp://127.0.0.1:8089

# The stop signal follows the end of the messages. A shell runs its trap, and
# finishes what it is at.
trap : TERM

echo "started: worker $POOLINIT_WORKER_ID of $POOLINIT_WORKERS, generation $POOLINIT_GENERATION, pid $$"
n=0
# printf, since the echo of some shells takes -n or \t for its own.
while IFS= read -r line <&3; do
	n=$((n + 1))
	printf '%s\n' "$line" >&3
done
echo "stopping after $n messages"
