#!/bin/sh
# Make or renew .venv: this package (editable) and the tools that check it.
set -eu
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# A virtual environment whose making failed half-way has no pip.
complete() {
	new_enough .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1
}

new_enough() {
	"$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if ! complete; then
	for python in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
		if new_enough "$python"; then
			break
		fi
		python=
	done
	if [ -z "$python" ]; then
		echo "setup: Python 3.11 or later is needed (set PYTHON to one)" >&2
		exit 1
	fi
	if ! "$python" -m venv --clear .venv; then
		echo "setup: $python cannot make a virtual environment: install its venv package (python3-venv)" >&2
		exit 1
	fi
fi

# pip 26's console scripts import sys and nothing else; older ones import re, 12 ms at each start.
.venv/bin/python -m pip install -qq --upgrade 'pip>=26' || echo "setup: pip stays as it is: programs start 12 ms slower" >&2
.venv/bin/python -m pip install -qq -e '.[dev]'

# setuptools' .pth runs at each start of the interpreter, and nothing here needs it.
.venv/bin/python -m pip uninstall -qq -y setuptools 2>/dev/null || true

# Where the environment forbids Python to write .pyc files every start would compile everything anew.
.venv/bin/python -m compileall -q src
