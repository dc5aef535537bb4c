"""bhyve(8)'s options into the tree, for both generations, and its complaints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.bhyve.command_line import CommandLine
from bhyveload.bhyve.usage import SHORT_OPTIONS, usage
from bhyveload.cli.getopt import getopt
from bhyveload.errors import BhyveError
from support.bhyve_lines import LINES

if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion

DEFAULTS = [
    "acpi_tables=true",
    "acpi_tables_in_memory=true",
    "memory.size=256M",
    "x86.strictmsr=true",
    "x86.verbosemsr=false",
    "lpc.fwcfg=bhyve",
]


def parsed(words: list[str], compat: LoaderVersion = "current") -> tuple[CommandLine, list[str]]:
    """The command line after all of ``words``, and its operands."""
    line = CommandLine(compat, lambda _: None)
    options, operands = getopt(words, SHORT_OPTIONS[compat])
    for option, argument in options:
        line.option(option, argument or "")
    return line, operands


def dumped(*words: str, compat: LoaderVersion = "current") -> list[str]:
    """What the options add to the defaults' dump."""
    lines = list(parsed(list(words), compat)[0].config.dump())
    return [line for line in lines if line not in DEFAULTS]


def refusal(*words: str, compat: LoaderVersion = "current") -> BhyveError:
    with pytest.raises(BhyveError) as error:
        parsed(list(words), compat)
    return error.value


def test_defaults_of_both_generations() -> None:
    assert list(CommandLine("current", print).config.dump()) == DEFAULTS
    assert list(CommandLine("13.2", print).config.dump()) == [
        "acpi_tables=false",
        "memory.size=256M",
        "x86.strictmsr=true",
    ]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("-a -x", ["x86.x2apic=true"]),
        ("-x -a", ["x86.x2apic=false"]),
        ("-A", []),
        ("-CDeHPSuWwY", ["x86.strictio=true", "x86.vmexit_on_hlt=true"]),
        ("-I", []),
        ("-c 4", ["cpus=4"]),
        ("-c cpus=2,sockets=1,cores=2,threads=1", ["cpus=2", "sockets=1", "cores=2", "threads=1"]),
        ("-c 2,cores=2 -c threads=2", ["cpus=2", "cores=2", "threads=2"]),
        ("-c ,", ["cpus="]),
        ("-G 1234", ["gdb.port=1234"]),
        ("-G w0.0.0.0:1", ["gdb.wait=true", "gdb.address=0.0.0.0", "gdb.port=1"]),
        ("-G ::1:5", ["gdb.address=::1", "gdb.port=5"]),
        ("-K de_noacc", ["keyboard.layout=de_noacc"]),
        ("-l com1,stdio", ["lpc.com1.path=stdio"]),
        ("-lCOM3,/dev/nmdm0A", ["lpc.com3.path=/dev/nmdm0A"]),
        ("-l com1", []),
        ("-l pc-testdev", ["lpc.pc-testdev=true"]),
        ("-l bootrom,/f.fd", ["bootrom=/f.fd"]),
        ("-l bootrom,/f.fd,/v.fd,x=1", ["lpc.x=1", "bootrom=/f.fd", "bootvars=/v.fd"]),
        ("-l tpm,passthru,/dev/tpm0", ["tpm.type=passthru", "tpm.path=/dev/tpm0", "tpm.version=2.0"]),
        ("-m 4G", ["memory.size=4G"]),
        ("-n id=1,size=1G,cpus=0-3", ["domains.1.size=1G", "domains.1.cpus=0-3"]),
        ("-p 0:1 -p 0:3 -p 1:4", ["vcpu.0.cpuset=1,3", "vcpu.1.cpuset=4"]),
        ("-U 5d8ab6ee-1111-4222-8333-0123456789ab", ["uuid=5d8ab6ee-1111-4222-8333-0123456789ab"]),
        ("-o a.b=c=d", ["a.b=c=d"]),
    ],
)
def test_letters(words: str, lines: list[str]) -> None:
    assert [line for line in dumped(*words.split()) if line in lines] == lines
    if not lines:
        assert dumped(*words.split()) == []


def test_an_empty_topology_is_one_processor() -> None:
    assert dumped("-c", "") == ["sockets=1", "cores=1", "threads=1", "cpus=1"]


def test_every_flag_lands_in_the_tree() -> None:
    assert dumped("-CDeHPSuWwY") == [
        "memory.guest_in_core=true",
        "memory.wired=true",
        "x86.strictio=true",
        "x86.vmexit_on_hlt=true",
        "x86.vmexit_on_pause=true",
        "x86.strictmsr=false",
        "x86.mptable=false",
        "destroy_on_poweroff=true",
        "rtc.use_localtime=false",
        "virtio_msix=false",
    ]


