#!/bin/sh
# Make the pools `three` and `two` with zfs-fuse 0.7.0 (Debian), pool version 23: sh zfs-fuse.sh SBIN OUT
# SBIN has zpool and zfs, and the daemon zfs-fuse runs.  Labels hold OUT and the host's name: use plain ones.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=$1 out=$2
zpool() { timeout 60 "$bin/zpool" "$@"; }
zfs() { timeout 60 "$bin/zfs" "$@"; }
tree() { python3 "$here/zfs_fuse_tree.py" "$1" "$2"; }

mkdir -p "$out"
cd "$out"
for n in 0 1 2 3 4 5 6 7 8 9; do truncate -s 65M d$n; done
zpool create -m "$out/m1" three raidz3 "$out"/d0 "$out"/d1 "$out"/d2 "$out"/d3 "$out"/d4
zfs create -o compression=gzip-6 -o checksum=sha256 three/gzip
zfs create -o compression=zle -o checksum=fletcher2 -o recordsize=4k three/zle
zfs create -o compression=lzjb -o copies=2 three/lzjb
for name in gzip zle lzjb; do tree "$out/m1/$name" three-$name; done
zfs snapshot three/gzip@before
rm "$out/m1/gzip/boot/empty"
echo changed >"$out/m1/gzip/boot/loader.conf"
zpool create -m "$out/m2" two mirror "$out"/d5 "$out"/d6 mirror "$out"/d7 "$out"/d8
zpool add two spare "$out"/d9
zfs create two/ROOT
zfs create -o compression=on two/ROOT/default
tree "$out/m2/ROOT/default" two
zpool replace two "$out"/d6 "$out"/d9
sleep 3
zpool status
zpool export three
zpool export two
for n in 0 1 2 3 4; do zstd -q --ultra -22 -f d$n -o "$here/three.$n.img.zst"; done
for n in 5 6 7 8 9; do zstd -q --ultra -22 -f d$n -o "$here/two.$((n - 5)).img.zst"; done
