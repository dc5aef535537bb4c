"""Named VMs: life cycle, locking, damage, full file systems."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bhyveload.errors import (
    VmBusy,
    VmError,
    VmMemoryError,
    VmNameError,
    VmNotFound,
    VmNotLoaded,
    VmStateError,
    VmStorageError,
)
from bhyveload.vm import store
from bhyveload.vm.directory import list_machines
from bhyveload.vm.memory import VM_HIGHMEM_BASE
from bhyveload.vm.registers import Registers, setup_freebsd_registers
from bhyveload.vm.store import VirtualMachine, destroy_machine
from support.places import ROOT

MB, GB = 1 << 20, 1 << 30


def loaded_vcpu() -> Registers:
    vcpu = Registers()
    setup_freebsd_registers(vcpu, rip=0xFFFFFFFF80200120, cr3=0x2000, gdtbase=0x5000, rsp=0x1000)
    return vcpu


def load(name: str, mark: bytes, size: int = 4 * MB) -> None:
    vm = VirtualMachine.create(name, size)
    assert vm.memory is not None
    vm.memory.write(0x1000, mark)
    vm.commit([loaded_vcpu()], {"kernel": mark.decode()})
    vm.close()


def mark_of(name: str, length: int = 3) -> tuple[bytes, object]:
    """What guest memory and state.json say was loaded."""
    with VirtualMachine.open(name, require_loaded=True) as vm:
        assert vm.memory is not None and vm.state is not None
        loaded = vm.state["loaded"]
        assert isinstance(loaded, dict)
        return vm.memory.read(0x1000, length), loaded["kernel"]


def files(directory: Path, name: str) -> list[str]:
    return sorted(entry.name for entry in (directory / name).iterdir())


def test_life_of_a_vm(vmm_directory: Path) -> None:
    vm = VirtualMachine.create("guest", 256 * MB)
    assert vm.memory is not None and vm.memory_size == 256 * MB
    assert (vm.memory.low, vm.memory.high, vm.memory.fresh) == (256 * MB, 0, True)
    vm.memory.write(0x200000, b"kernel")
    vm.commit([loaded_vcpu()], {"kernel": "/boot/kernel/kernel"}, {"disks": ["a.img"], "schema": 99})
    assert vm.state is not None and vm.memory.read(0x200000, 6) == b"kernel"
    vm.close()
    vm.close()
    assert files(vmm_directory, "guest") == ["lock", "memory", "state.json"]
    assert list_machines() == ["guest"]

    with VirtualMachine.open("guest", require_loaded=True) as vm:
        assert vm.memory is not None and vm.memory.read(0x200000, 6) == b"kernel"
        assert vm.memory_size == 256 * MB and not vm.memory.fresh
        vcpu = vm.registers()
        assert vcpu.as_dict() == loaded_vcpu().as_dict()
        assert os.path.getsize(vm.memory_path) == 256 * MB

    destroy_machine("guest")
    assert list_machines() == []
    with pytest.raises(VmNotFound, match="no VM 'guest'"):
        VirtualMachine.open("guest")


def test_state_json_is_what_the_document_says(vmm_directory: Path) -> None:
    load("guest", b"one")
    state = json.loads((vmm_directory / "guest" / "state.json").read_bytes())
    assert list(state) == ["schema", "name", "memory", "vcpus", "loaded"]
    assert (state["schema"], state["name"], state["memory"]) == (1, "guest", {"low": 4 * MB, "high": 0})
    (vcpu,) = state["vcpus"]
    assert vcpu["registers"]["rip"] == 0xFFFFFFFF80200120
    assert vcpu["descriptors"]["cs"] == {"base": 0, "limit": 0, "access": 0x209B}
    assert vcpu["descriptors"]["gdtr"] == {"base": 0x5000, "limit": 23, "access": 0}
    assert vcpu["selectors"]["cs"] == 8


def test_the_documents_example_is_a_state(vmm_directory: Path) -> None:
    document = (ROOT / "docs" / "state-json.md").read_text()
    example = document.split("```json\n")[1].split("```")[0]
    load("guest", b"one", 256 * MB)
    (vmm_directory / "guest" / "state.json").write_text(example)
    with VirtualMachine.open("guest", require_loaded=True) as vm:
        assert vm.state is not None and set(vm.state) == {"schema", "name", "memory", "vcpus", "loaded"}
        assert vm.registers().as_dict() == loaded_vcpu().as_dict()


def test_memory_is_sparse_and_high_memory_lies_behind_low(vmm_directory: Path) -> None:
    vm = VirtualMachine.create("big", 5 * GB)
    assert vm.memory is not None and (vm.memory.low, vm.memory.high) == (3 * GB, 2 * GB)
    vm.memory.write(VM_HIGHMEM_BASE + 0x1000, b"high")
    vm.commit([loaded_vcpu()], {})
    vm.close()
    memory = vmm_directory / "big" / "memory"
    assert memory.stat().st_size == 5 * GB
    assert memory.stat().st_blocks * 512 < MB
    with memory.open("rb") as file:
        file.seek(3 * GB + 0x1000)
        assert file.read(4) == b"high"


def test_the_old_vm_stays_until_commit() -> None:
    load("guest", b"one")
    vm = VirtualMachine.create("guest", 8 * MB)
    assert vm.memory is not None and vm.memory.read(0x1000, 3) == bytes(3)
    vm.memory.write(0x1000, b"two")
    vm.abandon()
    assert mark_of("guest") == (b"one", "one")
    load("guest", b"two", 8 * MB)
    assert mark_of("guest") == (b"two", "two")


def test_abandoned_vm_that_never_was_disappears(vmm_directory: Path) -> None:
    VirtualMachine.create("guest", MB).abandon()
    assert list(vmm_directory.iterdir()) == []


def test_killed_load_leaves_no_memory_behind(vmm_directory: Path) -> None:
    vm = VirtualMachine.create("guest", MB)
    assert files(vmm_directory, "guest") == ["lock"]
    os.close(vm._lock)  # what the kernel does when a process is killed
    vm._lock = -1
    with pytest.raises(VmNotLoaded):
        VirtualMachine.open("guest", require_loaded=True)
    destroy_machine("guest")
    vm.close()


def test_without_unnamed_files(vmm_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "unnamed_file", lambda folder: -1)
    vm = VirtualMachine.create("guest", MB)
    assert files(vmm_directory, "guest") == ["lock", "memory.new"]
    vm.close()  # leftovers of a crash
    load("guest", b"one")
    assert files(vmm_directory, "guest") == ["lock", "memory", "state.json"]
    assert mark_of("guest") == (b"one", "one")


def test_restart_gives_fresh_memory_behind_the_same_descriptor() -> None:
    vm = VirtualMachine.create("guest", MB)
    assert vm.memory is not None
    vm.memory.write(0, b"first run")
    fd = vm.memory.fd
    memory = vm.restart()
    assert memory is vm.memory and memory.fd == fd and memory.fresh
    assert memory.read(0, 9) == bytes(9)
    assert os.fstat(fd).st_size == MB
    vm.commit([loaded_vcpu()], {})
    with pytest.raises(VmError, match="is not being loaded"):
        vm.restart()
    with pytest.raises(VmError, match="is not being loaded"):
        vm.commit([loaded_vcpu()], {})
    vm.close()


def test_one_user_at_a_time() -> None:
    vm = VirtualMachine.create("guest", MB)
    for attempt in (lambda: VirtualMachine.create("guest", MB), lambda: destroy_machine("guest")):
        with pytest.raises(VmBusy, match=rf"VM 'guest' is in use by process {os.getpid()} \(") as busy:
            attempt()
        assert busy.value.hint.startswith("close()")
    VirtualMachine.open("guest", lock=False).close()
    vm.close()
    VirtualMachine.create("guest", MB).abandon()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "vm_create: Invalid argument"),
        (".", "vm_create: Invalid argument"),
        ("..", "vm_create: Invalid argument"),
        ("a/b", "vm_create: Invalid argument"),
        ("a\0b", "vm_create: Invalid argument"),
        ("a\x1b[2Jb", "vm_create: Invalid argument"),
        ("a\x9bb", "vm_create: Invalid argument"),
        ("a\udcffb", "vm_create: Invalid argument"),
        ("x" * 230, "vm_create: File name too long"),
        ("é" * 115, "vm_create: File name too long"),
    ],
)
def test_names_that_cannot_be(name: str, message: str) -> None:
    for action in (
        lambda: VirtualMachine.create(name, MB),
        lambda: VirtualMachine.open(name),
        lambda: destroy_machine(name),
    ):
        with pytest.raises(VmNameError) as caught:
            action()
        assert caught.value.message == message


@pytest.mark.parametrize("name", ["x" * 229, "-d", "with space", "é" * 114, "a.b", "...", "lock"])
def test_names_that_can_be(name: str) -> None:
    load(name, b"one")
    assert mark_of(name) == (b"one", "one")


@pytest.mark.parametrize("size", [0, 1, 4095, -4096, (1 << 63), (1 << 64) - 1, 15 << 60])
def test_memory_sizes_that_cannot_be(size: int, vmm_directory: Path) -> None:
    with pytest.raises(VmMemoryError, match=r"^vm_setup_memory: "):
        VirtualMachine.create("guest", size)
    assert not vmm_directory.exists() or not list(vmm_directory.iterdir())


def test_a_directory_in_which_nothing_can_be_made() -> None:
    """/proc is root's, and refuses mkdir with ENOENT: that is no VM that others destroy at the same time."""
    with pytest.raises(
        VmStorageError, match=r"^/proc/guest: (cannot be made there: )?[A-Z]|belongs to user 0"
    ) as caught:
        VirtualMachine.create("guest", MB, "/proc")
    assert caught.value.exit_status == 74
    assert "BHYVE_VMM_DIR" in caught.value.hint