def test_the_old_generation() -> None:
    assert "acpi_tables=true" in parsed(["-A"], "13.2")[0].config.dump()
    assert "lpc.bootrom=/f.fd" in dumped("-l", "bootrom,/f.fd", compat="13.2")
    assert refusal("-l", "tpm,passthru,/x", compat="13.2").exit_status == 64
    assert refusal("-p", "0:256", compat="13.2").before == ("hostcpu '256' outside valid range from 0 to 255",)
    assert parsed(["-p", "0:256"])[0]
    for letter in "fnr":
        assert letter not in SHORT_OPTIONS["13.2"]


@pytest.mark.parametrize(
    ("slot", "lines"),
    [
        ("0,hostbridge", ["pci.0.0.0.device=hostbridge"]),
        ("0:0,amd_hostbridge", ["pci.0.0.0.device=amd_hostbridge"]),
        ("3:1,virtio-rnd", ["pci.0.3.1.device=virtio-rnd"]),
        ("2:30:7,virtio-rnd", ["pci.2.30.7.device=virtio-rnd"]),
        (" 5junk,virtio-rnd", ["pci.0.5.0.device=virtio-rnd"]),
        ("5:x,virtio-rnd", ["pci.0.5.0.device=virtio-rnd"]),
        ("0000000000000000000000005,virtio-rnd", ["pci.0.5.0.device=virtio-rnd"]),
        ("2,virtio-blk,/x,ro", ["device=virtio-blk", "path=/x", "ro=true"]),
        ("2,ahci-hd,/x,nocache", ["device=ahci", "port.0.type=hd", "port.0.path=/x", "port.0.nocache=true"]),
        ("2,ahci-cd,/x", ["device=ahci", "port.0.type=cd", "port.0.path=/x"]),
        (
            "2,ahci,hd:/a,nmrr=1,cd:/b,hd:,hd:/c",
            [
                "device=ahci",
                *("port.0.type=hd", "port.0.path=/a", "port.0.nmrr=1"),
                *("port.1.type=cd", "port.1.path=/b"),
                *("port.3.type=hd", "port.3.path=/c"),
            ],
        ),
        ("2,virtio-net,tap0,mac=00:11:22:33:44:55", ["device=virtio-net", "backend=tap0", "mac=00:11:22:33:44:55"]),
        ("2,virtio-net", ["device=virtio-net"]),
        ("2,e1000,slirp,open", ["device=e1000", "backend=slirp", "open=true"]),
        ("2,nvme,/x,ser=A", ["device=nvme", "path=/x", "ser=A"]),
        ("2,nvme,ram=16,maxq=2", ["device=nvme", "ram=16", "maxq=2"]),
        (
            "2,virtio-console,a=/1,b=/2",
            ["device=virtio-console", "port.0.name=a", "port.0.path=/1", "port.1.name=b", "port.1.path=/2"],
        ),
        ("2,virtio-9p,tag=/d,ro", ["device=virtio-9p", "sharename=tag", "path=/d", "ro=true"]),
        ("2,xhci,tablet", ["device=xhci", "slot.1.device=tablet"]),
        ("2,uart,/dev/x,y", ["device=uart", "path=/dev/x,y"]),
        ("2,fbuf,tcp=0.0.0.0:5900,w=800,wait", ["device=fbuf", "tcp=0.0.0.0:5900", "w=800", "wait=true"]),
        ("2,passthru,3/0/1,rom=/r", ["device=passthru", "bus=3", "slot=0", "func=1", "rom=/r"]),
        ("2,passthru,pci0:3:4:5", ["device=passthru", "bus=3", "slot=4", "func=5"]),
        ("2,passthru,ppt0", ["device=passthru", "pptdev=ppt0"]),
        ("2,virtio-scsi,/dev/cam/ctl1.2,iid=5", ["device=virtio-scsi", "dev=/dev/cam/ctl1.2", "iid=5"]),
        ("2,hda,play=/dev/dsp0", ["device=hda", "play=/dev/dsp0"]),
        ("2,virtio-input,/dev/input/event2", ["device=virtio-input", "path=/dev/input/event2"]),
    ],
)
def test_slots(slot: str, lines: list[str]) -> None:
    found = dumped("-s", slot)
    prefix = "" if lines[0].startswith("pci.") else "pci.0.2.0."
    assert found == [prefix + line for line in lines]


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["-s", "3"], 'Invalid PCI slot info field "3"', 4),
        (["-s", "32,lpc"], 'Invalid PCI slot info field "32,lpc"', 4),
        (["-s", "1:8,lpc"], 'Invalid PCI slot info field "1:8,lpc"', 4),
        (["-s", "256:1:0,lpc"], 'Invalid PCI slot info field "256:1:0,lpc"', 4),
        (["-s", "-1,lpc"], 'Invalid PCI slot info field "-1,lpc"', 4),
        (["-s", "x,lpc"], 'Invalid PCI slot info field "x,lpc"', 4),
        (["-s", "\u0663,lpc"], 'Invalid PCI slot info field "\u0663,lpc"', 4),
        (["-s", "0:31:8,lpc"], 'Invalid PCI slot info field "0:31:8,lpc"', 4),
        (["-s", ":,lpc"], 'Invalid PCI slot info field ":,lpc"', 4),
        (["-s", f"{10**30},lpc"], f'Invalid PCI slot info field "{10**30},lpc"', 4),
        (["-s", "3,lpc", "-s", "0:3:0,virtio-rnd"], "pci slot 0:3:0 already occupied!", 4),
        (["-o", "pci.0.4.0.x=y", "-s", "4,lpc"], "pci slot 0:4:0 already occupied!", 4),
        (["-s", "2,ahci,/x"], 'Missing or invalid type for port 0: "/x"', 4),
        (["-s", "2,ahci,hd:/a,cd:/b,dvd:/c,hd:"], None, 4),
        (["-s", "2,virtio-console,a"], "vtcon: port a requires a path", 4),
        (["-s", "2,virtio-9p,a=/1,b=/2"], "virtio-9p: more than one share name given", 4),
        (["-s", "2,passthru,pptless"], None, 4),
        (["-s", "2,passthru,x/y/z"], 'passthru: invalid options "x/y/z"', 4),
        (["-s", "2,lpc,pcireg.vendor=host"], "Invalid config node name pcireg.vendor", 4),
        (["-l", "com5,stdio"], "invalid lpc device configuration 'com5,stdio'", 64),
        (["-l", "bootrom"], "invalid lpc device configuration 'bootrom'", 64),
        (["-l", "tpm"], 'invalid tpm type "tpm"', 4),
        (["-l", "tpm,swtpm"], 'invalid tpm path "tpm,swtpm"', 4),
        (["-c", "dies=2"], "invalid cpu topology 'dies=2'", 64),
        (["-o", "novalue"], "invalid configuration option 'novalue'", 64),
        (["-o", "empty="], "invalid configuration option 'empty='", 64),
        (["-p", "0"], "invalid vcpu pinning configuration '0'", 64),
        (["-n", "size=1"], "invalid NUMA configuration 'size=1'", 64),
        (["-n", "id=256"], "Invalid value for id: '256'", 4),
        (["-f", "name"], "invalid fwcfg item 'name'", 64),
        (["-k", "/no/such/file"], "Failed to open configuration file /no/such/file: No such file or directory", 4),
    ],
)
def test_complaints(words: list[str], message: str | None, status: int) -> None:
    if message is None:
        parsed(words)  # what bhyve's parser takes without a word
        return
    error = refusal(*words)
    assert (error.message, error.exit_status) == (message, status)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0", "invalid format: 0"),
        ("-1:0", "invalid vcpu '-1'"),
        ("0:1024", "hostcpu '1024' outside valid range from 0 to 1023"),
    ],
)
def test_pinning_says_why_first(text: str, line: str) -> None:
    assert refusal("-p", text).before == (line,)


