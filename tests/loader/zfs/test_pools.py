"""The loader on ZFS beyond what was recorded: stored variables, boot environments by name, unusable pools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bhyveload.errors import LoaderError
from bhyveload.fs.zfs.poolset import PoolSet
from bhyveload.image.raw import RawImage
from bhyveload.loader.state import Options
from support import harness
from support.golden import Record
from support.images import MIB, make_ufs
from support.zfs_pools import disk, pread, vdev_partition, writable_disk

NO_AUTOBOOT = (b"autoboot_delay=NO", b"LINES=2000", b"twiddle_divisor=1000000")


def session(disks: list[RawImage], *lines: str, current: bool = True, options: Options | None = None) -> list[str]:
    """What the loader answers to each line typed, from the first prompt on."""
    keys = "".join(line + "\n" for line in (*lines, "quit")).encode()
    outcome = harness.run(disks, keys, environment=NO_AUTOBOOT, current=current, options=options)
    text = outcome.console.decode("latin-1").replace("\r\n", "\n")
    answers = text.split("OK ")[1:-1]
    assert len(answers) == len(lines), text
    return [answer.partition("\n")[2].removesuffix("\n") for answer in answers]


def stored(image: RawImage) -> dict[str, object]:
    """The variables in the labels, each of the four read on its own."""
    found = []
    for damaged in range(4):
        pools = PoolSet()
        pools.probe(vdev_partition(image), "disk0p2")
        pool = pools.pools[0]
        leaf = pool.root.children[0].leaf
        assert leaf is not None
        original = leaf.read_label

        def read_label(label: int, offset: int, length: int, only: int = damaged, read=original):  # type: ignore[no-untyped-def]
            return read(label, offset, length) if label == only else None

        pool.root.children[0].leaf = type("One", (), {"read_label": staticmethod(read_label)})()
        pool.bootenv()
        try:
            found.append({pair.name.decode(): pair.value for pair in pool.nvstore()})
        except Exception:
            found.append({})
    assert all(one == found[0] for one in found)
    return found[0]


def test_nvstore_command() -> None:
    """Formats are those of nvpair_print; types have the names of libnvpair."""
    image = writable_disk("bootenv.0")
    answers = session(
        [image],
        "nvstore -l",
        "nvstore benv -l",
        "nvstore benv -g sample_var",
        "nvstore benv -g nothing",
        "nvstore benv -t DATA_TYPE_UINT32 number 0x1f",
        "nvstore benv -t DATA_TYPE_INT8 small -3",
        "nvstore benv text hello",
        "nvstore benv -l",
        "show number",
        "nvstore benv -t int8 wrong 1",
        "nvstore benv -t DATA_TYPE_UINT64 number seven",
        "nvstore benv -d nextboot_enable",
        "show nextboot_enable",
        "nvstore benv -l",
    )
    first = 'DATA_TYPE_STRING [1] nextboot_enable = "NO"'
    second = 'DATA_TYPE_STRING [1] sample_var = "from nvstore"'
    more = [
        "DATA_TYPE_UINT32 [1] number = 0x1f",
        "DATA_TYPE_INT8 [1] small = 0xfffffffd",
        'DATA_TYPE_STRING [1] text = "hello"',
    ]
    assert answers[0] == "List of configured nvstores:\n\tbenv"
    assert answers[1].split("\n") == [first, second]
    assert answers[2] == "sample_var = from nvstore"
    assert answers[3:7] == [""] * 4
    assert answers[7].split("\n") == [first, second, *more]
    assert answers[8] == "31"
    assert answers[9] == answers[10] == "error: invalid argument\nno error message"
    assert answers[11] == ""
    assert answers[12] == "variable 'nextboot_enable' not found"
    assert answers[13].split("\n") == [second, *more]
    assert stored(image) == {"sample_var": b"from nvstore", "number": 31, "small": -3, "text": b"hello"}


def test_deleting_what_is_not_stored() -> None:
    """zfs_nvstore_unset_impl discards the loader's variable of that name in any case, but only where anything is
    stored: without a list of variables it returns before."""
    answers = session(
        [writable_disk("bootenv.0")],
        "set mine=1",
        "nvstore benv -d mine",
        "show mine",
        "nvstore benv -d nowhere",
        "nvstore benv -d nextboot_enable",
        "nvstore benv -d sample_var",
        "nvstore benv -l",
        "set mine=2",
        "nvstore benv -d mine",
        "show mine",
    )
    gone = "variable 'mine' not found"
    assert answers == ["", "", gone, "", "", "", "", "", "", "2"]


def test_variables_write_themselves_back() -> None:
    image = writable_disk("bootenv.0")
    answers = session(
        [image], "set sample_var=changed", "show sample_var", "unset nextboot_enable", "set other=1", "show other"
    )
    assert answers == ["", "changed", "", "", "1"]
    assert stored(image) == {"sample_var": b"changed"}
    assert session([image], "show sample_var", "show nextboot_enable")[0] == "changed"


def test_boot_once_is_taken_once() -> None:
    image = writable_disk("bootenv.0")
    assert session([image], "show currdev", "show zfs-bootonce") == ["zfs:benv/ROOT/be-two:"] * 2
    assert session([image], "show currdev")[0] == "zfs:benv/ROOT/default:"


def test_read_only_labels_are_said_to_be() -> None:
    """A disk that cannot be written boots all the same, once and again."""
    outcome = harness.run([disk("bootenv.0")], b"show currdev\nquit\n", environment=NO_AUTOBOOT)
    for label in range(4):
        assert b"failed to write bootenv to vda2 label %d: 5\r\n" % label in outcome.console
    assert b"\r\nzfs:benv/ROOT/be-two:\r\n" in outcome.console


@pytest.mark.parametrize("name", ["be-three", "benv/ROOT/be-three", "zfs:benv/ROOT/be-three:"])
def test_boot_environment_by_name(name: str) -> None:
    """The choice counts for this run; what is to boot once stays for the next."""
    image = writable_disk("bootenv.0")
    options = Options(boot_environment=name)
    answers = session(
        [image],
        "show currdev",
        "show loaddev",
        "show zfs_be_active",
        "set vfs.root.mountfrom=zfs:other",
        "show vfs.root.mountfrom",
        options=options,
    )
    assert answers[:3] == ["zfs:benv/ROOT/be-three:"] * 2 + ["zfs:benv/ROOT/be-three"]
    assert answers[4] == "zfs:benv/ROOT/be-three"
    assert session([image], "show currdev")[0] == "zfs:benv/ROOT/be-two:"


def test_unknown_boot_environment() -> None:
    with pytest.raises(LoaderError, match="--boot-env nope: no such boot environment") as caught:
        harness.run([disk("bootenv.0")], options=Options(boot_environment="nope"))
    assert caught.value.hint == "there are: benv/ROOT/be-three, benv/ROOT/be-two, benv/ROOT/default"


def test_boot_environment_without_a_pool(tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="there is no ZFS pool on the disks"):
        harness.run([], options=Options(boot_environment="default"))


def test_lszfs_and_reloadbe_errors() -> None:
    answers = session(
        [disk("bootenv.0")],
        "lszfs nope",
        "lszfs benv/nope",
        "lszfs",
        "reloadbe a b",
        "reloadbe nope",
        "reloadbe benv",
        "show bootenv_root[4]",
        "show bootenv_root[5]",
    )
    assert answers[0] == "device not configured"
    assert answers[1] == "no such file or directory"
    assert answers[2] == "a single dataset must be supplied"
    assert answers[3] == "wrong number of arguments"
    assert answers[4] == "device not configured"
    assert answers[5:] == ["", "zfs:benv/ROOT", "variable 'bootenv_root[5]' not found"]


def test_the_page_is_a_decimal_number() -> None:
    """zfs_bootenv: strtol(getenv("zfs_be_currpage"), NULL, 10), which is 8 of 08; there is one page, so it is the first
    again.  In base 0 the number would end before the 8."""
    answers = session([disk("bootenv.0")], "set zfs_be_currpage=08", "reloadbe benv", "show zfs_be_currpage")
    assert answers == ["", "", "1"]


def test_encrypted_dataset_is_named() -> None:
    """FreeBSD's loader says only that there is no such file."""
    answers = session(
        [disk("crypt.0")], "set currdev=zfs:cr/secret:", "show currdev", "ls /boot", "ls zfs:cr/plain:/boot"
    )
    assert answers[0] == "ZFS: the dataset cr/secret is encrypted and cannot be read"
    assert answers[1] == "zfs:cr/secret:"
    assert answers[2] == "open '/boot' failed: input/output error"
    assert " d  kernel" in answers[3]


