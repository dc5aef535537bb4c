#!/bin/sh
# Install the system's tools that tests and demo use, where they are missing and apt is there.
# Without them the tests concerned are skipped, so nothing here is an error; Python itself is setup.sh's to demand.
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

# Ubuntu 22.04 has 3.11 beside its python3.
if python=$(sh "$(dirname "$0")/find-python.sh"); then
	"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing $(basename "$python")-venv"
elif [ -n "${PYTHON:-}" ]; then
	: # setup.sh refuses the Python that was asked for
elif command -v python3 >/dev/null; then
	missing="$missing python3.11 python3.11-venv"
else
	missing="$missing python3 python3-venv"
fi

[ -n "$missing" ] || exit 0

by_hand() { # by_hand WHY
	echo "setup: $1: the tests that need these packages are skipped; as root:" >&2
	echo "setup:   apt-get install$missing" >&2
	exit 0
}

command -v apt-get >/dev/null || by_hand "this system has no apt (the names are Debian's)"
as_root="env"
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || by_hand "neither root nor sudo"
	[ -t 0 ] || sudo -n true 2>/dev/null || by_hand "sudo asks for a password and there is no terminal"
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