def test_a_file_in_the_place_of_a_vm(vmm_directory: Path) -> None:
    vmm_directory.mkdir()
    (vmm_directory / "guest").touch()
    with pytest.raises(VmStorageError, match="guest: not used as a VM: it is no directory"):
        VirtualMachine.create("guest", MB)
    with pytest.raises(VmStorageError, match="guest: not used as a VM: it is no directory"):
        VirtualMachine.open("guest")


def test_links_in_a_vm_are_not_followed(tmp_path: Path, vmm_directory: Path) -> None:
    load("guest", b"one")
    secret = tmp_path / "secret"
    secret.write_bytes(b"keep")
    for name in ("memory.new", "state.json.new"):
        (vmm_directory / "guest" / name).symlink_to(secret)
    load("guest", b"two")
    assert secret.read_bytes() == b"keep"
    for name in ("memory", "state.json"):
        (vmm_directory / "guest" / name).unlink()
        (vmm_directory / "guest" / name).symlink_to(secret)
        with pytest.raises(VmStorageError):
            VirtualMachine.open("guest")
        load("guest", b"two")


def _damaged(change: str) -> bytes:
    state = {
        "schema": 1,
        "name": "guest",
        "memory": {"low": 4 * MB, "high": 0},
        "vcpus": [loaded_vcpu().as_dict()],
        "loaded": {},
    }
    exec(change, {"state": state, "vcpu": state["vcpus"][0]})  # type: ignore[index]
    return json.dumps(state).encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100000, "not JSON"),
        (b'{"schema":1,"x":' + b"9" * 10000 + b"}", "not JSON"),
        (b"[]", "state"),
        (b"{}", "schema None"),
        (_damaged("state['schema'] = 2"), "schema 2"),
        (_damaged("state['schema'] = True"), "schema True"),
        (_damaged("del state['name']"), "name"),
        (_damaged("del state['loaded']"), "loaded"),
        (_damaged("state['memory'] = 5"), "memory"),
        (_damaged("state['memory']['low'] = -1"), r"memory\.low"),
        (_damaged("state['memory']['low'] = 1.0"), r"memory\.low"),
        (_damaged("state['memory']['low'] = 1 << 32"), "memory"),
        (_damaged("state['memory']['low'] = 0"), "memory"),
        (_damaged("state['memory']['high'] = 4096"), "memory"),
        (_damaged("state['memory']['low'] = 8192"), "4194304 bytes, state.json says 8192"),
        (_damaged("state['vcpus'] = []"), "vcpus"),
        (_damaged("state['vcpus'] = [1]"), r"vcpus\[0\]"),
        (_damaged("vcpu['registers']['rip'] = 1 << 64"), r"vcpus\[0\]\.registers\.rip"),
        (_damaged("vcpu['registers']['rip'] = True"), r"vcpus\[0\]\.registers\.rip"),
        (_damaged("vcpu['registers']['xyz'] = 1"), r"vcpus\[0\]\.registers\.'xyz'"),
        (_damaged("vcpu['selectors']['cs'] = 65536"), r"vcpus\[0\]\.selectors\.cs"),
        (_damaged("del vcpu['selectors']"), r"vcpus\[0\]\.selectors"),
        (_damaged("del vcpu['descriptors']['cs']['limit']"), r"vcpus\[0\]\.descriptors\.cs\.limit"),
        (_damaged("vcpu['descriptors']['cs'] = []"), r"vcpus\[0\]\.descriptors\.cs"),
    ],
)
def test_damaged_state(text: bytes, reason: str, vmm_directory: Path) -> None:
    load("guest", b"one")
    (vmm_directory / "guest" / "state.json").write_bytes(text)
    with pytest.raises(VmStateError, match=reason):
        VirtualMachine.open("guest")
    load("guest", b"two")  # not in the way of a new load
    assert mark_of("guest") == (b"two", "two")
    (vmm_directory / "guest" / "state.json").write_bytes(text)
    destroy_machine("guest")