def test_batch_says_why_an_encrypted_dataset_does_not_boot() -> None:
    options = Options(batch=True, boot_environment="secret")
    with pytest.raises(LoaderError, match="zfs:cr/secret: ZFS: the dataset cr/secret is encrypted") as caught:
        harness.run([disk("crypt.0")], options=options)
    assert "must not be encrypted" in caught.value.hint


def test_batch_says_why_a_pool_cannot_be_used() -> None:
    message = "the ZFS pool edonr cannot be used: .*org.illumos:edonr"
    with pytest.raises(LoaderError, match=message) as caught:
        harness.run([disk("edonr.0")], options=Options(batch=True))
    assert caught.value.hint.startswith("no FreeBSD loader boots from such a pool")


def test_a_pool_that_13_2_does_not_know_boots_with_the_newer_loader() -> None:
    with pytest.raises(LoaderError, match=r"com\.klarasystems:vdev_zaps_v2"):
        harness.run([disk("bootenv.0")], options=Options(batch=True), current=False)


def test_batch_names_the_disks_that_are_missing() -> None:
    message = "the ZFS pool rz2 cannot be used: .* these devices are missing: vdb2, vdd2, vde2"
    with pytest.raises(LoaderError, match=message) as caught:
        harness.run([disk("raidz2.0"), disk("raidz2.2")], options=Options(batch=True))
    assert caught.value.hint == "name all disks of rz2 with -d"


