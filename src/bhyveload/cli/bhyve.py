"""bhyve(8): run the guest that bhyveload has loaded, from the same command line, under QEMU."""

from __future__ import annotations

import _signal
import contextlib
import os
import pwd
import sys
from typing import TYPE_CHECKING

from bhyveload.bhyve.command_line import CommandLine
from bhyveload.bhyve.guest import DEFAULT_MEMORY, guest_of, memory_of, pins_of, topology_of
from bhyveload.bhyve.usage import SHORT_OPTIONS, usage
from bhyveload.cli.base_system import refer
from bhyveload.cli.getopt import Getopt, timeout_of
from bhyveload.cli.messages import program_name, report_error, say, warn
from bhyveload.cli.messages import run as run_program
from bhyveload.cli.progress import UnpackProgress
from bhyveload.compat import compat_option
from bhyveload.errors import (
    EX_OSERR,
    BhyveError,
    BhyveloadError,
    HandoffError,
    UsageError,
    VmBusy,
    VmNotFound,
    VmNotLoaded,
    VmStorageError,
)
from bhyveload.printable import escape
from bhyveload.vm.directory import refused_name
from bhyveload.vm.store import VirtualMachine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.bhyve.config import Config
    from bhyveload.bhyve.guest import BhyveGuest
    from bhyveload.compat import LoaderVersion
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.qemu.command import QemuOptions

EXIT_USAGE = 1
EXIT_DUMPED = 1
EXIT_ERROR = 4
LONG_OPTIONS = {
    "accel": "accel:",
    "compat": "compat:",
    "dry-run": "dry-run",
    "no-sandbox": "no-sandbox",
    "timeout": "timeout:",
    "user": "user:",
    "version": "version",
}
ACCELERATORS = ("auto", "kvm", "tcg")
_IMPOSSIBLE = ("passthru", "virtio-scsi")


class StartRequest:
    """The command line.  What is not bhyve(8)'s: the long options."""

    def __init__(self, compat: LoaderVersion, program: str) -> None:
        self.line = CommandLine(compat, lambda text: warn(program, text))
        self.accel = "auto"
        self.dry_run = False
        self.confined = True
        self.timeout: float | None = None
        self.user: str | None = None

    @property
    def compat(self) -> LoaderVersion:
        return self.line.compat

    @property
    def config(self) -> Config:
        return self.line.config


def main() -> int:
    """The program."""
    program = program_name("bhyve")

    def body() -> int:
        try:
            refer("bhyve", "/usr/sbin/bhyve")
            return bhyve(program, sys.argv[1:])
        except BhyveError as error:
            _complain(program, error)
            return error.exit_status
        except UsageError as error:
            return report_error(program, error)
        except BhyveloadError as error:
            report_error(program, error)
            return EXIT_ERROR  # never 0, 1 or 2: those are a guest's end

    return run_program(program, body, dies_of_interrupts=True)


def _complain(program: str, error: BhyveError) -> None:
    for line in error.before:
        say(f"{escape(line)}\n")
    text = f"{error.message} ({error.hint})" if error.hint else error.message
    if error.bare:
        say(f"{escape(text)}\n")
    else:
        warn(program, text)


def bhyve(program: str, words: Sequence[str]) -> int:
    """Do what the command line says, in bhyve's order; the exit status.  Raises BhyveloadError."""
    compat = _compat_in(words)
    request = StartRequest(compat, program)
    options = Getopt(words, SHORT_OPTIONS[compat], LONG_OPTIONS)
    steps = iter(options)
    while True:
        try:
            option, argument = next(steps)
        except StopIteration:
            break
        except UsageError as error:
            warn(program, error.message)
            return _usage(program, compat, EXIT_USAGE)
        if option == "h":
            return _usage(program, compat, 0)
        if option == "version":
            from bhyveload import __version__

            sys.stdout.write(f"bhyve (bhyveload) {__version__}\n")
            return 0
        _act(request, option, argument or "")
        if request.line.listing:
            sys.stdout.writelines(f"{name}\n" for name in request.line.listing)
            return 0
    request.line.finish()
    if len(options.operands) > 1:
        return _usage(program, compat, EXIT_USAGE)
    if options.operands:
        request.config.set("name", options.operands[0])
    name = request.config.get("name")
    if name is None:
        _tell_what_is_missing(request.config)
        return _usage(program, compat, EXIT_USAGE)
    if request.config.truth("config.dump", False):
        sys.stdout.writelines(f"{line}\n" for line in request.config.dump())
        return EXIT_DUMPED
    pins_of(request.config, topology_of(request.config).cpus, compat)
    memory = memory_of(request.config, compat)
    with _opened(name, compat) as vm:
        _check_memory(program, request, vm, memory)
        return _run(program, request, vm)


