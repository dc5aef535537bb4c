"""`python -m bhyveload`: the program bhyveload(8)."""

from __future__ import annotations

import sys

from bhyveload.cli.start import bhyveload

sys.argv[0] = "bhyveload"
bhyveload()