def test_an_unknown_device_is_told_in_both_forms() -> None:
    """bhyve's own, and the one that libvirt looks for."""
    error = refusal("-s", "0,nosuch")
    assert error.before == ('pci slot 0:0:0: unknown device "nosuch"',)
    assert error.message == 'pci slot 0:0: unknown device "nosuch"'
    assert error.bare


def test_a_file_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"# a comment\n\nname=vm1\nmemory.size=1G\n padded = x \n\xff=\xfe")
    assert dumped("-m", "2G", "-k", str(path)) == ["memory.size=1G", "name=vm1", " padded = x ", "\udcff=\udcfe"]
    assert "memory.size=2G" in dumped("-k", str(path), "-m", "2G")
    path.write_text("a=1\n #no comment\n")
    assert refusal("-k", str(path)).message == f"{path} line 2: invalid config option ' #no comment'"
    path.write_bytes(b"a=1\n\0=2\n")
    assert refusal("-k", str(path)).message == f"{path} line 2: invalid config option ''"
    assert refusal("-k", "/dev/zero").message == "Failed to open configuration file /dev/zero: larger than 1 MiB"
    assert refusal("-k", str(tmp_path)).message == f"Failed to open configuration file {tmp_path}: Is a directory"


def test_older_names_of_variables() -> None:
    """bhyverun_machdep.c:bhyve_optparse has a word for them, once all options are known."""
    both: dict[LoaderVersion, tuple[list[str], list[str]]] = {
        "current": (
            ["lpc.bootrom=/f", "bootvars=/w", "bootrom=/f"],
            ["lpc.bootrom is deprecated, use '-o bootrom' instead"],
        ),
        "13.2": (["lpc.bootrom=/f", "bootvars=/w"], []),
    }
    for compat, (lines, words) in both.items():
        told: list[str] = []
        line = CommandLine(compat, told.append)
        for text in ("lpc.bootrom=/f", "bootvars=/w"):
            line.option("o", text)
        line.finish()
        assert [text for text in line.config.dump() if "boot" in text] == lines
        assert told == words


