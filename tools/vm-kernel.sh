#!/bin/sh
# Gets the kernel that e2e/vm boots: Debian's for clouds, out of its package, with
# the module that mounts a file as a disk.
#
#   tools/vm-kernel.sh DIRECTORY     makes DIRECTORY/vmlinuz and DIRECTORY/loop.ko
#
# The package is not installed: that would make a boot loader's files of it.
# A kernel that is there already is kept.
set -eu
to=$1
[ ! -e "$to/vmlinuz" ] || exit 0
name=linux-image-cloud-amd64
latest() { apt-cache depends "$name" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9]\)/\1/p' | head -n 1; }
package=$(latest)
if [ -z "$package" ]; then
	apt-get update -q
	package=$(latest)
fi
[ -n "$package" ] || { echo "apt has no $name" >&2; exit 1; }
mkdir -p "$to"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
(cd "$temporary" && apt-get download -q -o APT::Sandbox::User=root "$package")
dpkg-deb -x "$temporary"/*.deb "$temporary/root"
cp "$temporary"/root/lib/modules/*/kernel/drivers/block/loop.ko "$to/loop.ko"
cp "$temporary"/root/boot/vmlinuz-* "$to/vmlinuz.new"
mv "$to/vmlinuz.new" "$to/vmlinuz"
