#!/bin/sh
# Print the Arm instructions that one inference takes on a core, counted by an emulator:
#   docker/icount.sh ROOT CORE
# ROOT is the unpacked file system of an arm64 image (docker export), CORE cortex-a53, cortex-a72
# or cortex-a76. A count is no time: it knows no cache and no pipeline. It repeats to 0.05 %,
# where times do not. Needs root, gcc, and on x86-64 QEMU 7.2 of Debian 12, fetched into
# build/icount: newer ones in Debian take no plugins.
set -eu
cd "$(dirname "$0")/.."
root=$(realpath "$1")
case $2 in
  cortex-a53) part=0xd03 more= ;;
  cortex-a72) part=0xd08 more= ;;
  cortex-a76) part=0xd0b more=' asimdhp asimddp' ;;
  *) echo "icount.sh: no core $2; known: cortex-a53, cortex-a72, cortex-a76" >&2; exit 2 ;;
esac
state=$PWD/build/icount
mkdir -p "$state/cpu"
if ! [ -x "$state/usr/bin/qemu-aarch64" ]; then
  version=$(apt-cache madison qemu-user | sed -n 's/.*| *\(1:7\.2[^ ]*\) .*/\1/p' | head -1)
  (cd "$state" && apt-get download -q "qemu-user=$version" libcapstone4 liburing2 >/dev/null 2>&1)
  for file in "$state"/*.deb; do dpkg-deb -x "$file" "$state"; done
fi
gcc -Wall -Wextra -shared -fPIC -O2 -o "$state/icount.so" docker/icount.c

# What this machine says of its own processor would make the engine choose wrong kernels.
printf 'processor\t: 0\nFeatures\t: fp asimd aes pmull sha1 sha2 crc32%s\n' "$more" > "$state/cpuinfo"
printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\n' "$part" \
  >> "$state/cpuinfo"
printf 'CPU revision\t: 0\n' >> "$state/cpuinfo"
echo 0 > "$state/cpu/present"
echo 0 > "$state/cpu/possible"

count() {  # N inferences: instructions of the whole program
  program="
import sys
sys.path[:0] = ['/usr/lib/python3/dist-packages']
from pathlib import Path
from pipeline.runtime.engines import open_model
files = Path('$root/model').iterdir()
model = open_model(next(path for path in files if path.suffix in ('.tflite', '.onnx')))
for _ in range($1): model.invoke()"
  # shellcheck disable=SC2016 # expanded in the namespace
  unshare --mount env STATE="$state" ROOT="$root" CORE="$2" PROGRAM="$program" sh -euc '
    mount --bind "$STATE/cpuinfo" /proc/cpuinfo
    mount --bind "$STATE/cpu" /sys/devices/system/cpu
    LD_LIBRARY_PATH=$STATE/usr/lib/x86_64-linux-gnu QEMU_CPU=$CORE QEMU_PLUGIN=$STATE/icount.so \
      ICOUNT_OUT=$STATE/count timeout 120 "$STATE/usr/bin/qemu-aarch64" -L "$ROOT" \
      -U LD_LIBRARY_PATH -E PYTHONHASHSEED=0 -E OMP_NUM_THREADS=1 -E OPENBLAS_NUM_THREADS=1 \
      -E ORT_DISABLE_TELEMETRY=1 "$ROOT/usr/bin/python3" -S -c "$PROGRAM" >&2'
  cat "$state/count"
  rm "$state/count"
}

few=$(count 10 "$2")
many=$(count 110 "$2")
echo "$(((many - few) / 100)) instructions an inference on $2"
