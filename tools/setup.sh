#!/bin/sh
# Make or renew .venv: this package (editable) and the tools that check it.
set -eu
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

fail() { # fail LINE...
	printf 'setup: %s\n' "$@" >&2
	exit 1
}

# A virtual environment whose making failed half-way has no pip.
usable() {
	PYTHON=.venv/bin/python sh tools/find-python.sh >/dev/null && .venv/bin/python -m pip --version >/dev/null 2>&1
}

if ! usable; then
	if ! python=$(sh tools/find-python.sh); then
		found=$("${PYTHON:-python3}" --version 2>/dev/null || echo "there is no ${PYTHON:-python3}")
		fail "Python 3.11 or later is needed ($found); PYTHON=… names one that is elsewhere, or as root:" \
			"  apt-get install python3 python3-venv    (Ubuntu 22.04: python3.11 python3.11-venv)"
	fi
	if ! "$python" -c 'import ensurepip' 2>/dev/null || ! "$python" -m venv --clear .venv; then
		fail "$python cannot make a virtual environment; as root:" "  apt-get install $(basename "$python")-venv"
	fi
fi

# pip 26's console scripts import sys and nothing else; older ones import re, 12 ms at each start.
.venv/bin/python -m pip install -qq --upgrade 'pip>=26' || echo "setup: pip stays as it is: programs start 12 ms slower" >&2
.venv/bin/python -m pip install -qq -e '.[dev]' ||
	fail "pip could not install what pyproject.toml asks for (above); a machine without network needs PIP_FIND_LINKS"

# setuptools' .pth runs at each start of the interpreter, and nothing here needs it.
.venv/bin/python -m pip uninstall -qq -y setuptools 2>/dev/null || true

# Where the environment forbids Python to write .pyc files every start would compile everything anew.
.venv/bin/python -m compileall -q src
.venv/bin/python -m bhyveload.cli.bundle
