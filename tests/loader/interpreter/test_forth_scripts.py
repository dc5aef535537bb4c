"""Scripts in the manner of FreeBSD's loader.4th, support.4th and menu.4th (tools/stock_like_forth.py), from a disk, in
the confined child."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest

import stock_like_forth
from bhyveload.errors import LoaderError
from bhyveload.image.raw import open_raw
from bhyveload.loader.state import Options
from support import harness
from support.images import make_ufs, standard_disk
from support.probes import without_twiddles
from support.zfs_pools import disk as zfs_disk

ENTER, ESC = b"\r", b"\x1b"
_numbers = itertools.count()
BOTH = ("loader.rc", "generic.rc")


class Guest:
    """A disk with Forth scripts; each run may write to it."""

    def __init__(
        self,
        folder: Path,
        rc: str = "loader.rc",
        conf: str = stock_like_forth.CONF,
        files: Mapping[str, str | bytes] | None = None,
        defaults: str = "",
    ) -> None:
        folder = folder / str(next(_numbers))
        tree = stock_like_forth.write_tree(
            folder / "tree", rc, conf=conf, files=files, defaults=stock_like_forth.DEFAULTS + defaults
        )
        self.disk = standard_disk(folder / "disk", make_ufs(tree, folder / "fs", 4 << 20))

    def run(self, keys: bytes = b"", current: bool = True, options: Options | None = None) -> harness.Outcome:
        return harness.run([open_raw(str(self.disk))], keys, current=current, options=options, interpreter="4th")


def said(outcome: harness.Outcome) -> str:
    return without_twiddles(outcome.console).decode("latin-1").replace("\r\n", "\n")


def names(outcome: harness.Outcome) -> list[str]:
    return [file["name"] for file in outcome.report["files"]]


def lines(outcome: harness.Outcome) -> list[str]:
    return said(outcome).split("\n")


@pytest.fixture(params=[True, False], ids=["current", "13.2"])
def current(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# Reading and loading


@pytest.mark.parametrize("rc", BOTH)
def test_what_loader_conf_names_is_loaded(tmp_path: Path, rc: str, current: bool) -> None:
    outcome = Guest(tmp_path, rc).run(ENTER, current)
    assert outcome.end == "exec"
    assert names(outcome) == ["/boot/kernel/kernel", "/boot/first.img"]
    assert outcome.environment["quoted"] == 'a "b" c'
    assert outcome.environment["script.lang"] == "forth"
    assert outcome.environment["hint.uart.0.at"] == "isa"
    text = lines(outcome)
    for row in ("reading defaults", "before first", "after first", "gone is gone"):
        assert row in text
    assert text.index("before first") < text.index("after first")


def test_lines_that_are_no_assignments(tmp_path: Path) -> None:
    conf = 'good="1"\nbad line\nanother="2"\nopen="quote\nlast="3"\n'
    outcome = Guest(tmp_path, "generic.rc", conf).run(ENTER)
    assert [row for row in lines(outcome) if row.startswith("line ")] == [
        "line 2 is no assignment",
        "line 4 is no assignment",
    ]
    assert outcome.environment["good"] == "1" and outcome.environment["last"] == "3"


def test_a_value_that_the_variable_refuses(tmp_path: Path) -> None:
    outcome = Guest(tmp_path, "generic.rc", 'currdev="nosuch:"\nafter="1"\n').run(ENTER)
    assert "line 1 cannot be set" in lines(outcome)
    assert outcome.environment["after"] == "1"


def test_another_kernel_and_its_options(tmp_path: Path, current: bool) -> None:
    outcome = Guest(tmp_path, "generic.rc", 'kernel="kernel.old"\nkernel_options="-v"\n').run(ENTER, current)
    assert names(outcome) == ["/boot/kernel.old/kernel"]
    assert outcome.report["files"][0]["args"] == "-v"
    assert outcome.report["howto"] & 0x800
    assert outcome.environment["module_path"].startswith("/boot/kernel.old;")


def test_nextboot_counts_once(tmp_path: Path) -> None:
    text = 'nextboot_enable="YES"\nkernel="kernel.old"\n'
    guest = Guest(tmp_path, "generic.rc", files={"boot/nextboot.conf": text})
    assert names(guest.run(ENTER))[0] == "/boot/kernel.old/kernel"
    assert names(guest.run(ENTER))[0] == "/boot/kernel/kernel"


def test_a_local_rc_and_a_hook(tmp_path: Path) -> None:
    local = ': after-conf s" hooked" s" from.hook" setenv ;\n'
    outcome = Guest(tmp_path, "generic.rc", files={"boot/loader.rc.local": local}).run(ENTER)
    assert outcome.environment["from.hook"] == "hooked"


def test_a_broken_local_rc_is_passed_over(tmp_path: Path) -> None:
    local = ".( begun) cr\n1 2 3\nnonsense\n.( not reached) cr\n"
    outcome = Guest(tmp_path, "generic.rc", files={"boot/loader.rc.local": local}).run(ENTER)
    text = lines(outcome)
    assert "begun" in text and "nonsense not found" in text and "not reached" not in text
    assert outcome.end == "exec" and names(outcome) == ["/boot/kernel/kernel", "/boot/first.img"]


# The prompt and the menu


def test_boot_with_a_name_and_flags(tmp_path: Path, current: bool) -> None:
    outcome = Guest(tmp_path).run(ESC + b"boot kernel.old -s\n", current)
    assert names(outcome) == ["/boot/kernel.old/kernel", "/boot/first.img"]
    assert outcome.report["howto"] & 2


def test_the_menu_toggles_and_boots(tmp_path: Path) -> None:
    outcome = Guest(tmp_path, conf=stock_like_forth.CONF + 'autoboot_delay="9"\n').run(b"s2sv\r")
    assert outcome.report["howto"] & 0x802 == 0x802
    assert outcome.environment["boot_single"] == "YES"
    assert not [name for name in outcome.environment if name.startswith("menu_")]
    text = outcome.console.decode("latin-1")
    assert "\x1b[1mB\x1b[moot" in text and "no pool" in text
    assert "\xe2\x95\x94" in text, "a corner of the frame in UTF-8"


def test_out_of_the_menu_and_back(tmp_path: Path) -> None:
    outcome = Guest(tmp_path).run(ESC + b"show-modules\nmenu-start\n4quit\n")
    text = lines(outcome)
    assert text.count("Type menu-start to come back.") == 2
    assert "first yes" in text and "no no" in text and outcome.end == "exit"


def test_the_countdown_ends_in_a_boot(tmp_path: Path) -> None:
    outcome = Guest(tmp_path, conf='autoboot_delay="1"\n').run()
    assert outcome.end == "exec"
    assert "Boot in 0 seconds" in said(outcome)


def test_a_password(tmp_path: Path) -> None:
    outcome = Guest(tmp_path, "generic.rc", 'password="secret"\n').run(b"guess\rsecret\r\r")
    text = said(outcome)
    assert text.count("Password: ") == 2 and "wrong" in text and "secret" not in text
    assert outcome.end == "exec"


def test_boot_environments(tmp_path: Path) -> None:
    """The second boot environment of a pool, by the menu's own words."""
    keys = (
        b's" zfs_be_active" getenv type cr\n'
        b"set vfs.root.mountfrom=${bootenvs[1]}\n"
        b"set currdev=${vfs.root.mountfrom}:\n"
        b"show currdev\nls /\n"
        b': again s" reloadbe" evaluate ; again s" bootenvs_count" getenv type cr\nquit\n'
    )
    outcome = harness.run([zfs_disk("bootenv.0")], b" " + keys, interpreter="4th")
    text = lines(outcome)
    assert "zfs:benv/ROOT/default" in text
    assert outcome.environment["currdev"] == outcome.environment["bootenvs[1]"] + ":"
    assert outcome.environment["currdev"] != "zfs:benv/ROOT/default:"
    assert text[text.index("OK show currdev") + 1] == outcome.environment["currdev"]
    assert outcome.environment["bootenvs_count"] in text