def test_batch_says_that_a_pool_of_files_does_not_boot() -> None:
    with pytest.raises(LoaderError, match=r"disk0: ZFS: can only boot from disk, .* got: file") as caught:
        harness.run([disk("two.0")], options=Options(batch=True))
    assert "bhyvedisk reads it" in caught.value.hint


def test_an_unusable_pool_does_not_hide_a_good_disk(tmp_path: Path) -> None:
    """FreeBSD's loader is left without a currdev."""
    tree = tmp_path / "tree" / "boot"
    tree.mkdir(parents=True)
    (tree / "hello").write_text("from ufs\n")
    image = make_ufs(tmp_path / "tree", tmp_path / "ufs", 8 * MIB)
    ufs = RawImage(os.open(image, os.O_RDONLY), "ufs", read_only=True)
    answers = session([disk("edonr.0"), ufs], "show currdev", "more /boot/hello")
    assert answers[0] == "disk1:"
    assert "from ufs" in answers[1]


def test_two_pools() -> None:
    """The first one found is booted; the other can be named."""
    answers = session(
        [disk("comp.0"), disk("crypt.0")], "show currdev", "lsdev", "ls zfs:cr/plain:/", "lszfs cr", "show zfs_be_root"
    )
    assert answers[0] == "zfs:comp/zstd:"
    assert answers[1].endswith("zfs devices:\n    zfs:comp\n    zfs:cr")
    assert answers[2] == "zfs:cr/plain:/\n d  boot"
    assert answers[3].split("\n")[-2:] == ["plain", "secret"]
    assert answers[4] == "comp"


def test_one_pool_dropped_another_used() -> None:
    answers = session([disk("edonr.0"), disk("crypt.0")], "show currdev", "lsdev -v")
    assert answers[0] == "zfs:cr/plain:"
    assert "pool: edonr" not in answers[1]


def bhyveload(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bhyveload.cli.bhyveload", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def on_file(image: RawImage, path: Path) -> Path:
    path.write_bytes(pread(image, 0, image.size))
    return path


def test_list_boot_environments(tmp_path: Path) -> None:
    path = on_file(disk("bootenv.0"), tmp_path / "disk")
    before = path.read_bytes()
    listed = bhyveload("--list-boot-envs", "-d", path)
    assert listed.returncode == 0, listed.stderr
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert [row[:2] for row in rows] == [
        ["BE", "Active"],
        ["benv/ROOT/be-three", "-"],
        ["benv/ROOT/be-two", "T"],
        ["benv/ROOT/default", "R"],
    ]
    found = json.loads(bhyveload("--list-boot-envs", "--json", "-d", path).stdout)
    assert [entry["boot_once"] for entry in found["pools"][0]["boot_environments"]] == [False, True, False]
    assert path.read_bytes() == before
    nothing = bhyveload("--list-boot-envs")
    assert nothing.returncode == 1
    assert "no ZFS boot environments" in nothing.stderr


def test_boot_environment_from_the_command_line(tmp_path: Path) -> None:
    path = on_file(Record("current", "zfs-single-second").disks()[0], tmp_path / "disk")
    report = bhyveload("--batch", "--dry-run", "--json", "--boot-env", "second", "-d", path)
    assert report.returncode == 0, report.stderr
    found = json.loads(report.stdout)
    assert found["currdev"] == "zfs:zlz/ROOT/second:"
    assert found["environment"]["vfs.root.mountfrom"] == "zfs:zlz/ROOT/second"
