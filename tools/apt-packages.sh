#!/bin/sh
# Install the system's tools that tests and demo use, where they are missing and apt is there.
# Without them the tests concerned are skipped, so nothing here is an error.
set -eu
PATH="$PATH:/usr/sbin:/sbin"

missing=
need() { # need PROGRAM PACKAGE
	command -v "$1" >/dev/null || missing="$missing $2"
}

need qemu-system-x86_64 qemu-system-x86
need qemu-img qemu-utils
need sgdisk gdisk
need sfdisk fdisk
need makefs makefs
need xorriso xorriso
need mkfs.vfat dosfstools
need mcopy mtools
need mke2fs e2fsprogs
need mandoc mandoc
need gcc gcc
need ld binutils
need zstd zstd
need tmux tmux
[ -e /usr/include/stdint.h ] || missing="$missing libc6-dev"
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"

[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "setup: please install:$missing (their tests are skipped without)" >&2
	exit 0
fi
as_root=env
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "setup: neither root nor sudo: please install:$missing (their tests are skipped without)" >&2
		exit 0
	fi
	as_root="sudo env"
fi

install="apt-get install -qq -y --no-install-recommends"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "setup: installing$missing"
$as_root apt-get update -qq >"$log" 2>&1 || true
# One by one when they do not come together: a distribution may lack one of them.
# shellcheck disable=SC2086
if ! $as_root DEBIAN_FRONTEND=noninteractive $install $missing >"$log" 2>&1; then
	for package in $missing; do
		if ! $as_root DEBIAN_FRONTEND=noninteractive $install "$package" >"$log" 2>&1; then
			echo "setup: $package cannot be installed: $(tail -n 1 "$log")" >&2
		fi
	done
fi