# --batch and the choices without a menu


@pytest.mark.parametrize("rc", BOTH)
def test_batch_skips_the_menu_and_nothing_else(tmp_path: Path, rc: str, current: bool) -> None:
    conf = stock_like_forth.CONF + 'autoboot_delay="7"\nbeastie_disable="NO"\nkern.hz="100"\n'
    files = {"boot/nextboot.conf": 'nextboot_enable="YES"\nkernel="kernel.old"\n'}
    guest = Guest(tmp_path, rc, conf, files)
    outcome = guest.run(b"\x1b\x1bzzz", current, Options(batch=True))
    assert outcome.end == "exec"
    assert names(outcome) == ["/boot/kernel.old/kernel", "/boot/first.img"]
    assert "\x1b[" not in said(outcome), "no menu"
    assert outcome.environment["autoboot_delay"] == "7"
    assert outcome.environment["beastie_disable"] == "NO"
    assert outcome.environment["kern.hz"] == "100"
    assert names(guest.run(b"", current, Options(batch=True)))[0] == "/boot/kernel/kernel"


@pytest.mark.parametrize(
    ("options", "howto", "variable"),
    [
        (Options(batch=True, single_user=True), 2, "boot_single"),
        (Options(batch=True, verbose=True), 0x800, "boot_verbose"),
    ],
    ids=("single-user", "verbose-boot"),
)
def test_chosen_flags(tmp_path: Path, options: Options, howto: int, variable: str) -> None:
    outcome = Guest(tmp_path).run(options=options)
    assert outcome.report["howto"] & howto
    assert outcome.environment[variable] == "YES"


