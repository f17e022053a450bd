#!/bin/sh
# Write the locks again: every wheel of every architecture with its digest.
#   docker/lock.sh
# Versions are those below; the digests are of what the package index has for them.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
common="numpy==2.4.6 pillow==13.0.0 waitress==3.0.2 multipart==2.0.1"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

lock() {  # NAME ARCHITECTURES WHEEL...
  name=$1 machines=$2
  shift 2
  for machine in $machines; do
    "$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: \
      --python-version 311 --implementation cp --platform "manylinux_2_28_$machine" \
      --platform "manylinux_2_27_$machine" --platform "manylinux_2_34_$machine" \
      --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" \
      -d "$scratch/$name" "$@"
  done
  {
    echo "# Made by docker/lock.sh. pip installs exactly these files, without looking for more."
    for wheel in "$@"; do
      file=$(echo "${wheel%%==*}" | tr - _)
      echo "$wheel \\"
      find "$scratch/$name" -name "$file-*" -print0 | sort -z | xargs -0 sha256sum |
        sed 's/\([0-9a-f]*\) .*/    --hash=sha256:\1 \\/' | sed '$s/ \\$//'
    done
  } > "lock/$name.txt"
}

# shellcheck disable=SC2086 # several words are meant
lock litert "x86_64 aarch64" ai-edge-litert==2.3.0 $common
# shellcheck disable=SC2086
lock onnxruntime "x86_64 aarch64" onnxruntime==1.31.1 $common
# Debian's own numpy and Pillow: the index has none for this architecture.
lock tflite-armv7 "armv7l" tflite-runtime==2.14.0 waitress==3.0.2 multipart==2.0.1
