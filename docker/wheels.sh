#!/bin/sh
# Install the wheels of a lock into a folder, for any architecture, without running them.
#   wheels.sh ARCH LOCK FOLDER
set -eu
arch=$1 lock=$2 to=$3
case $arch in
  amd64) machine=x86_64 ;;
  arm64) machine=aarch64 ;;
  arm) machine=armv7l ;;
  *) echo "wheels.sh: no wheels for $arch" >&2; exit 2 ;;
esac
if [ -s /etc/ssl/ca.pem ]; then
  export PIP_CERT=/etc/ssl/ca.pem
fi
python3 -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
  --only-binary=:all: --no-compile --python-version 311 --implementation cp \
  --platform "manylinux_2_28_$machine" --platform "manylinux_2_27_$machine" \
  --platform "manylinux_2_34_$machine" --platform "manylinux_2_17_$machine" \
  --platform "manylinux2014_$machine" --target "$to" -r "$lock"
# Tests and headers are for those who build on a library.
find "$to" -type d \( -name tests -o -name testing -o -name include -o -name f2py \
  -o -name distutils -o -name __pycache__ \) -prune -exec rm -rf {} +
find "$to" -name '*.pyi' -delete