@pytest.mark.parametrize("rc", BOTH)
def test_chosen_kernel(tmp_path: Path, rc: str, current: bool) -> None:
    guest = Guest(tmp_path, rc, stock_like_forth.CONF + 'kernel="nonsense"\n')
    outcome = guest.run(b"", current, Options(batch=True, kernel="kernel.old"))
    assert names(outcome) == ["/boot/kernel.old/kernel", "/boot/first.img"]
    outcome = guest.run(b"", current, Options(batch=True, kernel="/boot/kernel.old/kernel"))
    assert names(outcome)[0] == "/boot/kernel.old/kernel"
    with pytest.raises(LoaderError, match="there is no /boot/nowhere"):
        guest.run(b"", current, Options(batch=True, kernel="nowhere"))


def test_commands_before_the_boot(tmp_path: Path) -> None:
    commands = ("set a.b=1", "load -t md_image /boot/first.img", ': w s" forth" s" from.forth" setenv ; w')
    outcome = Guest(tmp_path, conf="").run(b"", options=Options(batch=True, commands=commands))
    assert outcome.environment["a.b"] == "1" and outcome.environment["from.forth"] == "forth"
    assert names(outcome) == ["/boot/kernel/kernel", "/boot/first.img"]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("nosuchword", "nosuchword not found"),
        ("drop", "Error: stack underflow"),
        ("show nope", "variable 'nope' not found"),
        ("load", "no filename specified"),
    ],
)
def test_a_command_that_fails_says_why(tmp_path: Path, command: str, why: str) -> None:
    with pytest.raises(LoaderError, match=f"--loader-command '{command}' failed: {why}"):
        Guest(tmp_path, conf="").run(options=Options(batch=True, commands=(command,)))


def test_batch_when_the_scripts_fail(tmp_path: Path) -> None:
    guest = Guest(tmp_path, files={"boot/loader.rc": "set a=1\nnosuchword\n"})
    with pytest.raises(LoaderError, match="the guest's boot script failed: nosuchword not found"):
        guest.run(options=Options(batch=True))


def test_batch_when_there_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="there is no /boot/nonsense"):
        Guest(tmp_path, conf='kernel="nonsense"\n').run(options=Options(batch=True))


def test_batch_without_scripts_boots_the_kernel(tmp_path: Path) -> None:
    guest = Guest(tmp_path, files={"boot/loader.rc": ""})
    assert names(guest.run(options=Options(batch=True))) == ["/boot/kernel/kernel"]


def test_batch_with_a_password_nobody_can_type(tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="wait for a key"):
        Guest(tmp_path, "generic.rc", 'password="x"\n').run(options=Options(batch=True))


def test_batch_does_not_wait_for_a_key_for_ever(tmp_path: Path) -> None:
    files = {"boot/loader.rc": ": wait begin key? until ; wait\n"}
    with pytest.raises(LoaderError, match="wait for a key"):
        Guest(tmp_path, files=files).run(options=Options(batch=True))
