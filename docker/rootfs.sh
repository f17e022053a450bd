#!/bin/sh
# Put together what a program in Python needs of Debian, for any architecture, without running
# any of it: packages are fetched and unpacked, nothing is configured, nothing is emulated.
#   rootfs.sh ARCH FOLDER [PACKAGE ...]
# There is no shell in it, no package manager, and no user but 65532.
set -eu
arch=$1
to=$2
shift 2
python=python3.11
# Python itself, and the libraries that its modules and the wheels of numpy, Pillow and the
# engines load. What is not here fails in the image's self-test, which the build runs.
set -- $python-minimal lib$python-minimal lib$python-stdlib libc6 libgcc-s1 libstdc++6 \
  zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3 libuuid1 media-types "$@"

dpkg --add-architecture "$arch"
apt-get update -q
mkdir -p "$to" fetched
cd fetched
names=
for package in "$@"; do
  case $package in
    media-types) names="$names $package" ;;  # of no architecture
    *) names="$names $package:$arch" ;;
  esac
done
# shellcheck disable=SC2086 # several words are meant
apt-get download -q $names
for file in *.deb; do dpkg-deb -x "$file" "$to"; done
cd ..
rm -rf fetched

# Nobody reads manuals there, compiles extensions, tests Python or draws with Tk.
rm -rf "$to"/usr/share/doc "$to"/usr/share/man "$to"/usr/share/lintian "$to"/usr/share/locale \
  "$to"/usr/share/bug "$to"/usr/share/gcc "$to"/usr/share/applications "$to"/usr/share/binfmts \
  "$to"/usr/lib/$python/test "$to"/usr/lib/$python/unittest "$to"/usr/lib/$python/pydoc_data \
  "$to"/usr/lib/$python/lib2to3 "$to"/usr/lib/$python/idlelib "$to"/usr/lib/$python/tkinter \
  "$to"/usr/lib/$python/distutils "$to"/usr/lib/$python/ensurepip "$to"/usr/lib/$python/turtledemo \
  "$to"/usr/lib/$python/config-* "$to"/usr/lib/*/gconv "$to"/usr/lib/*/audit "$to"/usr/bin/pdb3* \
  "$to"/usr/lib/python3/dist-packages/numpy/*/tests "$to"/usr/lib/python3/dist-packages/numpy/tests \
  "$to"/usr/lib/python3/dist-packages/numpy/f2py
ln -s $python "$to/usr/bin/python3"
# Debian chooses among several BLAS while it configures; here there is one.
for folder in "$to"/usr/lib/*/blas "$to"/usr/lib/*/lapack; do
  [ ! -d "$folder" ] || mv "$folder"/* "${folder%/*}"
done
mkdir -p "$to/tmp" "$to/etc" "$to/proc" "$to/sys" "$to/dev"
chmod 1777 "$to/tmp"
echo 'root:x:0:0:root:/:/nologin
pare:x:65532:65532:pare:/:/nologin' > "$to/etc/passwd"
echo 'root:x:0:
pare:x:65532:' > "$to/etc/group"