def _compat_in(words: Sequence[str]) -> LoaderVersion:
    """--compat decides about the options in front of it as well."""
    found: LoaderVersion = "current"
    with contextlib.suppress(UsageError):
        for option, argument in Getopt(words, SHORT_OPTIONS["current"], LONG_OPTIONS):
            if option == "compat":
                try:
                    found = compat_option(argument or "")
                except UsageError as error:
                    raise BhyveError(error.message, 64) from None
    return found


def _usage(program: str, compat: LoaderVersion, status: int) -> int:
    say(usage(program, compat))
    return status


def _act(request: StartRequest, option: str, argument: str) -> None:
    if len(option) == 1:
        request.line.option(option, argument)
    elif option == "accel":
        if argument not in ACCELERATORS:
            raise UsageError(f"--accel {argument}: must be one of {', '.join(ACCELERATORS)}")
        request.accel = argument
    elif option == "dry-run":
        request.dry_run = True
    elif option == "no-sandbox":
        request.confined = False
    elif option == "timeout":
        request.timeout = timeout_of(argument)
    elif option == "user":
        request.user = argument


def _tell_what_is_missing(config: Config) -> None:
    """libvirt asks so for what a bhyve has: it looks for these words on standard error."""
    for line in config.dump():
        path, _, value = line.partition("=")
        words = path.split(".")
        if words[0] == "pci" and words[-1] == "device" and value in _IMPOSSIBLE and len(words) == 5:
            say(f'pci slot {escape(":".join(words[2:4]))}: unknown device "{value}"\n')


def _opened(name: str, compat: LoaderVersion) -> VirtualMachine:
    """The VM ``name``, loaded and ours alone.  Raises BhyveError in bhyve's words (bhyverun.c:do_open)."""
    words = "no bootrom was configured" if compat == "current" else "virtual machine cannot be booted"
    opening = "vm_openf" if compat == "current" else "vm_create"
    reason, hint = refused_name(name)
    if reason:
        raise BhyveError(f"{opening}: {reason}", hint=hint)
    try:
        return VirtualMachine.open(name, require_loaded=True)
    except (VmNotFound, VmNotLoaded) as error:
        raise BhyveError(words, hint=f"{error.message}: {error.hint}") from None
    except VmBusy as error:
        raise BhyveError("could not activate CPU 0: Device busy", EX_OSERR, hint=error.message) from None
    except VmStorageError as error:
        raise BhyveError(f"{opening}: {error.message}", hint=error.hint) from None


def _check_memory(program: str, request: StartRequest, vm: VirtualMachine, memory: int) -> None:
    given = request.config.get("memory.size")
    if given == DEFAULT_MEMORY or memory == vm.memory_size:
        return
    if request.compat == "13.2":
        raise BhyveError(
            "Unable to setup memory (22)", bare=True, hint=f"it was loaded with -m {vm.memory_size >> 20}M"
        )
    warn(program, f"-m {given}: ignored, the VM was loaded with -m {vm.memory_size >> 20}M")


def _run(program: str, request: StartRequest, vm: VirtualMachine) -> int:
    _refuse(request.config)
    guest = guest_of(request.config, vm.name, request.compat, os.uname().nodename)
    from bhyveload.running.accelerator import choose

    accel, sentence = choose(request.accel)
    _warn_of_the_ineffective(program, request, guest, vm, accel)
    options = _options(program, request, guest, vm, accel)
    if request.dry_run:
        import shlex

        from bhyveload.handoff.qemu.session import Qemu

        print(shlex.join(Qemu().command(vm, options, "STUB")))
        return 0
    from bhyveload.handoff.outcome import POWERED_OFF, STOPPED
    from bhyveload.running.bhyve_run import run_bhyve_guest

    result, fatal = run_bhyve_guest(
        vm, guest, options, timeout=request.timeout, accelerator=sentence, tell=lambda text: warn(program, text)
    )
    if fatal:
        vm.close()
        _die_of(fatal)
    if result.outcome == STOPPED:  # neither the guest's doing nor ours: its plug was pulled
        raise HandoffError("QEMU has ended before the guest did")
    if guest.destroy_on_power_off and result.outcome == POWERED_OFF:
        vm.destroy()
    return result.exit_status