def test_a_report_that_could_not_be_read_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    load("guest", b"one")
    monkeypatch.setattr(store, "_MAX_STATE", 4096)
    vm = VirtualMachine.create("guest", MB)
    with pytest.raises(VmStateError, match=r"report makes a state\.json of \d+ bytes"):
        vm.commit([loaded_vcpu()], {"name": "\0" * 1000})
    vm.abandon()
    assert mark_of("guest") == (b"one", "one")


def test_missing_memory_file(vmm_directory: Path) -> None:
    load("guest", b"one")
    (vmm_directory / "guest" / "memory").unlink()
    with pytest.raises(VmStateError, match="memory is missing"):
        VirtualMachine.open("guest")


def test_not_loaded(vmm_directory: Path) -> None:
    load("guest", b"one")
    (vmm_directory / "guest" / "state.json").unlink()
    with VirtualMachine.open("guest") as vm:
        assert vm.state is None and vm.memory is None
        with pytest.raises(VmNotLoaded):
            vm.registers()
    with pytest.raises(VmNotLoaded):
        VirtualMachine.open("guest", require_loaded=True)
    VirtualMachine.open("guest").close()  # the failure above released the lock


def test_strangers_in_a_vm_are_not_removed(vmm_directory: Path) -> None:
    load("guest", b"one")
    (vmm_directory / "guest" / "notes").touch()
    with pytest.raises(VmStorageError, match="not empty"):
        destroy_machine("guest")
    assert (vmm_directory / "guest" / "notes").exists()


