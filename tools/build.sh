#!/bin/sh
# Builds poolinit as it is released: static, stripped, and small.
#
#   tools/build.sh OUTPUT     VERSION, GOARCH and GO are taken from the environment
#
# nethttpomithttp2: metrics are scraped by HTTP/1.1.
# -l: what is not on a message's way is not inlined, which saves 0.7 MB of code
# that runs once a scrape or once a handshake. The packages named after it are on
# its way, and are compiled as usual.
# -funcalign: every 16 bytes, as C compilers do, instead of 32 saves 0.1 MB.
# -E: the program begins with a few instructions of its own: see reaper/entry.
set -eu
output=$1
cd "$(dirname "$0")/.."
hot="runtime/... internal/... sync/... syscall golang.org/x/sys/... github.com/poolinit/poolinit/ipc/..."
set -- -gcflags=all=-l
for package in $hot; do
	set -- "$@" "-gcflags=$package="
done
export CGO_ENABLED=0 GOWORK=off
exec "${GO:-go}" build -trimpath -tags nethttpomithttp2 "$@" -ldflags "-s -w -funcalign=16 -E github.com/poolinit/poolinit/reaper/entry.start -X main.version=${VERSION:-}" -o "$output" .
