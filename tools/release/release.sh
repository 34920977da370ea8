#!/bin/bash
# Makes a release: for amd64 and arm64 the binary, an archive of it with its manual
# page and completions, packages, what it is made of as a CycloneDX document; and
# the checksums of all of them. The same commit and version make the same files,
# byte for byte.
#
#   tools/release/release.sh DIRECTORY
#
# VERSION (git describe), SOURCE_DATE_EPOCH (the commit's time) and GO are taken from
# the environment. DIRECTORY must not be there, or be empty.
set -euo pipefail

dist=$(realpath -m "$1")
cd "$(dirname "$0")/../.."
go=${GO:-go}
VERSION=${VERSION:-$(git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null || echo devel)}
if [ "$VERSION" = devel ]; then
	VERSION=v0.0.0-devel
fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export VERSION SOURCE_DATE_EPOCH GO=$go TZ=UTC LC_ALL=C
# No trace of the place it is built in, whether it is a clone or an archive.
export GOFLAGS="-trimpath -buildvcs=false" GOTOOLCHAIN=local GOWORK=off

# v1.2.3-4-gabcdef-dirty, four commits after v1.2.3, must not sort before it.
PACKAGE_VERSION=$(sed -E 's/^v//; s/-([0-9]+)-g([0-9a-f]+)/+\1.g\2/; s/(\+.*)-dirty$/\1.dirty/; s/-dirty$/+dirty/' <<<"$VERSION")
if ! grep -qE '^[0-9]+\.[0-9]+\.[0-9]+([-+]|$)' <<<"$PACKAGE_VERSION"; then
	echo "$0: VERSION is $VERSION, not v1.2.3 or the like" >&2
	exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PACKAGE_VERSION DIST=$dist WORK=$work
tool() { "$go" tool -modfile=tools/release/go.mod "$@"; }

mkdir -p "$dist"
if [ -n "$(ls -A "$dist")" ]; then
	echo "$0: $dist is not empty" >&2
	exit 2
fi
for ARCH in amd64 arm64; do
	GOARCH=$ARCH tools/build.sh "$dist/poolinit-linux-$ARCH"
done

# What is asked from a binary is asked from one that runs here.
host=$dist/poolinit-linux-$("$go" env GOHOSTARCH)
tools/licenses.sh "$host" >"$work/LICENSES"
"$go" -C tools/release run ./reference "$host" "$work"
gzip -9nk "$work/poolinit.1"

for ARCH in amd64 arm64; do
	export ARCH
	binary=$dist/poolinit-linux-$ARCH
	name=poolinit-$PACKAGE_VERSION-linux-$ARCH
	mkdir -p "$work/$name/completions"
	cp "$binary" "$work/$name/poolinit"
	cp README.md CHANGELOG.md "$work/LICENSES" "$work/poolinit.1" "$work/$name/"
	cp "$work/poolinit.bash" "$work/_poolinit" "$work/poolinit.fish" "$work/$name/completions/"
	chmod -R u=rwX,go=rX "$work/$name"
	tar -C "$work" --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - "$name" |
		gzip -9n >"$dist/$name.tar.gz"
	for packager in deb rpm apk; do
		tool nfpm package --config tools/release/nfpm.yaml --packager "$packager" --target "$dist" >/dev/null
	done
	tool cyclonedx-gomod bin -json -std -noserial -notimestamp -version "$VERSION" -output "$binary.cdx.json" "$binary" 2>/dev/null
done

cd "$dist"
sha256sum -- * >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" .
