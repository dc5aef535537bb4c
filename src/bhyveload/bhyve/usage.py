"""What bhyve(8) prints about itself (usr.sbin/bhyve/amd64/bhyverun_machdep.c; 13.2: bhyverun.c)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion

SHORT_OPTIONS: dict[LoaderVersion, str] = {
    "current": "aehuwxACDHIPSWYk:f:o:p:G:c:s:m:n:l:K:U:",
    "13.2": "aehuwxACDHIPSWYk:o:p:G:c:s:m:l:K:U:",
}
LPC_DEVICES: dict[LoaderVersion, tuple[str, ...]] = {
    "current": ("bootrom", "com1", "com2", "com3", "com4", "tpm", "pc-testdev"),
    "13.2": ("bootrom", "com1", "com2", "com3", "com4", "pc-testdev"),
}
_SYNOPSIS: dict[LoaderVersion, tuple[str, ...]] = {
    "current": (
        "[-aCDeHhPSuWwxY]",
        "[-c [[cpus=]numcpus][,sockets=n][,cores=n][,threads=n]]",
        "[-f fwcfg] [-G port] [-k config_file] [-l lpc] [-m mem] [-n numa]",
        "[-o var=value] [-p vcpu:hostcpu] [-s pci] [-U uuid] vmname",
    ),
    "13.2": (
        "[-AaCDeHhPSuWwxY]",
        "[-c [[cpus=]numcpus][,sockets=n][,cores=n][,threads=n]]",
        "[-G port] [-k config_file] [-l lpc] [-m mem] [-o var=value]",
        "[-p vcpu:hostcpu] [-r file] [-s pci] [-U uuid] vmname",
    ),
}
# (letter, what it does, only in this version)
_LETTERS: tuple[tuple[str, str, LoaderVersion | None], ...] = (
    ("A", "create ACPI tables", "13.2"),
    ("a", "local apic is in xAPIC mode (deprecated)", None),
    ("C", "include guest memory in core file", None),
    ("c", "number of CPUs and/or topology specification", None),
    ("D", "destroy on power-off", None),
    ("e", "exit on unhandled I/O access", None),
    ("f", "fwcfg item", "current"),
    ("G", "start a debug server", None),
    ("H", "vmexit from the guest on HLT", None),
    ("h", "help", None),
    ("k", "key=value flat config file", None),
    ("K", "PS2 keyboard layout", None),
    ("l", "LPC device configuration", None),
    ("m", "memory size", None),
    ("n", "NUMA domain specification", "current"),
    ("o", "set config 'var' to 'value'", None),
    ("P", "vmexit from the guest on pause", None),
    ("p", "pin 'vcpu' to 'hostcpu'", None),
    ("S", "guest memory cannot be swapped", None),
    ("s", "<slot,driver,configinfo> PCI slot config", None),
    ("U", "UUID", None),
    ("u", "RTC keeps UTC time", None),
    ("W", "force virtio to use single-vector MSI", None),
    ("w", "ignore unimplemented MSRs", None),
    ("x", "local APIC is in x2APIC mode", None),
    ("Y", "disable MPtable generation", None),
)


def usage(program: str, compat: LoaderVersion) -> str:
    """The usage text: the same words for -h and for an error."""
    first, *more = _SYNOPSIS[compat]
    blank = " " * len(program)
    lines = [f"Usage: {program} {first}", *(f"       {blank} {line}" for line in more)]
    lines += [f"       -{letter}: {text}" for letter, text, only in _LETTERS if only in (None, compat)]
    return "\n".join(lines) + "\n"
