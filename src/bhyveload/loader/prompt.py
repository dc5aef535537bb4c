"""The loader's prompt (stand/common/interp.c prompt(); docs/errata.md, "Prompt")."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.state import Loader


def print_prompt(loader: Loader) -> None:
    """Print $prompt with each `${name}` expanded, and a space.

    An unclosed `${` makes FreeBSD's loader read past its string; here it names a variable that
    runs to the end.
    """
    text = loader.environment.get("prompt")
    if text is None:
        text = ">"
    out: list[str] = []
    while True:
        before, dollar, rest = text.partition("${")
        out.append(before)
        if not dollar:
            break
        name, _, text = rest.partition("}")
        out.append(loader.environment.get(name) or "")
    loader.print("".join(out) + " ")
