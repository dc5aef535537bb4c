"""Scripts in the style of FreeBSD's own, of both generations, run by both loaders (tools/stock_like.py)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import stock_like
from bhyveload.errors import LoaderError
from bhyveload.host.directory import open_host_directory
from bhyveload.image.raw import open_raw
from bhyveload.loader.state import Options
from support import harness
from support.images import make_ufs, standard_disk
from support.probes import without_twiddles
from support.zfs_pools import disk

GENERATIONS = ("old", "new")
ESC, ENTER, BACKSPACE = b"\x1b", b"\r", b"\x7f"
QUIT = b"quit\n"


_numbers = itertools.count()


class Guest:
    """A disk with stock-like scripts; each run may write to it."""

    def __init__(
        self,
        folder: Path,
        generation: str,
        conf: str = "",
        files: Mapping[str, str | bytes] | None = None,
        defaults: str = "",
    ) -> None:
        folder = folder / str(next(_numbers))
        self.generation = generation
        tree = stock_like.write_tree(
            folder / "tree", generation, conf=conf, files=files, defaults=stock_like.DEFAULTS + defaults, size=0
        )
        self.disk = standard_disk(folder / "disk", make_ufs(tree, folder / "fs", 4 << 20))

    def run(
        self,
        keys: bytes = b"",
        current: bool = True,
        options: Options | None = None,
        environment: tuple[bytes, ...] = (),
        memory: int = 128 << 20,
    ) -> harness.Outcome:
        return harness.run(
            [open_raw(str(self.disk))], keys, current=current, options=options, environment=environment, memory=memory
        )


def screen(outcome: harness.Outcome) -> str:
    """What is on the screen in the end, as a terminal of 80 x 50 shows it; twiddles are seen as little as there."""
    rows = [[" "] * 80 for _ in range(50)]
    x = y = 0
    text = without_twiddles(outcome.console).decode("latin-1")
    for part in re.finditer(r"\x1b\[(\d*);?(\d*)H|\x1b\[J|\x1b\[[\d;]*m|\x1bc|.", text, re.S):
        word = part[0]
        if word in ("\x1b[J", "\x1bc"):
            rows = [[" "] * 80 for _ in range(50)]
        elif word.endswith("H") and word[0] == "\x1b":
            y, x = max(int(part[1] or 1), 1) - 1, max(int(part[2] or 1), 1) - 1
        elif word == "\n":
            y += 1
        elif word == "\r":
            x = 0
        elif word[0] != "\x1b" and x < 80 and y < 50:
            rows[y][x] = word
            x += 1
    return "\n".join("".join(row).rstrip() for row in rows)


def lines(outcome: harness.Outcome) -> list[str]:
    return without_twiddles(outcome.console).decode("latin-1").split("\r\n")


@pytest.fixture(params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=(True, False), ids=("current", "13.2"))
def current(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_the_menu_boots_with_enter(tmp_path: Path, generation: str, current: bool) -> None:
    outcome = Guest(tmp_path, generation).run(ENTER, current)
    assert outcome.end == "exec"
    shown = screen(outcome)
    for entry in ("1. Boot Multi user [Enter]", "2. Boot Single user", "3. Escape to loader prompt", "4. Reboot",
                  "5. Cons: Serial", "Options:", "6. Kernel: default/kernel (1 of 1)", "7. Boot Options"):  # fmt: skip
        assert entry in shown
    assert "|  1. Boot Multi user [Enter]             |" in shown and "+-----------------Welcome" in shown
    assert "Boot Environments" not in shown
    assert outcome.report["files"][0]["name"] == "/boot/kernel/kernel"
    assert outcome.environment["kernel_path"] == "/boot/kernel"
    assert outcome.environment["module_path"] == "/boot/kernel;/boot/modules;/boot/firmware"
    assert outcome.environment["site"] == "yes"
    assert "boot_single" not in outcome.environment
    assert "loader_conf_files" not in outcome.environment


def test_the_order_of_configuration_files(tmp_path: Path, generation: str) -> None:
    outcome = Guest(tmp_path, generation, files={"boot/loader.conf.local": 'last="1"\n'}).run(ENTER)
    assert [line for line in lines(outcome) if line.startswith("Loading /")] == [
        "Loading /boot/defaults/loader.conf",
        "Loading /boot/device.hints",
        "Loading /boot/loader.conf",
        "Loading /boot/loader.conf.d/site.conf",
        "Loading /boot/loader.conf.local",
    ]
    assert outcome.environment["last"] == "1"


def test_lines_of_loader_conf(tmp_path: Path, generation: str, current: bool) -> None:
    conf = (
        'a="one"\nb=2\n  c = "three"   # why\n#d="no"\n\te="${a} $b ${nope}."\nf="back\\\\slash \\$x"\n'
        'exec="echo from exec"\nbad line here\ng="$"\nexec="nosuch"\n'
    )
    outcome = Guest(tmp_path, generation, conf).run(ENTER, current)
    wanted = {"a": "one", "b": "2", "c": "three", "e": "one 2 .", "f": "back\\slash $x"}
    assert {name: outcome.environment.get(name) for name in wanted} == wanted
    assert "d" not in outcome.environment and "g" not in outcome.environment
    text = "\n".join(lines(outcome))
    assert "\nfrom exec\n" in text
    assert "Malformed line (8):\n\t'bad line here'\n" in text
    assert "Failed to parse variable 'g': Unescaped $ at end of line\n" in text
    assert "Failed to exec 'nosuch'\n" in text
    assert "Failed to parse config: '/boot/loader.conf'\n" in text


def test_escape_leads_to_the_prompt(tmp_path: Path, generation: str, current: bool) -> None:
    outcome = Guest(tmp_path, generation).run(ESC + b"echo hello ${site}\nset x=1\nshow x\nlsmod\nboot -v\n", current)
    assert outcome.end == "exec"
    said = lines(outcome)
    at = said.index(next(line for line in said if line.endswith("Exiting menu!")))
    assert said[at + 1 : at + 5] == ["", "", "Type '?' for a list of commands, 'help' for more detailed help.",
                                     "OK echo hello ${site}"]  # fmt: skip
    assert said[at + 5 : at + 10] == ["hello yes", "OK set x=1", "OK show x", "1", "OK lsmod"]
    assert outcome.report["howto"] & 0x800
    assert outcome.environment["autoboot_delay"] == "NO"


def test_single_user_from_the_menu(tmp_path: Path, generation: str) -> None:
    outcome = Guest(tmp_path, generation).run(b"s")
    assert outcome.environment["boot_single"] == "YES"
    assert outcome.report["howto"] & 2


def test_boot_options_are_toggled(tmp_path: Path, generation: str, current: bool) -> None:
    outcome = Guest(tmp_path, generation).run(b"osvvm" + BACKSPACE + ENTER, current)
    assert outcome.end == "exec"
    assert outcome.environment["boot_single"] == "YES"
    assert "boot_verbose" not in outcome.environment
    assert outcome.environment["kern.smp.disabled"] == "1"
    assert "2. Boot Multi user" in screen(outcome)
    console = outcome.console.decode("latin-1")
    assert "Single user:" in console and "Load System Defaults" in console
    # ACPI counts as found where the loader knows no early look at it (14 and later)
    assert ("ACPI       :" in console) == (generation == "new")
    assert outcome.environment.get("hint.acpi.0.disabled") == ("0" if generation == "new" else None)


def test_defaults_undo_toggles(tmp_path: Path, generation: str) -> None:
    outcome = Guest(tmp_path, generation).run(b"osvmd" + BACKSPACE + ENTER)
    assert not {"boot_single", "boot_verbose", "kern.smp.disabled"} & set(outcome.environment)


def test_kernels_go_round(tmp_path: Path, generation: str, current: bool) -> None:
    guest = Guest(tmp_path, generation, 'kernels="kernel kernel.old missing"\n')
    outcome = guest.run(b"k" + ENTER, current)
    assert "Kernel: kernel.old (2 of 3)" in screen(outcome)
    assert outcome.report["files"][0]["name"] == "/boot/kernel.old/kernel"
    assert outcome.environment["kernel_path"] == "/boot/kernel.old"
    outcome = guest.run(b"kkk" + ENTER, current)
    assert outcome.report["files"][0]["name"] == "/boot/kernel/kernel"


def test_a_missing_kernel_is_said(tmp_path: Path, generation: str) -> None:
    guest = Guest(tmp_path, generation, 'kernel="missing"\nmodule_path=""\n')
    outcome = guest.run(ENTER + QUIT)
    assert outcome.end == "exit"
    assert "Failed to load kernel 'missing'" in lines(outcome)


def test_kernels_are_found(tmp_path: Path, generation: str) -> None:
    files: dict[str, str | bytes] = {
        "boot/third/kernel": stock_like.tiny_kernel(),
        "boot/fourth/other": "",
        "boot/file": "",
    }
    outcome = Guest(tmp_path, generation, 'kernels_autodetect="YES"\n', files).run(b"kk" + ENTER)
    assert "(3 of 3)" in screen(outcome)
    assert outcome.report["files"][0]["name"] in ("/boot/third/kernel", "/boot/kernel.old/kernel")


def test_modules_of_loader_conf(tmp_path: Path, generation: str, current: bool) -> None:
    outcome = Guest(tmp_path, generation, stock_like.MODULES).run(ENTER, current)
    assert outcome.end == "exec"
    assert [(file["name"], file["type"]) for file in outcome.report["files"][1:]] == [("/boot/first.img", "md_image")]
    said = lines(outcome)
    order = [said.index(line) for line in ("before one", "/boot/first.img size=0x1f4", "after one")]
    assert order == sorted(order)
    assert "gone is gone" in said
    assert "don't know how to load module '/boot/second.img'" in said
    assert (outcome.environment.get("one_type") == "md_image") == (generation == "new")


def test_commands_about_modules(tmp_path: Path, generation: str) -> None:
    keys = (
        ESC + b"set LINES=100\nenable-module late\ntoggle-module one\ntoggle-module one\nshow-module-options\n"
        b"disable-module bad\ndisable-device uart1\ndisable-device\nread-conf /boot/more.conf\nshow more\nboot\n"
    )
    outcome = Guest(tmp_path, generation, stock_like.MODULES, {"boot/more.conf": 'more="read"\n'}).run(keys)
    said = lines(outcome)
    assert "late_load=YES" in said and "one_load=YES" in said
    assert "usage error: disable-device device" in said
    assert outcome.environment["hint.uart.1.disabled"] == "1"
    assert outcome.environment["more"] == "read"
    assert "don't know how to load module '/boot/second.img'" not in said


def test_reload_conf_restores_what_the_files_changed(tmp_path: Path, generation: str) -> None:
    keys = ESC + b"set b=mine\nset vanish=1\nreload-conf\nshow a\nshow b\nboot\n"
    outcome = Guest(tmp_path, generation, 'a="1"\nb="2"\n').run(keys)
    assert outcome.environment["a"] == "1"
    assert outcome.environment["b"] == "2"
    assert outcome.environment["vanish"] == "1"


def test_boot_with_another_kernel_from_the_prompt(tmp_path: Path, generation: str, current: bool) -> None:
    outcome = Guest(tmp_path, generation).run(ESC + b"boot kernel.old -sv\n", current)
    assert outcome.report["files"][0]["name"] == "/boot/kernel.old/kernel"
    assert outcome.report["howto"] & 0x802 == 0x802


def test_nextboot_is_used_once(tmp_path: Path, generation: str, current: bool) -> None:
    text = 'nextboot_enable="YES"\nkernel="kernel.old"\nonce="1"\n'
    guest = Guest(tmp_path, generation, files={"boot/nextboot.conf": text})
    outcome = guest.run(ENTER, current)
    assert outcome.report["files"][0]["name"] == "/boot/kernel.old/kernel"
    assert outcome.environment["once"] == "1"
    assert outcome.environment["nextboot_enable"] == "NO"
    outcome = guest.run(ENTER, current)
    assert outcome.report["files"][0]["name"] == "/boot/kernel/kernel"
    assert "once" not in outcome.environment
    outcome = guest.run(ESC + b"more /boot/nextboot.conf\n" + QUIT, current)
    assert 'nextboot_enable="NO" ' in lines(outcome)


def test_the_countdown_runs_out(tmp_path: Path, generation: str, current: bool) -> None:
    outcome = Guest(tmp_path, generation, 'autoboot_delay="0"\n').run(b"", current)
    assert outcome.end == "exec"
    assert "Autoboot in 0 seconds. [Space] to pause" in screen(outcome)


def test_the_countdown_can_be_hidden_and_given_another_command(tmp_path: Path) -> None:
    conf = 'autoboot_delay="0"\nloader_autoboot_show="NO"\nmenu_timeout_command="boot kernel.old"\n'
    outcome = Guest(tmp_path, "new", conf).run()
    assert "Autoboot in" not in outcome.console.decode("latin-1")
    assert outcome.report["files"][0]["name"] == "/boot/kernel.old/kernel"


def test_no_menu_at_all(tmp_path: Path, generation: str, current: bool) -> None:
    guest = Guest(tmp_path, generation, 'beastie_disable="YES"\nautoboot_delay="0"\n')
    outcome = guest.run(b"", current)
    assert outcome.end == "exec"
    assert "Boot Multi user" not in outcome.console.decode("latin-1")
    assert "Hit [Enter] to boot immediately, or any other key for command prompt." in lines(outcome)


def test_minus_one_boots_without_a_menu(tmp_path: Path, generation: str) -> None:
    outcome = Guest(tmp_path, generation, 'autoboot_delay="-1"\n').run()
    assert outcome.end == "exec"
    assert "Boot Multi user" not in outcome.console.decode("latin-1")


def test_passwords(tmp_path: Path, generation: str, current: bool) -> None:
    conf = 'bootlock_password="let me in"\ngeom_eli_passphrase_prompt="YES"\n'
    keys = b"wrong\rlet me inn" + BACKSPACE + b"\rgeli\r" + ENTER
    outcome = Guest(tmp_path, generation, conf).run(keys, current)
    assert outcome.end == "exec"
    console = outcome.console.decode("latin-1")
    assert console.count("Bootlock password:") == 2
    assert console.count("loader: incorrect password") == 1
    assert outcome.environment["kern.geom.eli.passphrase"] == "geli"


def test_a_loader_password_guards_the_prompt_but_not_the_boot(tmp_path: Path, generation: str) -> None:
    guest = Guest(tmp_path, generation, 'password="secret"\nautoboot_delay="0"\n')
    assert guest.run().end == "exec"
    outcome = guest.run(b"xsecret\r" + ESC + QUIT)
    assert outcome.end == "exit"
    assert "Loader password:" in outcome.console.decode("latin-1")


def test_local_scripts_and_looks(tmp_path: Path, generation: str) -> None:
    files = {
        "boot/lua/local.lua": "local drawer = require('drawer')\n"
        "drawer.addBrand('mine', {graphic = {'MY OWN BRAND'}})\nloader.setenv('local_ran', '1')\n",
        "boot/lua/gfx-mine.lua": "return {graphic = {'a logo', 'of mine'}}\n",
    }
    conf = 'loader_brand="mine"\nloader_logo="mine"\nloader_menu_title="Odd title"\nloader_menu_title_align="left"\n'
    outcome = Guest(tmp_path, generation, conf, files).run(ENTER)
    shown = screen(outcome)
    assert "MY OWN BRAND" in shown and "a logo" in shown and "of mine" in shown and "+Odd title---" in shown
    assert outcome.environment["local_ran"] == "1"


@pytest.mark.parametrize(
    ("frame", "corner"), [("single", b"\xda"), ("double", b"\xc9"), ("unicode", b"\xe2\x94\x8c"), ("none", b"")]
)
def test_frames_are_sent_byte_for_byte(tmp_path: Path, frame: str, corner: bytes) -> None:
    outcome = Guest(tmp_path, "new", f'loader_menu_frame="{frame}"\n').run(ENTER)
    assert (b"\x1b[9;2H" + corner in outcome.console) == (frame != "none")


def test_colours(tmp_path: Path, generation: str) -> None:
    guest = Guest(tmp_path, generation)
    assert b"\x1b[1m" not in guest.run(ENTER).console  # a serial console has none
    outcome = guest.run(b"c" + ENTER, environment=(b"boot_serial",))
    assert b"\x1b[1m" not in outcome.console
    lua = 'loader.unsetenv("boot_serial")\n'
    outcome = Guest(tmp_path, generation, files={"boot/loader": "", "boot/lua/generation.lua": lua + (
        Path(stock_like.SCRIPTS) / generation / "generation.lua").read_text()}).run(ENTER)  # fmt: skip
    assert b"\x1bc" in outcome.console
    assert b"\x1b[1mB\x1b[22moot Multi user" in outcome.console


def test_lua_configuration_files(tmp_path: Path) -> None:
    files = {
        "boot/settings.lua": "greeting = 'hello from ' .. kernel\nnumber = 7 // 2\nflag = true\nlist = {}\n",
        "boot/broken.lua": "this is not Lua\n",
        "boot/failing.lua": "before = 1\nafter = before + list\n",
    }
    conf = 'loader_conf_files="/boot/settings.lua /boot/broken.lua /boot/failing.lua"\n'
    outcome = Guest(tmp_path, "new", conf, files).run(ENTER)
    assert outcome.environment["greeting"] == "hello from kernel"
    assert outcome.environment["number"] == "3"
    assert outcome.environment["flag"] == "true"
    assert "list" not in outcome.environment
    said = "\n".join(lines(outcome))
    assert "Failed to run config: [string \"/boot/broken.lua\"]:1: syntax error near 'is'" in said
    assert "[string \"/boot/failing.lua\"]:2: attempt to perform arithmetic on a nil value (global 'list')" in said


@pytest.mark.parametrize("missing", ["core", "config", "menu", "drawer"])
def test_a_missing_module_leads_to_the_prompt(tmp_path: Path, missing: str) -> None:
    guest = Guest(tmp_path, "new", files={f"boot/lua/{missing}.lua": b""})
    outcome = guest.run(b"\n" + QUIT)
    assert outcome.end == "exit"
    assert re.search(r"ERROR: /boot/lua/\w+\.lua:\d+: .*\.$", "\n".join(lines(outcome)), re.M)


def test_reboot_from_the_menu(tmp_path: Path, generation: str) -> None:
    outcome = Guest(tmp_path, generation).run(b"r")
    assert (outcome.end, outcome.code) == ("exit", 2)


def test_the_menu_again(tmp_path: Path, generation: str) -> None:
    outcome = Guest(tmp_path, generation).run(ESC + b"menu\n" + b"s")
    assert outcome.end == "exec"
    assert outcome.environment["boot_single"] == "YES"


def test_boot_environments(tmp_path: Path) -> None:
    """The scripts come from the -h folder: the pool has none of its own, but three boot environments."""
    start = "package.path = 'host0:/boot/lua/?.lua'\ndofile('host0:/boot/lua/loader.lua')\n"
    tree = stock_like.write_tree(tmp_path, "new", files={"boot/lua/start.lua": start}, size=0)

    def run(keys: bytes) -> harness.Outcome:
        return harness.run(
            [disk("bootenv.0")],
            keys,
            environment=(b"loader_lua=host0:/boot/lua/start.lua",),
            host_directory=open_host_directory(str(tree)),
        )

    outcome = run(b"eaa" + BACKSPACE + ESC + QUIT)
    text = outcome.console.decode("latin-1")
    assert "Boot Environments" in text
    for number, name in ((1, "default"), (2, "be-three"), (3, "be-two")):
        assert f"Active: zfs:benv/ROOT/{name} ({number} of 3)" in text
    assert "bootfs: zfs:benv/ROOT/default" in text
    assert outcome.environment["vfs.root.mountfrom"] == "zfs:benv/ROOT/be-two"
    assert outcome.environment["currdev"] == "zfs:benv/ROOT/be-two:"
    outcome = run(b"eab" + BACKSPACE + ESC + b"ls /\n" + QUIT)
    assert outcome.environment["currdev"] == "zfs:benv/ROOT/default:"


# --batch


def test_batch_skips_menu_and_countdown_but_nothing_else(tmp_path: Path, generation: str, current: bool) -> None:
    conf = stock_like.MODULES + 'autoboot_delay="7"\nbeastie_disable="NO"\nkern.hz="100"\n'
    text = 'nextboot_enable="YES"\nkernel="kernel.old"\n'
    guest = Guest(tmp_path, generation, conf, {"boot/nextboot.conf": text})
    outcome = guest.run(b"\x1b\x1b\x1bzzz", current, Options(batch=True))
    assert outcome.end == "exec"
    assert outcome.report["files"][0]["name"] == "/boot/kernel.old/kernel"
    assert outcome.report["files"][1]["name"] == "/boot/first.img"
    console = outcome.console.decode("latin-1")
    assert "Boot Multi user" not in console and "seconds" not in console and "Hit [Enter]" not in console
    # the guest gets the environment of its own configuration
    assert outcome.environment["autoboot_delay"] == "7"
    assert outcome.environment["beastie_disable"] == "NO"
    assert outcome.environment["kern.hz"] == "100"
    assert guest.run(b"", current, Options(batch=True)).report["files"][0]["name"] == "/boot/kernel/kernel"


def test_batch_says_why_though_the_scripts_go_on_to_other_names(tmp_path: Path, generation: str, current: bool) -> None:
    """The kernel that is there and does not fit, not the last of the names that were tried."""
    guest = Guest(tmp_path, generation)
    with pytest.raises(LoaderError, match=r"kernel /boot/kernel/kernel needs \d+ MiB, the VM has 2 MiB: use -m 32M"):
        guest.run(b"", current, Options(batch=True), memory=2 << 20)


def test_batch_does_not_invent_variables(tmp_path: Path, generation: str) -> None:
    guest = Guest(tmp_path, generation)
    plain = guest.run(ENTER).environment
    assert guest.run(b"", options=Options(batch=True)).environment == plain


def test_batch_with_a_password_nobody_can_type(tmp_path: Path, generation: str) -> None:
    guest = Guest(tmp_path, generation, 'bootlock_password="x"\n')
    with pytest.raises(LoaderError, match="wait for a key"):
        guest.run(b"x\r", options=Options(batch=True))
    # password only guards the prompt
    assert Guest(tmp_path, generation, 'password="x"\n').run(options=Options(batch=True)).end == "exec"


@pytest.mark.parametrize(
    ("options", "howto", "variable"),
    [
        (Options(batch=True, single_user=True), 2, "boot_single"),
        (Options(batch=True, verbose=True), 0x800, "boot_verbose"),
    ],
    ids=("single-user", "verbose-boot"),
)
def test_chosen_flags(tmp_path: Path, generation: str, options: Options, howto: int, variable: str) -> None:
    outcome = Guest(tmp_path, generation).run(options=options)
    assert outcome.report["howto"] & howto
    assert outcome.environment[variable] == "YES"


def test_chosen_kernel(tmp_path: Path, generation: str, current: bool) -> None:
    guest = Guest(tmp_path, generation, stock_like.MODULES + 'kernel="nonsense"\n')
    outcome = guest.run(b"", current, Options(batch=True, kernel="kernel.old"))
    assert outcome.report["files"][0]["name"] == "/boot/kernel.old/kernel"
    assert outcome.report["files"][1]["name"] == "/boot/first.img"
    with pytest.raises(LoaderError, match="there is no /boot/nowhere"):
        guest.run(b"", current, Options(batch=True, kernel="nowhere"))


def test_commands_before_the_boot(tmp_path: Path, generation: str, current: bool) -> None:
    commands = ("set a.b=1", "load -t md_image /boot/first.img", "loader.setenv('from_lua', '1')")
    guest = Guest(tmp_path, generation)
    outcome = guest.run(b"", current, Options(batch=True, commands=commands))
    assert outcome.environment["a.b"] == outcome.environment["from_lua"] == "1"
    assert [file["name"] for file in outcome.report["files"]] == ["/boot/kernel/kernel", "/boot/first.img"]
    # with the menu they run when it boots, and only once
    outcome = guest.run(ENTER, current, Options(commands=("set a.b=1", "echo ran")))
    assert outcome.environment["a.b"] == "1"
    assert lines(outcome).count("ran") == 1


def test_a_failing_command_ends_a_batch_run(tmp_path: Path, generation: str) -> None:
    with pytest.raises(LoaderError, match="--loader-command 'load /nope' failed: can't find '/nope'"):
        Guest(tmp_path, generation).run(options=Options(batch=True, commands=("load /nope",)))
