"""Choosing without a menu, through the real command line: --batch, --kernel, --single-user, --verbose-boot,
--loader-command, --list-variables, --dry-run."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

import stock_like
from stock_like import MODULES
from support.end_to_end import bhyveload
from support.images import gpt_disk, make_ufs
from support.probes import without_twiddles
from support.stock_disk import make_disk

EX_SOFTWARE = 70


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(tmp_path_factory.mktemp("choices"), conf=MODULES + 'kernels="kernel kernel.old"\n')


def report(*words: str | Path, keys: bytes = b"") -> dict[str, Any]:
    done: dict[str, Any] = bhyveload("--json", *words, "vm", keys=keys, check=0).json
    return done


def names(done: dict[str, Any]) -> list[str]:
    return [file["name"] for file in done["files"]]


def test_batch_shows_every_byte_once(disk: Path) -> None:
    done = bhyveload("--batch", "-d", disk, "vm", check=0)
    text = without_twiddles(done.out).decode()
    assert text.count("User boot lua, Revision 3.0") == 1
    assert text.count("Loading /boot/defaults/loader.conf") == 1
    assert "\x1b" not in text and "Autoboot" not in text  # the menu is drawn, but not for anybody
    # the rest is what a run shows whose countdown is answered
    menu = without_twiddles(bhyveload("-d", disk, "vm", keys=b"\r", check=0).out).decode()
    seen = re.sub(r"\x1b.*?(?=Loading kernel)", "", menu, flags=re.S)
    module = "Loading configured modules"  # they come in any order
    assert text.partition(module)[:2] == seen.partition(module)[:2]


# What the guest does when its menu is drawn and its countdown ends
AS_DRAWN = {
    "generation": {
        "boot/lua/local.lua": """\
local core = require("core")
local list = core.kernelList
core.kernelList = function() loader.setenv("kernel", "kernel.old") return list() end
"""
    },
    "timeout command": {"boot/loader.conf.local": 'menu_timeout_command="boot kernel.old -s"\n'},
    "a countdown of its own": {
        "boot/lua/local.lua": """\
