#!/bin/sh
# Make a root file system of another architecture with Python and both engines in it:
#   tests/device/rootfs.sh arm64 build/rootfs-arm64
# Needs root on Debian with apt and pip; installs mmdebstrap and qemu-user-static. Whatever
# is there and whole is kept. Nothing in it is emulated while it is made but dpkg's scripts.
set -eu
arch=${1:-arm64}
to=${2:-build/rootfs-$arch}
python=${PYTHON:-python3}

case $arch in
  arm64) wheels="ai-edge-litert==2.3.0 onnxruntime==1.31.1 numpy pillow" platform=aarch64 ;;
  *) echo "rootfs.sh: only arm64 is known, not $arch" >&2; exit 2 ;;
esac
[ -f "$to/.whole" ] && exit 0
[ "$(id -u)" = 0 ] || { echo "rootfs.sh: root is needed to make devices and owners" >&2; exit 2; }

if ! mountpoint -q /proc/sys/fs/binfmt_misc; then
  mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
fi
missing=
for package in mmdebstrap arch-test qemu-user-static binfmt-support; do
  dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
# shellcheck disable=SC2086 # several words are meant
[ -z "$missing" ] || { apt-get update -q; apt-get install -y -q --no-install-recommends $missing; }
update-binfmts --enable qemu-aarch64 2>/dev/null || true

rm -rf "$to" "$to.partial"
mkdir -p "$(dirname "$to")"
mmdebstrap -q --variant=minbase --arch="$arch" --include=python3 \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$to.partial"
# shellcheck disable=SC2086
"$python" -m pip install -q --disable-pip-version-check --only-binary=:all: \
  --target "$to.partial/usr/lib/python3/dist-packages" --python-version 311 \
  --implementation cp --platform "manylinux_2_28_$platform" \
  --platform "manylinux_2_27_$platform" --platform "manylinux_2_17_$platform" \
  --platform "manylinux2014_$platform" $wheels
rm -rf "$to.partial/var/lib/apt/lists" "$to.partial/var/cache/apt"
: > "$to.partial/.whole"
mv "$to.partial" "$to"