def test_help_lists() -> None:
    assert parsed(["-l", "help"])[0].listing == ("bootrom", "com1", "com2", "com3", "com4", "tpm", "pc-testdev")
    assert "tpm" not in parsed(["-l", "h"], "13.2")[0].listing
    for text in ("help", "h", ""):
        listing = parsed(["-s", text])[0].listing
        assert (listing[0], listing[-1], len(listing)) == ("ahci", "passthru", 20)


def test_usage() -> None:
    text = usage("bhyve", "current").splitlines()
    assert text[0] == "Usage: bhyve [-aCDeHhPSuWwxY]"
    assert text[1] == "             [-c [[cpus=]numcpus][,sockets=n][,cores=n][,threads=n]]"
    assert "       -u: RTC keeps UTC time" in text
    assert "-c vcpus" not in "".join(text)  # libvirt would take that for a bhyve without topologies
    old = usage("bhyve", "13.2").splitlines()
    assert old[0] == "Usage: bhyve [-AaCDeHhPSuWwxY]"
    assert "       -A: create ACPI tables" in old
    assert [line for line in old if line.startswith("       -m: ")] == ["       -m: memory size"]


def test_the_dump_of_the_manual_pages_example() -> None:
    line, operands = parsed(LINES["manual-dump"].words)
    line.config.set("name", operands[0])
    assert list(line.config.dump()) == [
        "acpi_tables=true",
        "acpi_tables_in_memory=true",
        "memory.size=256",
        "x86.strictmsr=true",
        "x86.verbosemsr=false",
        "x86.vmexit_on_hlt=true",
        "x86.vmexit_on_pause=true",
        "lpc.fwcfg=bhyve",
        "lpc.com1.path=stdio",
        "cpus=2",
        "pci.0.0.0.device=hostbridge",
        "pci.0.1.0.device=virtio-net",
        "pci.0.1.0.backend=tap0",
        "pci.0.2.0.device=ahci",
        "pci.0.2.0.port.0.type=hd",
        "pci.0.2.0.port.0.path=./vm0.img",
        "pci.0.31.0.device=lpc",
        "config.dump=1",
        "name=vm0",
    ]


@pytest.mark.parametrize("name", [name for name in LINES if name != "manual-8-disks"])
def test_real_lines_are_taken(name: str) -> None:
    line, operands = parsed(LINES[name].words)
    assert len(operands) == (3 if name == "libvirt-commandline" else 1)
    # what was parsed can be written down, and read again from a file
    again = CommandLine("current", lambda _: None)
    for text in line.config.dump():
        again.option("o", text)
    assert sorted(again.config.dump()) == sorted(line.config.dump())


def test_the_manual_pages_own_mistake_is_one() -> None:
    assert refusal(*LINES["manual-8-disks"].words).message == "pci slot 0:1:0 already occupied!"


WORDS = st.text("0123456789:,=.-/%()\\abcdhimnoprstvxz\udcff", max_size=12)
EMULATION = st.sampled_from(
    ["ahci", "ahci-hd", "virtio-9p", "virtio-console", "nvme", "xhci", "passthru", "virtio-net"]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("cfGklmnopsU"), WORDS, st.none() | EMULATION), max_size=6))
def test_any_words_end_in_a_tree_or_a_complaint(options: list[tuple[str, str, str | None]]) -> None:
    line = CommandLine("current", lambda _: None)
    for letter, text, emulation in options:
        argument = f"{text},{emulation},{text}" if letter == "s" and emulation else text
        try:
            line.option(letter, argument)
        except BhyveError as error:
            assert error.exit_status in (4, 64)
    list(line.config.dump())