local left = loader.time() + 30
while loader.time() < left and not io.ischar() do loader.delay(100000) end
loader.setenv("kernel", "kernel.old")
"""
    },
}


@pytest.mark.parametrize("what", AS_DRAWN)
def test_batch_does_what_the_menu_does(tmp_path: Path, what: str) -> None:
    done = report("--batch", "-d", make_disk(tmp_path, files=AS_DRAWN[what]))
    assert names(done)[0] == "/boot/kernel.old/kernel"
    assert done["environment"]["autoboot_delay"] == "3"  # its own


@pytest.mark.parametrize("delay", ["-1", "NO", "3600"])
def test_batch_waits_for_nothing(tmp_path: Path, delay: str) -> None:
    """With -1 a menu is not drawn, and local changes of what it shows are not made."""
    files = {**AS_DRAWN["generation"], "boot/loader.conf.local": f'autoboot_delay="{delay}"\n'}
    done = report("--batch", "-d", make_disk(tmp_path, files=files))
    assert names(done)[0] == ("/boot/kernel/kernel" if delay == "-1" else "/boot/kernel.old/kernel")
    assert done["environment"]["autoboot_delay"] == delay


def test_a_batch_run_that_waits_for_ever_says_for_what(tmp_path: Path) -> None:
    waits = 'printc("Press a key\\n") while not io.ischar() do loader.delay(1000000) end\n'
    done = bhyveload("--batch", "-d", make_disk(tmp_path, files={"boot/lua/local.lua": waits}), "vm", check=1)
    assert "the guest's boot scripts wait for a key ('Press a key')" in done.messages


@pytest.mark.parametrize("generation", ["old", "new"])
@pytest.mark.parametrize("compat", ["13.2", "current"])
def test_batch_with_scripts_of_both_generations(tmp_path: Path, generation: str, compat: str) -> None:
    done = report("--batch", "--compat", compat, "-d", make_disk(tmp_path, generation, conf=MODULES))
    assert names(done) == ["/boot/kernel/kernel", "/boot/first.img"]
    assert done["interpreter"] == "lua"
    assert done["environment"]["site"] == "yes"


def test_a_batch_run_that_starts_over_uses_nextboot_all_the_same(tmp_path: Path) -> None:
    """Writing nextboot.conf comes before what makes this run start over: a compressed kernel."""
    tree = {
        "boot/nextboot.conf": 'nextboot_enable="YES"\nkernel="zipped"\n',
        "boot/zipped/kernel.gz": gzip.compress(stock_like.tiny_kernel()),
    }
    disk = make_disk(tmp_path, files=tree)
    assert names(report("--batch", "-d", disk))[0] == "/boot/zipped/kernel"
    assert b'nextboot_enable="NO" \nkernel="zipped"' in disk.read_bytes()
    assert names(report("--batch", "-d", disk))[0] == "/boot/kernel/kernel"


def test_the_chosen_kernel(disk: Path) -> None:
    done = report("--batch", "--kernel", "kernel.old", "-d", disk)
    assert names(done) == ["/boot/kernel.old/kernel", "/boot/first.img"]
    assert done["environment"]["module_path"].startswith("/boot/kernel.old;")
    refused = bhyveload("--batch", "--kernel", "nowhere", "-d", disk, "vm", check=1)
    assert "there is no /boot/nowhere" in refused.messages
    assert refused.messages.count("\n") == 1


def test_the_chosen_kernel_without_scripts(tmp_path: Path) -> None:
    disk = make_disk(tmp_path, scripts=False)
    assert names(report("--batch", "-d", disk)) == ["/boot/kernel/kernel"]
    assert names(report("--batch", "--kernel", "kernel.old", "-d", disk)) == ["/boot/kernel.old/kernel"]
    assert names(report("--batch", "--kernel", "/boot/kernel.old/kernel", "-d", disk)) == ["/boot/kernel.old/kernel"]
    assert "there is no /boot/x" in bhyveload("--batch", "--kernel", "x", "-d", disk, "vm", check=1).messages


@pytest.mark.parametrize("keys", [None, b"\r"], ids=["batch", "menu"])
def test_flags(disk: Path, keys: bytes | None) -> None:
    batch = ["--batch"] if keys is None else []
    done = report(*batch, "--single-user", "--verbose-boot", "-d", disk, keys=keys or b"")
    assert done["howto"] & 0x802 == 0x802
    assert done["environment"]["boot_single"] == done["environment"]["boot_verbose"] == "YES"


def test_commands_in_order(disk: Path) -> None:
    done = report("--batch", "--loader-command", "set a=1", "--loader-command", "set b=${a}2", "-d", disk)
    assert done["environment"]["b"] == "12"
    done = report(
        "--batch", "--loader-command", "unload", "--loader-command", "load /boot/kernel.old/kernel", "-d", disk
    )
    assert names(done) == ["/boot/kernel.old/kernel"]
    done = report("--loader-command", "boot -v", "-d", disk, keys=b"\x1bautoboot 0\n")
    assert done["howto"] & 0x800


def test_a_failing_command(disk: Path) -> None:
    done = bhyveload("--batch", "--loader-command", "show no\x1b[31mpe", "-d", disk, "vm", check=1)
    assert (
        done.messages == "bhyveload: --loader-command 'show no\\x1b[31mpe' failed: variable 'no\\x1b[31mpe' not found\n"
    )


def test_listed_variables_are_the_kernels(disk: Path) -> None:
    done = bhyveload("--batch", "--list-variables", "-e", "mine=a\nb", "-d", disk, "vm", check=0)
    lines = done.out.decode().splitlines()
    listed = [line.partition("=")[0] for line in lines]
    assert listed == sorted(listed)
    assert "kernelname=/boot/kernel/kernel" in lines
    assert "mine=a\\x0ab" in lines
    environment = report("--batch", "-e", "mine=a\nb", "-d", disk)["environment"]
    assert listed == list(environment)


def test_a_dry_run_says_what_would_be_loaded(disk: Path, vmm_directory: Path) -> None:
    done = bhyveload("--batch", "--dry-run", "-d", disk, check=0)
    text = done.out.decode()
    first, kernel, module = text.splitlines()[:3]
    assert first == "from disk0p2: (ufs), scripts: lua"
    assert kernel.endswith(" /boot/kernel/kernel (elf kernel)")
    assert module.endswith(" /boot/first.img (md_image)")
    assert "kernelname=/boot/kernel/kernel\n" in text
    assert not vmm_directory.exists() or not list(vmm_directory.iterdir())
    as_json = json.loads(bhyveload("--batch", "--dry-run", "--json", "-d", disk, check=0).out)
    assert names(as_json) == ["/boot/kernel/kernel", "/boot/first.img"]
    assert f"entry {as_json['entry']:#x}" in text


def test_a_dry_run_asks_like_any_other(disk: Path) -> None:
    done = bhyveload("--dry-run", "-d", disk, keys=b"s", check=0)
    assert "boot_single=YES" in done.out.decode()
    assert b"Boot Single user" in done.err  # the menu


@pytest.mark.parametrize(
    ("script", "reason"),
    [('error("no such luck")', "no such luck"), ("local = 1", "<name> expected"), ("error({})", "unknown")],
)
def test_a_first_script_that_fails_ends_a_batch_run(tmp_path: Path, script: str, reason: str) -> None:
    """Not the bare kernel without loader.conf; a guest without scripts is booted all the same."""
    disk = make_disk(tmp_path, files={"boot/lua/loader.lua": script})
    done = bhyveload("--batch", "-d", disk, "vm", check=1)
    assert b"ERROR: " in done.out and reason.encode() in done.out
    assert done.messages.startswith("bhyveload: the guest's boot script failed: ")
    assert reason in done.messages and "(run it without --batch" in done.messages
    # at the prompt it goes on as FreeBSD's does
    prompt = bhyveload("-d", disk, "vm", keys=b"boot\n", check=0)
    assert b"ERROR: " in prompt.out


def test_a_password_ends_a_batch_run(tmp_path: Path) -> None:
    disk = make_disk(tmp_path, conf='bootlock_password="x"\n')
    done = bhyveload("--batch", "-d", disk, "vm", keys=b"x\r", check=1)
    assert done.messages == (
        "bhyveload: the guest's boot scripts wait for a key ('Bootlock password:') "
        "(answer them in a run without --batch)\n"
    )


def test_the_end_of_input_at_the_prompt(disk: Path) -> None:
    done = bhyveload("-d", disk, "vm", keys=b"\x1b", check=1)
    assert "end of input at the loader's prompt" in done.messages


def test_endless_scripts_end_with_the_timeout(tmp_path: Path) -> None:
    endless = {"boot/lua/local.lua": "while true do pcall(function() while true do end end) end\n"}
    done = bhyveload("--batch", "--timeout", "1.5", "-d", make_disk(tmp_path, files=endless), "vm", timeout=20)
    assert done.status == EX_SOFTWARE
    assert "did not finish in 1.5 seconds" in done.messages
    assert done.messages.count("\n") == 1


def test_a_guest_whose_first_console_is_a_screen_is_told_of(tmp_path: Path) -> None:
    disk = make_disk(tmp_path, files={"boot/loader.conf.local": 'console="vidconsole,comconsole"\n'})
    done = bhyveload("--batch", "--json", "-d", disk, "vm", check=0)
    assert done.json["howto"] & 0x20001000 == 0x20000000
    (line,) = [line for line in done.messages.splitlines() if "first console is a screen" in line]
    assert "bhyveload: " in line
    command = line.partition("--loader-command '")[2].partition("'")[0]
    done = bhyveload("--batch", "--json", "--loader-command", command, "-d", disk, "vm", check=0)
    assert done.json["howto"] & 0x20001000 == 0x20001000
    assert "is a screen" not in done.messages


@pytest.fixture(scope="module")
def two_roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A disk whose first UFS holds nothing to boot, and a second disk that has it in its second partition."""
    folder = tmp_path_factory.mktemp("roots")
    (folder / "data").mkdir()
    (folder / "data" / "file").write_text("x")
    root = stock_like.write_tree(folder / "tree", "new", size=0)
    data, boot = make_ufs(folder / "data", folder / "a", 4 << 20), make_ufs(root, folder / "b", 4 << 20)
    disks = [folder / "disk0", folder / "disk1"]
    gpt_disk(disks[0], [(1, 2048, 8192, "A503", data)], 8 << 20)
    gpt_disk(disks[1], [(1, 2048, 8192, "A503", data), (2, 10240, 8192, "A503", boot)], 12 << 20)
    return disks


