"""bhyve_config(5): the tree of configuration variables (usr.sbin/bhyve/config.c).

A node has variables and further nodes, in the order in which they came; a variable that is set again moves to the end,
as in an nvlist.  Values are kept as they were given and expanded when they are read: ``%(name)`` stands for another
variable's value.  What is set is never judged here: unknown names are kept and do nothing.
"""

from __future__ import annotations

from bhyveload.errors import BhyveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_DEPTH = 15  # of references in references
_MAX_REFERENCES = 1000  # in one value: nested, they double at each level
_MAX_EXPANSION = 1 << 16  # characters
_TRUE = ("true", "on", "yes", "1")
_FALSE = ("false", "off", "no", "0")


class ConfigNode:
    """A node of the tree: ``entries`` are its variables (str) and nodes by name."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: dict[str, str | ConfigNode] = {}

    def child(self, name: str) -> ConfigNode | None:
        entry = self.entries.get(name)
        return entry if isinstance(entry, ConfigNode) else None


class Config:
    """The tree.  ``warn`` gets what bhyve says without ending, one line at a time."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.root = ConfigNode()
        self._warn = warn
        self._references = 0  # followed in the expansion that is under way
        self._told: set[tuple[str, str]] = set()  # in it

    def create(self, path: str, parent: ConfigNode | None = None) -> ConfigNode | None:
        """The node ``path`` (dotted) below ``parent``, made where it is not there; None with a warning where a name in
        it is empty or a variable."""
        return self._walk(path, parent, create=True)

    def find(self, path: str, parent: ConfigNode | None = None) -> ConfigNode | None:
        """The node ``path`` below ``parent``, or None."""
        return self._walk(path, parent, create=False)

    def _walk(self, path: str, parent: ConfigNode | None, *, create: bool) -> ConfigNode | None:
        node = parent or self.root
        names = path.split(".")
        for place, name in enumerate(names):
            if not name:
                self._warn(f"Invalid configuration node: {path}")
                return None
            entry = node.entries.get(name)
            if isinstance(entry, str):
                variable = ".".join(names[: place + 1])
                self._warn(f"Configuration node {path} is a child of existing variable {variable}")
                return None
            if entry is None:
                if not create:
                    return None
                entry = node.entries[name] = ConfigNode()
            node = entry
        return node

    def set(self, path: str, value: str) -> None:
        """Raises BhyveError: the path leads through a variable, or to a node."""
        above, _, name = path.rpartition(".")
        node: ConfigNode | None = self.root
        if "." in path:
            node = self.create(above)
            if node is None:
                raise BhyveError(f"Failed to create configuration node {above}")
        assert node is not None
        if node.child(name) is not None:
            raise BhyveError(f"Attempting to add value {value} to existing node {path}")
        self.set_in(node, name, value)

    def set_bool(self, path: str, value: bool) -> None:
        self.set(path, "true" if value else "false")

    def set_in(self, node: ConfigNode | None, name: str, value: str) -> None:
        """A variable of ``node`` itself (None: the root).  Raises BhyveError: a dot in its name, or it is a node."""
        if "." in name:
            raise BhyveError(f"Invalid config node name {name}")
        node = node or self.root
        if node.child(name) is not None:
            raise BhyveError(f"Attempting to add value {value} to existing node {name}")
        node.entries.pop(name, None)
        node.entries[name] = value

    def parse_options(self, node: ConfigNode | None, text: str | None) -> None:
        """``name=value,name,...`` as variables of ``node``; a bare name is true (pci_parse_legacy_config)."""
        if text is None:
            return
        for word in text.split(","):
            name, equals, value = word.partition("=")
            self.set_in(node, name, value if equals else "true")

    def raw(self, path: str) -> str | None:
        above, _, name = path.rpartition(".")
        node = self.find(above) if "." in path else self.root
        if node is None:
            return None
        entry = node.entries.get(name)
        if isinstance(entry, ConfigNode):
            self._warn(f"Attempting to fetch value of node {path}")
            return None
        return entry

    def get(self, path: str) -> str | None:
        """The variable's value, expanded; None when it is not set."""
        value = self.raw(path)
        return None if value is None else self.expand(value)

    def get_in(self, node: ConfigNode, name: str) -> str | None:
        """As ``get`` for a variable of ``node``."""
        entry = node.entries.get(name)
        return self.expand(entry) if isinstance(entry, str) else None

    def truth(self, path: str, default: bool) -> bool:
        """Raises BhyveError: neither true nor false."""
        return _bool(path, self.get(path), default)

    def truth_in(self, node: ConfigNode, name: str, default: bool) -> bool:
        """As ``truth`` for a variable of ``node``."""
        return _bool(name, self.get_in(node, name), default)

    def expand(self, value: str) -> str:
        """``value`` with its references replaced.  Raises BhyveError: they have no end."""
        self._references = 0
        self._told.clear()
        return self._expand(value, 0) if "%" in value else value

    def _expand(self, value: str, depth: int) -> str:
        parts: list[str] = []
        size = at = 0
        while at < len(value):
            char = value[at]
            if char == "%":
                part, at = self._reference(value, at, depth)
            elif char == "\\":
                part, at = value[at + 1 : at + 2], at + 2
                if not part:
                    self._tell('Trailing \\ in configuration value "{}"', value)
            else:
                part, at = char, at + 1
            parts.append(part)
            size += len(part)
            if size > _MAX_EXPANSION:
                raise BhyveError(f"a configuration value grows beyond {_MAX_EXPANSION} characters by its references")
        return "".join(parts)

    def _reference(self, value: str, at: int, depth: int) -> tuple[str, int]:
        """What stands for the ``%`` at ``at``, and where to go on."""
        if depth > _MAX_DEPTH:
            self._tell("Too many recursive references in configuration value")
            return "%", at + 1
        end = value.find(")", at + 2) if value[at + 1 : at + 2] == "(" else -1
        if end < 0:
            self._tell('Invalid reference in configuration value "{}"', value)
            return "%", at + 1
        self._references += 1
        if self._references > _MAX_REFERENCES:
            raise BhyveError(f"more than {_MAX_REFERENCES} references in one configuration value")
        path = value[at + 2 : end]
        if not path:
            self._tell('Empty reference in configuration value "{}"', value)
            return "", end + 1
        raw = self.raw(path)
        if raw is None:
            self._tell("Failed to fetch referenced configuration variable {}", path)
            return "", end + 1
        return self._expand(raw, depth + 1), end + 1

    def _tell(self, words: str, subject: str = "") -> None:
        """Warn, once in an expansion: bhyve repeats itself for each place in a value, which may be very long."""
        if (words, subject) not in self._told:
            self._told.add((words, subject))
            self._warn(words.format(subject))

    def dump(self) -> Iterator[str]:
        """``config.dump=1``: every variable as a line ``path=value``, not expanded, in the tree's order."""
        stack = [("", iter(self.root.entries.items()))]
        while stack:
            prefix, entries = stack[-1]
            for name, entry in entries:
                if isinstance(entry, ConfigNode):
                    stack.append((f"{prefix}{name}.", iter(entry.entries.items())))
                    break
                yield f"{prefix}{name}={entry}"
            else:
                stack.pop()


def _bool(name: str, value: str | None, default: bool) -> bool:
    if value is None:
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise BhyveError(f"Invalid value {value} for boolean variable {name}")
