#!/bin/sh
# Makes the files beside it from the recordings of the patch on a real kernel: sh condense.sh DIR-OF-RECORDINGS
# What is kept: what the kernel said of its watch threads, without time stamps, and who was there in which state.
set -eu
from=$1
to=$(dirname "$0")

said() {
  cat "$@" | sed -nE 's/^\[ *[0-9.]+\] xenbus: (lab: |default )/\1/p' | sed 's/^lab: //'
}

said "$from"/20-create-destroy/0?-*.dmesg.txt >"$to/20-create-destroy.txt"
said "$from"/30-without-node/whole.dmesg.txt >"$to/30-without-node.txt"
said "$from"/40-stall-blkback-flush/18-whole-episode.dmesg.txt >"$to/40-stall-blkback-flush.txt"
said "$from"/50-stall-netback/11-healed.dmesg.txt >"$to/50-stall-netback.txt"
said "$from"/51-stall-netback-mtwatch-off/11-healed.dmesg.txt >"$to/51-stall-netback-mtwatch-off.txt"

# Each write and removal with its exit status, the threads that are there after it, and what was said meanwhile.
# 30 kept no log of its own: its one event is in the log of the whole folder.
for file in "$from"/10-mtwatch-nodes/[0-9]*-*.txt; do
  name=$(basename "$file" .txt)
  case $name in 19b-*) continue ;; esac
  echo "== $name"
  sed -nE -e '1p' -e 's/^--- exit status: /exit /p' \
    -e 's/^ *[0-9]+ ([A-Z]) +[a-z_]+ +(xen-mtwatch-[0-9]+|xenwatch)$/\1 \2/p' \
    -e 's/^ *[0-9]+ (xen-mtwatch-[0-9]+)$/S \1/p' \
    -e 's/^\[ *[0-9.]+\] xenbus: lab: /| /p' \
    -e 's/^\[ *[0-9.]+\] xenbus: default/| default/p' "$file"
  if [ "$name" = 30-cleanup ]; then said "$from"/10-mtwatch-nodes/dmesg-whole.txt | sed -n 's/.*#35/| xenwatch: &/p' |
    sed 's/xenwatch: xenwatch: /xenwatch: /'; fi
done >"$to/10-mtwatch-nodes.txt"

for file in "$from"/[345]*/*.ps.txt; do
  echo "$(basename "$(dirname "$file")" | cut -c1-2)/$(basename "$file" .ps.txt)$(
    sed -nE 's/^ *[0-9]+ ([A-Z])[^ ]* +[a-z_]+ +(xen-mtwatch-[0-9]+|xenwatch)$/ \2:\1/p' "$file" | tr -d '\n'
  )"
done >"$to/threads.txt"

# What xl said and how it ended, where it said anything of libxl.
for file in "$from"/4*/[01]*.txt "$from"/5*/[01]*.txt; do
  case $file in *.ps.txt | *.dmesg.txt | *.writes.txt) continue ;; esac
  grep -q '^libxl: ' "$file" || continue
  echo "== $(basename "$(dirname "$file")" | cut -c1-2)/$(basename "$file" .txt)"
  sed -nE -e 's/^--- exit status: /exit /p' -e '/^libxl: /p' "$file"
done >"$to/commands.txt"
