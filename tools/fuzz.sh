#!/bin/sh
# Runs every fuzz target of all modules, as many at a time as there are CPUs.
#
#   tools/fuzz.sh TIME     how long each runs: 30s; GO is taken from the environment
#
# An input that fails is kept in testdata/fuzz of its package: commit it with the fix.
set -eu
cd "$(dirname "$0")/.."
export GOWORK=off TIME="$1" GO="${GO:-go}"
LOGS=$(mktemp -d)
export LOGS
trap 'rm -rf "$LOGS"' EXIT
targets=$(grep -rE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(f \*testing\.F\)' . |
	sed -E 's,^(.*)/[^/]*_test\.go:func (Fuzz[A-Za-z0-9_]*)\(.*,\1 \2,' | sort)
[ -n "$targets" ] || { echo "there is no fuzz target" >&2; exit 1; }
echo "$targets" | xargs -P "$(nproc)" -L 1 sh -c '
	log=$LOGS/$1.$$
	# The deadline can hit the engine itself, on a busy machine. Nothing has failed then.
	if (cd "$0" && "$GO" test -vet=off -run "^$" -fuzz "^$1\$" -fuzztime "$TIME" -parallel 1 .) >"$log" 2>&1 ||
		{ grep -q "^    context deadline exceeded$" "$log" && ! grep -q "Failing input" "$log"; }; then
		echo "ok   $0 $1: $(sed -n "s/^fuzz: elapsed: .*, execs: \([0-9]*\).*/\1 runs/p" "$log" | tail -n 1)"
	else
		echo "FAIL $0 $1"
		cat "$log"
		exit 1
	fi'
