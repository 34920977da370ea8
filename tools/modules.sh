#!/bin/sh
# Copies the packages that the modules worker, client and feeders share with poolinit into
# these modules. A program that uses one of the modules then needs no other module.
#
#   tools/modules.sh [DIRECTORY]     where the modules are; default: the repository
#
# Only the import paths of the copies differ. A test compares them (go test -run
# Modules .).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=${1:-$root}
module=github.com/poolinit/poolinit

# copy MODULE "PACKAGE ..."
copy() {
	for package in $2; do
		to=$target/$1/internal/${package##*/}
		rm -rf "$to"
		mkdir -p "$to"
		for file in "$root/$package"/*.go; do
			case $file in
			*_test.go) ;;
			*) sed "s,\"$module/ipc/,\"$module/$1/internal/," "$file" >"$to/${file##*/}" ;;
			esac
		done
	done
}

copy worker ipc/frame
copy feeders "ipc/frame internal/testkit/strict"
copy client "ipc/frame ipc/dial"
