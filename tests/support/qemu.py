"""Whether there is a QEMU to run guests with, of a version that README names."""

from __future__ import annotations

import re
import subprocess
from functools import cache

OLDEST = (7, 2)


@cache
def missing_qemu() -> str:
    """Why there is none, or an empty string."""
    try:
        told = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return "qemu-system-x86_64 is not installed (make setup installs it)"
    version = re.search(r"version (\d+)\.(\d+)", told)
    if version is None or (int(version[1]), int(version[2])) >= OLDEST:
        return ""
    return f"QEMU {version[1]}.{version[2]} is older than what runs guests here, {'.'.join(map(str, OLDEST))}"