def _die_of(number: int) -> None:
    """End as the signal would have ended us: callers must not take it for the guest's end."""
    sys.stdout.flush()
    _signal.signal(number, _signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _refuse(config: Config) -> None:
    """What a VM that bhyveload has loaded cannot have here.  Raises HandoffError."""
    instead = "bhyveload loads the guest without one: leave -l bootrom out"
    for key in ("bootrom", "lpc.bootrom"):
        if config.raw(key) is not None:
            raise HandoffError("a boot ROM is not possible here (QEMU on Linux)", instead)
    if config.find("tpm") is not None:
        raise HandoffError("-l tpm is not possible here (QEMU on Linux)", "leave it out")
    if config.find("domains") is not None:
        raise HandoffError("-n is not possible for a VM that bhyveload has loaded", "leave it out")


def _warn_of_the_ineffective(
    program: str, request: StartRequest, guest: BhyveGuest, vm: VirtualMachine, accel: str
) -> None:
    from bhyveload.handoff.qemu.guest.blocks import goes_past_the_cache
    from bhyveload.handoff.qemu.guest.machine import backings_of, keyboard_layout

    for path in dict.fromkeys(backing.path for backing in backings_of(guest) if backing.no_cache):
        if os.path.exists(path) and not goes_past_the_cache(path):
            warn(program, f"{path}: nocache: no effect for a file of that size, or there")
    state = vm.state or {}
    flags = state.get("flags")
    flags = flags if isinstance(flags, dict) else {}
    if guest.wired and not flags.get("wired"):
        warn(program, "-S: no effect, the VM was loaded without it")
    if guest.incore and not flags.get("incore"):
        warn(program, "-C: no effect, the VM was loaded without it")
    if guest.x2apic and accel == "tcg":
        warn(program, "-x: no effect under QEMU's translator, which decides itself about x2APIC")
    if guest.keyboard and not keyboard_layout(guest.keyboard):
        warn(program, f"-K {guest.keyboard}: no effect, QEMU has no such layout")
    if request.config.truth("x86.strictio", False):
        warn(program, "-e: no effect here, QEMU ignores I/O ports that are not there")
    if request.line.items:
        warn(program, "-f: no effect, only boot ROMs look there")


def _options(program: str, request: StartRequest, guest: BhyveGuest, vm: VirtualMachine, accel: str) -> QemuOptions:
    from bhyveload.handoff.qemu.guest.machine import backings_of, guest_options

    paths = [backing.path for backing in backings_of(guest)]
    loaded = _loaded_in_other_formats(program, request, vm, paths)
    user = _owner_of_shares(guest) if request.user is None else request.user
    return guest_options(guest, accel, loaded, user=user, confined=request.confined)


def _owner_of_shares(guest: BhyveGuest) -> str | None:
    """Whom root's QEMU becomes to reach the folders that the guest shares: their owner, where there is one and it is
    not root; else None (nobody)."""
    from bhyveload.bhyve.devices import Share

    owners = set()
    for device in guest.devices:
        if isinstance(device, Share):
            try:
                owners.add(pwd.getpwuid(os.stat(device.path).st_uid).pw_name)
            except (OSError, ValueError, KeyError):
                return None
    return owners.pop() if os.geteuid() == 0 and len(owners) == 1 and "root" not in owners else None


def _loaded_in_other_formats(
    program: str, request: StartRequest, vm: VirtualMachine, paths: Sequence[str]
) -> list[tuple[str, Disk]]:
    """Those of the guest's disks that bhyveload was given as something else than raw files, ready for QEMU."""
    from bhyveload.confined.deadline import deadline_of
    from bhyveload.handoff.disks import disks_of, unpacked

    found = []
    deadline = deadline_of(request.timeout)
    given = disks_of(vm.state or {})
    for disk in given:
        if (disk.format != "raw" or disk.compression) and any(_same(disk.path, path) for path in paths):
            ready = unpacked(disk, UnpackProgress(program), deadline)
            if ready.snapshot:
                warn(program, f"{disk.path}: what the guest writes is dropped at the end of the run")
            found.append((disk.path, ready))
    for path in paths:
        if not any(_same(disk.path, path) for disk in given) and (kind := _kind(path)) != "raw":
            warn(program, f"{path}: looks like {kind}, is taken as raw: only what bhyveload was given is not")
    return found


def _kind(path: str) -> str:
    """What the file looks like; "raw" where that cannot be seen, its opening will tell why."""
    from bhyveload.image.magic import detect
    from bhyveload.image.raw import open_raw

    try:
        file = open_raw(path, read_only=True)
        try:
            return detect(file, path)
        finally:
            file.close()
    except BhyveloadError:
        return "raw"


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main())
