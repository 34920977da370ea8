#!/bin/sh
# Runs the tests of several modules, and prints what gotestsum reads.
#
#   tools/test.sh DIRECTORY...     GO and RACE (-race or nothing) are taken from the environment
#
# Each module is tested as its users get it, without a workspace. The product's
# is the directory ".".
set -u
cd "$(dirname "$0")/.."
export GOWORK=off
binary=$PWD/bin/poolinit
failed=0
for module; do
	race=${RACE:-}
	unset POOLINIT_BINARY # poolinit says that it is no setting
	case $module in
	e2e/*)
		race= # with the race detector their libraries take minutes to compile
		export POOLINIT_BINARY="$binary"
		;;
	esac
	if [ "$module" = . ]; then # every sequence of events, which the race detector would slow down tenfold
		CGO_ENABLED=0 "${GO:-go}" test -json -count=1 -timeout 10m ./supervisor -run AllSequences -full || failed=1
	fi
	# -parallel: most tests of a whole poolinit wait most of the time.
	"${GO:-go}" -C "$module" test $race -json -count=1 -parallel 4 -timeout 10m ./... || failed=1
done
exit $failed
