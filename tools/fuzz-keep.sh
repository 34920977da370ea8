#!/bin/sh
# Keeps some inputs that fuzzing has found in testdata/fuzz, where every go test runs
# them: for each target that has none, a few of those in the go command's cache.
#
#   tools/fuzz-keep.sh     after make fuzz
#
# They are short ones, from all lengths that there are.
set -eu
cd "$(dirname "$0")/.."
export GOWORK=off
go=${GO:-go}
most=12
list=$(mktemp)
trap 'rm -f "$list"' EXIT
cache=$("$go" env GOCACHE)/fuzz
grep -rE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(f \*testing\.F\)' . |
	sed -E 's,^(.*)/[^/]*_test\.go:func (Fuzz[A-Za-z0-9_]*)\(.*,\1 \2,' | sort |
	while read -r dir target; do
		from=$cache/$(cd "$dir" && "$go" list .)/$target to=$dir/testdata/fuzz/$target
		[ -d "$from" ] && [ ! -d "$to" ] || continue
		find "$from" -type f -size -2 -printf '%s %p\n' | sort -n | cut -d' ' -f2- >"$list"
		n=$(wc -l <"$list")
		[ "$n" -gt 0 ] || continue
		mkdir -p "$to"
		awk -v n="$n" -v most=$most 'int((NR - 1) * most / n) != int((NR - 2) * most / n) || NR == 1' "$list" |
			xargs -I{} cp {} "$to/"
		echo "$dir $target: $(find "$to" -type f | wc -l) of $n"
	done