def test_full_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        pytest.skip("mounting a small tmpfs needs root")
    small = tmp_path / "small"
    small.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(small)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        monkeypatch.setenv("BHYVE_VMM_DIR", str(small))
        load("old", b"one")
        for name in ("old", "new"):
            vm = VirtualMachine.create(name, 64 * MB)
            assert vm.memory is not None
            with pytest.raises(VmStorageError, match="No space left on device") as caught:
                vm.memory.write(0x100000, bytes(2 * MB))
            assert "BHYVE_VMM_DIR" in caught.value.hint
            vm.abandon()
        vm = VirtualMachine.create("old", 64 * MB)
        with pytest.raises(VmStorageError, match="No space left on device"):
            vm.commit([loaded_vcpu()], {"long": "x" * 2 * MB})
        vm.abandon()
        assert list_machines() == ["old"]
        assert mark_of("old") == (b"one", "one")
        assert files(small, "old") == ["lock", "memory", "state.json"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_file_size_limit(tmp_path: Path) -> None:
    """What root's tmpfs test shows, for everybody: the limit makes the state file's write fail."""
    script = textwrap.dedent("""
        import resource, sys
        from bhyveload.errors import VmStorageError
        from bhyveload.vm.registers import Registers
        from bhyveload.vm.store import VirtualMachine
        vm = VirtualMachine.create("guest", 1 << 20)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        try:
            vm.commit([Registers()], {"long": "x" * (2 << 20)})
        except VmStorageError as error:
            vm.abandon()
            print(error)
    """)
    load("guest", b"one")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("guest: File too large")
    assert mark_of("guest") == (b"one", "one")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 20


@pytest.mark.parametrize(("mode", "reason"), [(0o770, "group [0-9]+ may write to it"), (0o702, "everybody may write")])
def test_a_folder_that_others_may_write_is_refused(mode: int, reason: str, vmm_directory: Path) -> None:
    """They could put a kernel of theirs into the guest, or a link in the place of its memory."""
    VirtualMachine.create("guest", MB).close()
    for path in (vmm_directory / "guest", vmm_directory):
        path.chmod(mode)
        with pytest.raises(VmStorageError, match=f"{path}: not used as .*: {reason}"):
            VirtualMachine.create("guest", MB)
        for lock in (True, False):
            with pytest.raises(VmStorageError, match=f"{path}: not used as .*: {reason}"):
                VirtualMachine.open("guest", lock=lock)
        path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_owner_is_refused(vmm_directory: Path) -> None:
    VirtualMachine.create("guest", MB).close()
    os.chown(vmm_directory / "guest", 12345, -1)
    with pytest.raises(VmStorageError, match="guest: not used as a VM: it belongs to user 12345"):
        VirtualMachine.open("guest", lock=False)


@pytest.mark.parametrize("name", ["state.json", "memory"])
def test_a_pipe_in_the_place_of_a_file_does_not_hang(name: str, vmm_directory: Path) -> None:
    with VirtualMachine.create("guest", MB) as vm:
        vm.commit([Registers()], {})
    (vmm_directory / "guest" / name).unlink()
    os.mkfifo(vmm_directory / "guest" / name, 0o600)
    for lock in (True, False):
        with pytest.raises(VmStorageError, match=f"guest: {name} is no regular file"):
            VirtualMachine.open("guest", lock=lock)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("registers", "cs", 1),
        ("registers", "rip", 1 << 64),
        ("registers", "rip", -1),
        ("registers", "rip", True),
        ("registers", "nonsense", 1),
        ("selectors", "cs", 1 << 16),
        ("selectors", "rip", 1),
        ("selectors", "gdtr", 1),
        ("descriptors", "cs", (0, 1 << 32, 0)),
        ("descriptors", "rip", (0, 0, 0)),
    ],
)
def test_what_could_not_be_opened_again_is_not_committed(
    group: str, name: str, value: object, vmm_directory: Path
) -> None:
    with VirtualMachine.create("guest", MB) as vm:
        vm.commit([Registers()], {"old": 1})
    vcpu = Registers()
    getattr(vcpu, group)[name] = value
    with VirtualMachine.create("guest", MB) as vm, pytest.raises(VmStateError, match=rf"{group}\.'?{name}"):
        vm.commit([vcpu], {})
    with VirtualMachine.open("guest", require_loaded=True) as vm:
        assert vm.state is not None and vm.state["loaded"] == {"old": 1}


@pytest.mark.parametrize("size", [0, MB - 1, MB + 1, 3 * MB])
def test_memory_of_another_size_is_not_committed(size: int, vmm_directory: Path) -> None:
    """The child that loads the guest has the descriptor, and may be in the guest's hands."""
    with VirtualMachine.create("guest", MB) as vm, pytest.raises(VmStateError, match=f"memory: {size} bytes"):
        os.ftruncate(vm.loading().fd, size)
        vm.commit([Registers()], {})
    assert list_machines() == []


def test_a_look_opens_nothing_for_writing(vmm_directory: Path) -> None:
    with VirtualMachine.create("guest", MB) as vm:
        vm.commit([Registers()], {})
    with VirtualMachine.open("guest", lock=False) as vm:
        assert vm.memory is not None
        assert vm.memory.read(0, 4) == bytes(4)
        with pytest.raises(VmStorageError, match="Bad file descriptor"):
            vm.memory.write(0, b"x")
