#!/bin/sh
# Build the images of a packaged run and run them, where no image registry can be reached:
#   docker/images.sh RUN TARGET...
# Needs root on Debian 12 (x86-64). Engine, emulator and builder come from Debian's packages; a
# registry on this machine stands in for the public one, so that Dockerfiles and bake file are
# used as they are. Everything lies in build/images and is stopped at the end.
set -eu
cd "$(dirname "$0")/.."
run=$1
shift
python=${PYTHON:-python3}
state=$PWD/build/images
socket=$state/docker.sock
port=5999
[ "$(id -u)" = 0 ] || { echo "images.sh: root is needed to run an engine" >&2; exit 2; }
mkdir -p "$state"

say() { echo "images.sh: $*"; }

packages() {  # what Debian 12 has, and what only its newer suites have
  if ! mountpoint -q /proc/sys/fs/binfmt_misc; then
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  fi
  apt-get update -q >/dev/null
  apt-get install -y -q --no-install-recommends mmdebstrap arch-test docker.io docker-registry \
    >/dev/null
  mkdir -p "$state/apt/lists/partial" "$state/apt/archives/partial"
  for suite in bookworm bookworm-backports trixie; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
  done > "$state/apt/sources.list"
  printf 'Package: *\nPin: release n=trixie\nPin-Priority: 50\n' > "$state/apt/preferences"
  newer="-o Dir::Etc::sourcelist=$state/apt/sources.list -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists=$state/apt/lists -o Dir::Etc::preferences=$state/apt/preferences \
    -o Dir::Cache::archives=$state/apt/archives"
  # shellcheck disable=SC2086 # several words are meant
  apt-get $newer update -q >/dev/null
  # The emulator of Debian 12 crashes onnxruntime and LiteRT in a container; this one does not.
  # shellcheck disable=SC2086
  apt-get $newer install -y -q --no-install-recommends -t bookworm-backports \
    qemu-user-static qemu-user-binfmt binfmt-support >/dev/null
  for machine in aarch64 arm; do  # the kernel keeps an older one open otherwise
    update-binfmts --disable "qemu-$machine"
    update-binfmts --enable "qemu-$machine"
  done
  if ! [ -x "$state/buildx/usr/libexec/docker/cli-plugins/docker-buildx" ]; then
    # shellcheck disable=SC2086
    (cd "$state/apt" && apt-get $newer download -q docker-buildx/trixie >/dev/null 2>&1)
    dpkg-deb -x "$state"/apt/docker-buildx_*.deb "$state/buildx"
  fi
}

base() {  # a minimal Debian under the name that the Dockerfiles ask for
  [ -s "$state/amd64.tar" ] || mmdebstrap -q --variant=minbase --arch=amd64 \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$state/amd64.tar" \
    "deb $mirror bookworm main" "deb $mirror bookworm-updates main"
}

start() {
  cat > "$state/registry.yml" <<END
version: 0.1
storage: {filesystem: {rootdirectory: $state/registry}}
http: {addr: 127.0.0.1:$port}
END
  docker-registry serve "$state/registry.yml" > "$state/registry.log" 2>&1 &
  echo $! > "$state/registry.pid"
  dockerd --data-root "$state/data" --exec-root "$state/exec" --pidfile "$state/dockerd.pid" \
    -H "unix://$socket" --bip 172.29.0.1/24 --storage-driver overlay2 \
    --registry-mirror "http://127.0.0.1:$port" > "$state/dockerd.log" 2>&1 &
  tries=0
  until docker_ version >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || { tail "$state/dockerd.log" >&2; exit 1; }
    sleep 0.5
  done
}

stop() {
  for name in dockerd registry; do
    [ -s "$state/$name.pid" ] && kill "$(cat "$state/$name.pid")" 2>/dev/null || true
  done
}

docker_() { DOCKER_HOST=unix://$socket DOCKER_BUILDKIT=1 /usr/bin/docker "$@"; }

mirror=$(sed -n 's/^URIs: *//p; s/^deb \([^[ ]*\) .*/\1/p' /etc/apt/sources.list.d/*.sources \
  /etc/apt/sources.list 2>/dev/null | head -1)
say "packages from $mirror"
packages
say "base"
base
trap stop EXIT
start
mkdir -p "$state/base"
cp "$state/amd64.tar" "$state/base/"
printf 'FROM scratch\nADD amd64.tar /\nCMD ["/bin/sh"]\n' > "$state/base/Dockerfile"
docker_ build -q --platform linux/amd64 -t "127.0.0.1:$port/library/debian:bookworm-slim" \
  "$state/base" >/dev/null
docker_ push -q "127.0.0.1:$port/library/debian:bookworm-slim" >/dev/null

say "the bake file means what it says"
DOCKER_HOST=unix://$socket "$state/buildx/usr/libexec/docker/cli-plugins/docker-buildx" bake \
  -f docker/docker-bake.hcl --print raspberry-pi-zero-2w raspberry-pi-zero-2w-armv7 \
  raspberry-pi-3b-plus raspberry-pi-4b raspberry-pi-5 smart-camera-imx8mp \
  smart-camera-rk3588 generic-x86 > "$state/bake.json"
"$python" - "$state/bake.json" docker/bake-expected.json <<'END'
import json, sys
found, wanted = (json.load(open(path)) for path in sys.argv[1:])
if found != wanted:
    sys.exit("images.sh: docker-bake.hcl no longer gives docker/bake-expected.json")
END

failed=0
for target in "$@"; do
  say "$target"
  DOCKER_HOST=unix://$socket PATH="/usr/bin:$PATH" "$python" -m pipeline.cli package "$run" \
    --target "$target" --engine docker || failed=$((failed + 1))
done
say "$# targets, $failed failed"
[ "$failed" = 0 ]
