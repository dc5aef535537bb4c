#!/bin/sh
# Print the Python to build .venv with: $PYTHON, python3, or a newer one beside it; nothing and status 1 where none is 3.11.
for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
	if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
		echo "$python"
		exit 0
	fi
done
exit 1
