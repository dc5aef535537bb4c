"""bhyvectl: what FreeBSD's prints, and errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bhyveload.cli.bhyvectl import HELP, LONG_OPTIONS, RUNNING, control, humanize, usage
from bhyveload.cli.listing import as_text
from bhyveload.errors import UsageError, VmBusy, VmError, VmNotFound, VmNotLoaded
from bhyveload.vm.directory import list_machines
from bhyveload.vm.registers import Registers, setup_freebsd_registers
from bhyveload.vm.store import VirtualMachine
from support.end_to_end import PROGRAMS

MB, GB = 1 << 20, 1 << 30

# What FreeBSD's bhyvectl prints for the same state, by the format strings of its source.
GET_ALL = """\
lowmem\t\t0x0000000000000000/3221225472
highmem\t\t0x0000000100000000/2147483648
ID  Length      Name
0   5120MB      sysmem
Address     Length      Segment     Offset      Prot  Flags
0           3072MB      sysmem      0           RWX   \n\
100000000   2048MB      sysmem      C0000000    RWX   \n\
efer[0]\t\t0x0000000000000500
cr0[0]\t\t0x0000000080000021
cr2[0]\t\t0x0000000000000000
cr3[0]\t\t0x0000000000002000
cr4[0]\t\t0x0000000000000020
dr0[0]\t\t0x0000000000000000
dr1[0]\t\t0x0000000000000000
dr2[0]\t\t0x0000000000000000
dr3[0]\t\t0x0000000000000000
dr6[0]\t\t0x00000000ffff0ff0
dr7[0]\t\t0x0000000000000400
rsp[0]\t\t0x0000000000001000
rip[0]\t\t0xffffffff80200120
rax[0]\t\t0x0000000000000000
rbx[0]\t\t0x0000000000000000
rcx[0]\t\t0x0000000000000000
rdx[0]\t\t0x0000000000000000
rsi[0]\t\t0x0000000000000000
rdi[0]\t\t0x0000000000000000
rbp[0]\t\t0x0000000000000000
r8[0]\t\t0x0000000000000000
r9[0]\t\t0x0000000000000000
r10[0]\t\t0x0000000000000000
r11[0]\t\t0x0000000000000000
r12[0]\t\t0x0000000000000000
r13[0]\t\t0x0000000000000000
r14[0]\t\t0x0000000000000000
r15[0]\t\t0x0000000000000000
rflags[0]\t0x0000000000000002
ds desc[0]\t0x0000000000000000/0x00000000/0x00000093
es desc[0]\t0x0000000000000000/0x00000000/0x00000093
fs desc[0]\t0x0000000000000000/0x00000000/0x00000093
gs desc[0]\t0x0000000000000000/0x00000000/0x00000093
ss desc[0]\t0x0000000000000000/0x00000000/0x00000093
cs desc[0]\t0x0000000000000000/0x00000000/0x0000209b
tr desc[0]\t0x0000000000000000/0x00000000/0x0000008b
ldtr desc[0]\t0x0000000000000000/0x00000000/0x00010000
gdtr[0]\t\t0x0000000000005000/0x00000017
idtr[0]\t\t0x0000000000000000/0x00000000
cs[0]\t\t0x0008
ds[0]\t\t0x0010
es[0]\t\t0x0010
fs[0]\t\t0x0010
gs[0]\t\t0x0010
ss[0]\t\t0x0010
tr[0]\t\t0x0000
ldtr[0]\t\t0x0000
"""


def load(name: str, size: int) -> None:
    vcpu = Registers()
    setup_freebsd_registers(vcpu, rip=0xFFFFFFFF80200120, cr3=0x2000, gdtbase=0x5000, rsp=0x1000)
    vm = VirtualMachine.create(name, size)
    vm.commit([vcpu], {"kernel": "/boot/kernel/kernel"})
    vm.close()


def output(*words: str) -> str:
    pieces: list[str] = []
    assert control(list(words), pieces.append) == 0
    return "".join(pieces)


def test_get_all() -> None:
    load("guest", 5 * GB)
    assert output("--vm=guest", "--get-all") == GET_ALL
    assert output("--vm", "guest", "--get-all", "--cpu", "0") == GET_ALL


def test_single_values_come_in_bhyvectls_order() -> None:
    load("guest", 256 * MB)
    assert output("--get-cs", "--get-rip", "--vm=guest", "--get-desc-cs") == (
        "rip[0]\t\t0xffffffff80200120\ncs desc[0]\t0x0000000000000000/0x00000000/0x0000209b\ncs[0]\t\t0x0008\n"
    )
    assert output("--vm=guest", "--get-lowmem") == "lowmem\t\t0x0000000000000000/268435456\n"
    assert output("--vm=guest", "--get-highmem") == "highmem\t\t0x0000000100000000/0\n"
    assert output("--vm=guest", "--get-memmap").count("\n") == 2
    assert output("--vm=guest") == ""


ACTIONS = {
    "destroy",
    "force-reset",
    "force-poweroff",
    "inject-nmi",
    "power-button",
    "console",
    "save",
    "dump",
    "symbols",
    "svg",
    "html",
}


@pytest.mark.parametrize(
    "option", sorted(set(LONG_OPTIONS) - {"vm", "cpu", "escape", "suspend", "list", *ACTIONS, *RUNNING})
)
def test_every_option_says_something(option: str) -> None:
    load("guest", MB)
    assert output("--vm=guest", f"--{option}")


def test_json(vmm_directory: Path) -> None:
    load("guest", 256 * MB)
    assert json.loads(output("--vm=guest", "--json")) == json.loads((vmm_directory / "guest/state.json").read_bytes())


def test_list(vmm_directory: Path) -> None:
    assert output("--list") == ""
    assert json.loads(output("--list", "--json")) == {"schema": 1, "machines": []}
    load("b", 4 * MB)
    load("damaged", 4 * MB)
    (vmm_directory / "damaged" / "state.json").write_text("{")
    (vmm_directory / "a\nforged").mkdir()
    assert output("--list") == "a\nforged\nb\ndamaged\n"  # for programs: as it is
    table = as_text(terminal=True).splitlines()
    assert [line.split()[0] for line in table] == ["NAME", "a\\x0aforged", "b", "damaged"]
    assert table[2].split()[1:] == ["loaded", "-", "-", "4M", "-", "-"]
    strange, loaded, damaged = json.loads(output("--list", "--json"))["machines"]
    assert loaded == {
        "name": "b",
        "state": "loaded",
        "loaded": True,
        "pid": None,
        "since": None,
        "memory": {"low": 4 * MB, "high": 0},
        "disks": [],
        "console": None,
    }
    assert (strange["name"], strange["error"]) == ("a\nforged", "vm_create: Invalid argument")
    assert not damaged["loaded"] and "not JSON" in damaged["error"]


def test_destroy(vmm_directory: Path) -> None:
    load("guest", 4 * MB)
    assert output("--vm=guest", "--destroy", "--get-lowmem") == "lowmem\t\t0x0000000000000000/4194304\n"
    assert list_machines() == []
    load("guest", 4 * MB)
    (vmm_directory / "guest" / "state.json").write_text("{")
    output("--vm=guest", "--destroy")
    assert list_machines() == []
    with pytest.raises(VmNotFound):
        output("--vm=guest", "--destroy")


def test_beside_a_running_vm() -> None:
    load("guest", 4 * MB)
    with VirtualMachine.open("guest"):
        assert "rip[0]" in output("--vm=guest", "--get-all")
        with pytest.raises(VmBusy):
            output("--vm=guest", "--destroy")


def test_not_loaded(vmm_directory: Path) -> None:
    load("guest", 4 * MB)
    (vmm_directory / "guest" / "state.json").unlink()
    output("--vm=guest")
    for option in ("--get-all", "--json"):
        with pytest.raises(VmNotLoaded):
            output("--vm=guest", option)


@pytest.mark.parametrize("option", RUNNING)
def test_what_only_a_running_vcpu_has(option: str) -> None:
    with pytest.raises(VmNotFound):
        output("--vm=guest", f"--{option}")
    load("guest", 4 * MB)
    with pytest.raises(VmError, match="the guest is not running") as caught:
        output("--vm=guest", f"--{option}", "--destroy")
    assert caught.value.exit_status == 1
    assert caught.value.hint
    assert list_machines() == ["guest"]


def test_wrong_cpu() -> None:
    load("guest", 4 * MB)
    for cpu in (1, 9):
        with pytest.raises(UsageError, match=f"^VM 'guest' has no vCPU {cpu}$") as caught:
            output("--vm=guest", "--get-rip", f"--cpu={cpu}")
        assert caught.value.exit_status == 64
    for number in ("", "-1", "x", "99999", "\u0661"):
        with pytest.raises(UsageError, match="Invalid vCPU number"):
            output("--vm=guest", "--get-rip", f"--cpu={number}")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (4096, "4096B"),
        (65536, "65536B"),
        (99999, "99999B"),
        (100000, "98KB"),
        (102400, "100KB"),
        (256 * MB, "256MB"),
        (3 * GB, "3072MB"),
    ],
)
def test_humanize(size: int, text: str) -> None:
    assert humanize(size) == text


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["guest"], 64, "'guest' is not wanted here"),
        (["--vm"], 64, "option requires an argument -- vm"),
        (["--nonsense"], 64, "illegal option -- nonsense"),
        (["-x"], 64, "illegal option -- x"),
        (["--vm=absent", "--get-all"], 66, "there is no VM 'absent'"),
        (["--vm=absent\x1b[2J\nforged"], 64, "vm_create: Invalid argument"),
        (["--vm=absent", "--destroy"], 66, "there is no VM 'absent'"),
        (["--vm=absent", "--force-reset"], 66, "there is no VM 'absent'"),
        (["--vm=x", "--force-reset", "--destroy"], 1, "mutually exclusive actions specified"),
        (["--vm=x", "--get"], 64, "ambiguous option -- get"),
    ],
)
def test_one_line_and_the_right_status(words: list[str], status: int, error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bhyveload.cli.bhyvectl", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith(f"bhyvectl.py: {error}")
    assert done.stderr.count("\n") == 1


def test_help_and_version() -> None:
    assert output("--help") == HELP
    assert output("--version").startswith("bhyvectl (bhyveload) ")


def test_a_bare_bhyvectl_lists_its_options() -> None:
    """To standard error with status 1, one a line, as bhyvectl.c: vm-bhyve looks for words in it."""
    done = subprocess.run([PROGRAMS / "bhyvectl"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[0] == "Usage: bhyvectl --vm=<vmname>"
    assert {
        "       [--destroy]",
        "       [--cpu=<vcpu_number>]",
        "       [--force-poweroff]",
        "       [--get-stats]",
    } <= {*lines}
    assert "--suspend" not in done.stderr
    assert usage().count("\n") == len(lines)


def test_options_may_be_cut_short() -> None:
    load("guest", 4 * MB)
    assert output("--vm", "guest", "--get-low") == output("--vm=guest", "--get-lowmem")


def test_actions_on_a_guest_that_does_not_run() -> None:
    """FreeBSD's succeed."""
    load("guest", 4 * MB)
    for action in ("--force-reset", "--force-poweroff", "--inject-nmi", "--power-button"):
        assert output("--vm=guest", action) == ""
    with pytest.raises(VmError, match="is not running"):
        output("--vm=guest", "--console")
    with pytest.raises(VmError, match="cannot be saved"):
        output("--vm=guest", "--suspend=file")
