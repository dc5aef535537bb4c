"""LoadReport: the one value that says what a load did; --json, --dry-run, state.json and the tests read it."""

from __future__ import annotations

from bhyveload.value import Value, frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


class LoadedModule(Value):
    """A module in a preloaded file (MODINFOMD's version records): its name and version."""

    __slots__ = ("name", "version")
    name: str
    version: int

    def __init__(self, name: str, version: int) -> None:
        self._fill(name, version)


class LoadedFile(Value):
    """A preloaded file: ``address`` guest physical, ``size`` in bytes; ``args`` None where it has none."""

    __slots__ = ("name", "type", "args", "address", "size", "modules")  # noqa: RUF023 - as in the report
    name: str
    type: str
    args: str | None
    address: int
    size: int
    modules: tuple[LoadedModule, ...]

    def __init__(
        self,
        name: str,
        type: str,
        args: str | None,
        address: int,
        size: int,
        modules: Iterable[LoadedModule | dict[str, Any]] = (),
    ) -> None:
        parts = (part if isinstance(part, LoadedModule) else LoadedModule(**part) for part in modules)
        self._fill(name, type, args, address, size, tuple(parts))


class BootPartition(Value):
    """Where currdev lies on ``disk`` ("disk0"): ``start`` and ``size`` in bytes; ``scheme``: gpt, mbr, bsd, iso9660 or
    none."""

    __slots__ = ("disk", "scheme", "start", "size")  # noqa: RUF023 - as in the report
    disk: str
    scheme: str
    start: int
    size: int

    def __init__(self, disk: str, scheme: str, start: int, size: int) -> None:
        self._fill(disk, scheme, start, size)


class _Given:
    """Where a value keeps what its fields are made of."""

    __slots__ = ("_given",)
    _given: Mapping[str, Any]


class LoadReport(_Given, Value):
    """What was loaded, from where, with which variables and registers (docs/report-json.md).

    Frozen, equal by its fields, copied and pickled as other values are; ``as_dict`` is what --json prints.  Texts that
    come from the guest have one character a byte (latin-1).

    ``files``: every preloaded file, kernel first.  ``environment``: the variables handed to the kernel.  ``timings``:
    nanoseconds per stage.  ``vcpu``: registers, selectors and descriptors of vCPU 0.
    """

    __slots__ = (  # noqa: RUF023 - as they are printed
        "schema",
        "vm",
        "interpreter",
        "compat",
        "currdev",
        "loaddev",
        "partition",
        "filesystem",
        "howto",
        "entry",
        "files",
        "environment",
        "calls",
        "notes",
        "kernel",
        "modulep",
        "kernend",
        "timings",
        "loader",
        "disks",
        "vcpu",
        "memory",
    )
    schema: int
    vm: str
    interpreter: str
    compat: str
    currdev: str
    loaddev: str
    partition: BootPartition | None
    filesystem: str
    howto: int
    entry: int
    files: tuple[LoadedFile, ...]
    environment: Mapping[str, str]
    calls: tuple[str, ...]
    notes: tuple[str, ...]
    kernel: LoadedFile | None
    modulep: int
    kernend: int
    timings: Mapping[str, int]
    loader: str
    disks: tuple[Mapping[str, Any], ...]
    vcpu: Mapping[str, Mapping[str, Any]]
    memory: Mapping[str, int]

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Of the fields in JSON's types, as ``as_dict`` gives them; whoever made them does not change them any more.

        Raises KeyError: one is missing.
        """
        object.__setattr__(self, "_given", {name: fields[name] for name in self.__slots__})

    if not TYPE_CHECKING:  # a mistyped name is an error to mypy

        def __getattr__(self, name: str) -> Any:
            """A field that nobody has asked for yet: the thousands of values of a kernel's modules cost 4 ms."""
            if name not in LoadReport.__slots__:
                raise AttributeError(name)
            value = frozen(self._given[name])
            if name == "files":
                value = tuple(LoadedFile(**file) for file in value)
            elif name == "kernel" and value is not None:
                value = LoadedFile(**value)
            elif name == "partition" and value is not None:
                value = BootPartition(**value)
            object.__setattr__(self, name, value)
            return value

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.as_dict(),)
