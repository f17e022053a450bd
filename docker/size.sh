#!/bin/sh
# Refuse an image that takes more than its budget on disk, in MB of 2^20 bytes; 0 is no budget.
#   size.sh FOLDER LARGEST
set -eu
size=$(du -sm "$1")
size=${size%%[!0-9]*}
if [ "$2" != 0 ] && [ "$size" -gt "$2" ]; then
  echo "the image takes $size MB, more than its budget of $2" >&2
  exit 1
fi
echo "$size" > /size
