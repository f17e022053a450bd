#!/bin/sh
# Print the Arm instructions that one inference takes on a core, counted by an emulator:
#   docker/icount.sh ROOT CORE
# ROOT is the unpacked file system of an arm64 image (docker export), CORE cortex-a53, cortex-a72
# or cortex-a76. A count is no time: it knows no cache and no pipeline. It repeats, where times do
# not: two programs count each inference for itself, and more than 1e-5 between them is an error.
# Needs root, gcc, and on x86-64 QEMU 7.2 of Debian 12, fetched into build/icount: newer ones in
# Debian take no plugins.
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
  [ -n "$version" ] || { echo "icount.sh: apt knows no qemu-user 7.2; needs Debian 12" >&2; exit 2; }
  (cd "$state" && apt-get download -q "qemu-user=$version" libcapstone4 liburing2 >/dev/null)
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

count() {  # FILE: the instructions of each inference of one program, warmed up, smallest first
  program="
import gc, sys
from os import getppid
sys.path[:0] = ['/usr/lib/python3/dist-packages']
from pathlib import Path
from pipeline.runtime.engines import open_model
files = Path('$root/model').iterdir()
model = open_model(next(path for path in files if path.suffix in ('.tflite', '.onnx')))
gc.disable()
for _ in range(120):
    getppid()
    model.invoke()
getppid()"
  # The same addresses, hashes and random bytes each time, and one thread on one core: onnxruntime
  # asks at every kernel on which core it is, and takes another way on some. What Python compiled for the
  # first program would be read by the second.
  # shellcheck disable=SC2016 # expanded in the namespace
  unshare --mount env STATE="$state" ROOT="$root" CORE="$core" PROGRAM="$program" sh -euc '
    mount --bind "$STATE/cpuinfo" /proc/cpuinfo
    mount --bind "$STATE/cpu" /sys/devices/system/cpu
    rm -f "$STATE/counts"
    env -i PATH="$PATH" LD_LIBRARY_PATH="$STATE/usr/lib/x86_64-linux-gnu" QEMU_CPU="$CORE" \
      QEMU_PLUGIN="$STATE/icount.so" ICOUNT_OUT="$STATE/counts" \
      timeout 300 taskset --cpu-list 0 setarch --addr-no-randomize \
      "$STATE/usr/bin/qemu-aarch64" -seed 0 -L "$ROOT" \
      -U LD_LIBRARY_PATH -E PYTHONHASHSEED=0 -E PYTHONDONTWRITEBYTECODE=1 \
      -E OMP_NUM_THREADS=1 -E OPENBLAS_NUM_THREADS=1 \
      -E ORT_DISABLE_TELEMETRY=1 "$ROOT/usr/bin/python3" -S -c "$PROGRAM" >&2'
  # Python and the engine settle in the first ones.
  tail -n +21 "$state/counts" | sort -n > "$1"
}

core=$2
count "$state/first"
count "$state/second"
awk -v core="$core" '
  { of[FILENAME, FNR] = $1; n[FILENAME] = FNR; if ($1 <= 0) wrong = 1 }
  END {
    first = ARGV[1]; second = ARGV[2]
    if (wrong || n[first] != 100 || n[second] != 100) {
      print "icount.sh: not 100 positive counts in each of " first " and " second > "/dev/stderr"
      exit 1
    }
    a = of[first, 50]; b = of[second, 50]
    apart = (a > b ? a - b : b - a) / a
    printf "%d instructions an inference on %s (median of 100; %d to %d; again %d, %.1e apart)\n", \
      a, core, of[first, 1], of[first, 100], b, apart
    if (apart > 1e-5) {
      print "icount.sh: two counts differ by more than 1e-5" > "/dev/stderr"
      exit 1
    }
  }' "$state/first" "$state/second"
