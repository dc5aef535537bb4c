"""What a load left behind, as plain values: read by --json, --list-variables, state.json and the tests."""

from __future__ import annotations

import struct

from bhyveload.errors import FileSystemError
from bhyveload.loader.files.devices import parse_device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.loader.state import Loader

_MAX_TEXT = 64 << 10


def describe(loader: Loader, interpreter: str) -> dict[str, Any]:
    """The loader's part of a LoadReport (docs/state-json.md): names as str, addresses and sizes in bytes."""
    host = loader.host
    registers = host.vcpu.registers
    report: dict[str, Any] = {
        "interpreter": interpreter,
        "compat": loader.version,
        "currdev": loader.environment.get("currdev") or "",
        "loaddev": loader.environment.get("loaddev") or "",
        "partition": _partition(loader),
        "filesystem": loader.files.mounted or "",
        "howto": loader.facts.get("howto", 0),
        "entry": registers.get("rip", 0),
        "files": [
            {
                "name": file.name,
                "type": file.type,
                "args": file.args,
                "address": file.addr,
                "size": file.size,
                "modules": [{"name": name, "version": version} for name, version in file.modules],
            }
            for file in loader.preloaded
        ],
        "environment": {variable.name: (variable.value or "")[:_MAX_TEXT] for variable in loader.environment.sorted()},
        "calls": host.calls,
        "notes": [*loader.notes, *loader.files.notes],
    }
    report["kernel"] = report["files"][0] if report["files"] else None
    report.update(_hand_over(loader))
    return report


def _partition(loader: Loader) -> dict[str, Any] | None:
    """Where currdev lies on its disk, None where it is no disk's."""
    try:
        spec, _ = parse_device(loader.environment.get("currdev") or "", loader.version)
        if spec.kind not in ("disk", "vdisk"):
            return None
        part = loader.disks.open(spec)
        scheme = loader.disks.table(spec.kind, spec.unit).kind
    except FileSystemError:
        return None
    name = f"{spec.kind}{spec.unit}"
    return {"disk": name, "scheme": scheme.lower(), "start": part.offset, "size": part.size}


def _hand_over(loader: Loader) -> dict[str, int]:
    """modulep and kernend as the guest will find them on its stack (elf64_exec, elf32_exec)."""
    registers = loader.host.vcpu.registers
    if "rsp" not in registers:
        return {}
    at = registers["rsp"] + (4 if registers.get("efer") else 28)
    try:
        modulep, kernend = struct.unpack("<II", loader.host.copyout(at, 8))
    except FileSystemError:
        return {}
    return {"modulep": modulep, "kernend": kernend}
