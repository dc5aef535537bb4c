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
need xz xz-utils
need pgrep procps
need tmux tmux
[ -e /usr/include/stdint.h ] || missing="$missing libc6-dev"

# A newer Python than the system's own may stand beside it: Ubuntu 22.04 has 3.10 and, by another name, 3.11.
if python=$(sh "$(dirname "$0")/find-python.sh"); then
	"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing $(basename "$python")-venv"
elif [ -z "${PYTHON:-}" ]; then # otherwise setup.sh refuses the one that was asked for
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

log=$(mktemp)
trap 'rm -f "$log"' EXIT

install() { # install PACKAGE...: one by one when they do not come together, for a distribution may lack one of them
	echo "setup: installing $*"
	if ! try "$@"; then
		for package; do
			try "$package" || echo "setup: $package cannot be installed: $(tail -n 1 "$log")" >&2
		done
	fi
}

try() {
	$as_root DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >"$log" 2>&1
}

$as_root apt-get update -qq >"$log" 2>&1 || true
# shellcheck disable=SC2086
install $missing
if [ -z "${PYTHON:-}" ] && ! sh "$(dirname "$0")/find-python.sh" >/dev/null; then
	install python3.11 python3.11-venv
fi
