#!/bin/sh
# Prints the licences of all that is in a binary, which must go wherever it goes:
# our own, Go's, and those of the modules that are compiled in.
#
#   tools/licenses.sh BINARY     GO is taken from the environment
set -eu
binary=$(realpath "$1")
cd "$(dirname "$0")/.."
go=${GO:-go}
export GOWORK=off

# print NAME DIRECTORY
print() {
	found=
	for file in "$2"/LICENSE* "$2"/NOTICE* "$2"/COPYING*; do
		if [ -f "$file" ]; then
			printf '%s: %s\n\n' "$1" "${file##*/}"
			cat "$file"
			printf '\n\n'
			found=yes
		fi
	done
	if [ -z "$found" ]; then
		echo "$0: no licence of $1 in $2" >&2
		exit 1
	fi
}

print poolinit .
print Go "$("$go" env GOROOT)"
"$go" version -m "$binary" | while read -r kind module version _; do
	if [ "$kind" = dep ]; then
		print "$module $version" "$("$go" list -m -f '{{.Dir}}' "$module")"
	fi
done
