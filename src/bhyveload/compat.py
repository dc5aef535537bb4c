"""Which version of FreeBSD's loader is followed where they differ: 13.2's, or that of 2026."""

from __future__ import annotations

from bhyveload.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    LoaderVersion = Literal["current", "13.2"]

LOADER_VERSIONS = ("current", "13.2")


def loader_version(text: str) -> LoaderVersion:
    """``text``, when it is one.  Raises UsageError."""
    if text == "13.2":
        return "13.2"
    if text == "current":
        return "current"
    raise UsageError(f"there is no version {text!a} of the loader", f"{' and '.join(LOADER_VERSIONS)} are known")


def compat_option(argument: str) -> LoaderVersion:
    """--compat's argument.  Raises UsageError."""
    if argument not in LOADER_VERSIONS:
        raise UsageError(f"--compat knows 13.2 and current, not '{argument}'")
    return loader_version(argument)
