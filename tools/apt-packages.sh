#!/bin/sh
# Install the system's tools that tests and demo use, where they are missing and apt is there.
# Without them the tests concerned are skipped, so nothing here is an error; Python itself is setup.sh's to demand.
set -eu
PATH="$PATH:/usr/sbin:/sbin"

missing= reasons=
lacks() { # lacks PACKAGE WHAT-FOR
	missing="$missing $1"
	reasons="$reasons$(printf 'setup:   apt-get install %-16s # %s' "$1" "$2")
"
}
need() { # need PROGRAM PACKAGE WHAT-FOR
	command -v "$1" >/dev/null || lacks "$2" "$1: $3"
}

need qemu-system-x86_64 qemu-system-x86 "runs guests"
need qemu-img qemu-utils "makes and checks disk images"
need gcc gcc "builds the guests of the demo and of tests"
need ld binutils "links the guests of the demo and of tests"
need makefs makefs "makes UFS and ISO 9660 file systems"
need sgdisk gdisk "partitions disks"
need sfdisk fdisk "partitions disks"
need xorriso xorriso "makes ISO 9660 file systems"
need mkfs.vfat dosfstools "checks the disks for a first boot"
need mcopy mtools "reads the disks for a first boot"
need mke2fs e2fsprogs "makes a file system that is none of FreeBSD's"
need mandoc mandoc "checks the manual pages"
need zstd zstd "compresses disk images"
need xz xz-utils "compresses disk images"
need pgrep procps "finds what a run leaves behind"
need tmux tmux "is the terminal that the prompt is tried on"
need curl curl "fetches images, .ci/fetch-image"
[ -e /usr/include/stdint.h ] || lacks libc6-dev "the C library's headers, for what tests compile"

# A newer Python than the system's own may stand beside it: Ubuntu 22.04 has 3.10 and, by another name, 3.11.
if python=$(sh "$(dirname "$0")/find-python.sh"); then
	"$python" -c 'import ensurepip' 2>/dev/null ||
		lacks "$(basename "$python")-venv" "makes .venv: nothing goes without it"
elif [ -z "${PYTHON:-}" ]; then # otherwise setup.sh refuses the one that was asked for
	python=python3
	! grep -qs '^VERSION_CODENAME=jammy' /etc/os-release || python=python3.11
	lacks "$python" "Python 3.11 or later: nothing goes without it"
	lacks "$python-venv" "makes .venv: nothing goes without it"
fi

[ -n "$missing" ] || exit 0

by_hand() { # by_hand WHY
	echo "setup: $1. Missing, and what brings it, as root:" >&2
	printf %s "$reasons" >&2
	echo "setup: Tests that need one of these are skipped.  All at once:" >&2
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