@pytest.mark.parametrize("device", ["disk1p2", "disk1p2:", "disk1s2"])
def test_the_user_says_where_to_boot_from(two_roots: list[Path], device: str) -> None:
    words = [word for disk in two_roots for word in ("-d", disk)]
    done = report("--batch", "--boot-device", device, *words)
    assert done["environment"]["currdev"] == done["environment"]["loaddev"] == "disk1p2:"
    assert names(done)[0] == "/boot/kernel/kernel"


def test_a_failed_load_says_where_else_there_is_something(two_roots: list[Path]) -> None:
    words = [word for disk in two_roots for word in ("-d", disk)]
    done = bhyveload("--batch", *words, "vm", check=1)
    assert done.messages.splitlines()[-1].endswith("; or --boot-device disk1p2)")


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("disk1p3", "there is no partition 3"),
        ("disk7", "there is no such disk"),
        ("disk1p2x", "invalid argument"),
        ("zfs:tank", "there is no ZFS pool on the disks"),
        ("cd0", "no such file or directory"),
    ],
)
def test_devices_that_are_not_there(two_roots: list[Path], device: str, why: str) -> None:
    words = [word for disk in two_roots for word in ("-d", disk)]
    done = bhyveload("--batch", "--boot-device", device, *words, "vm", check=1)
    line = done.messages.splitlines()[-1]
    assert line.endswith(f"--boot-device {device}: {why} (there are disk1p2)")
