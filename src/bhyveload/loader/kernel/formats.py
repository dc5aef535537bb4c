"""The four file formats of userboot, tried in turn (stand/userboot/userboot/conf.c, file_load in stand/common/module.c;
docs/errata.md, "Errors that come twice")."""

from __future__ import annotations

from bhyveload.boot_formats.elf_format import ELF32, ELF64, ET_EXEC, ET_REL, ElfHeader
from bhyveload.boot_formats.modinfo_format import KERNEL_TYPE, MODINFOMD_ELFHDR
from bhyveload.errors import FileSystemError, KernelError
from bhyveload.freebsd_errno import EFTYPE, EPERM, strerror
from bhyveload.loader.kernel import amd64, elf
from bhyveload.loader.kernel.metadata import build, environment_block, find_file
from bhyveload.loader.kernel.preloaded import PreloadedFile
from bhyveload.need import OnDemand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from bhyveload.boot_formats.elf_format import ElfClass
    from bhyveload.loader.kernel import i386
    from bhyveload.loader.kernel import object as object_files
    from bhyveload.loader.state import Loader
else:
    i386 = OnDemand("bhyveload.loader.kernel.i386")
    object_files = OnDemand("bhyveload.loader.kernel.object")


def _load_elf(loader: Loader, class_: ElfClass, path: str, dest: int) -> PreloadedFile:
    """elfN_loadfile: kernels and shared modules.

    Raises KernelError: EFTYPE (not for this handler), EPERM (order of loading), and as elf.load; FileSystemError when
    the file cannot be opened.
    """
    file = loader.files.open(path)
    try:
        header, page = elf.read_header(file, class_)
        kernel = find_file(loader.preloaded, None, KERNEL_TYPE)
        elf.refuse_wrong_kind(loader.console, class_, path, header, page, kernel)
        if header.e_type == ET_EXEC:
            loader.environment.set("kernelname", path)
        return elf.load(loader.host, loader.console, class_, file, header, page, path, dest)
    finally:
        file.close()


def _load_object(loader: Loader, class_: ElfClass, path: str, dest: int) -> PreloadedFile:
    """elfN_obj_loadfile: relocatable objects.  Raises as _load_elf."""
    file = loader.files.open(path)
    try:
        try:
            data = file.read(class_.ehdr.size)
        except FileSystemError as error:
            raise KernelError(EFTYPE, f"{path} cannot be read: {error.message}") from None
        if len(data) < class_.ehdr.size or not elf.acceptable(class_, data):
            raise KernelError(EFTYPE, f"{path} {elf.describe_foreign(data)}")
        header = ElfHeader(class_, data)
        if header.e_type != ET_REL:
            raise KernelError(EFTYPE, f"{path} is not an object module")
        if header.e_shnum == 0 or header.e_shoff == 0 or header.e_shentsize != class_.shdr.size:
            raise KernelError(EFTYPE, f"{path} has no section headers")
        if find_file(loader.preloaded, None, KERNEL_TYPE) is None:
            loader.print(f"{class_.name}_obj_loadfile: can't load module before kernel\n")
            raise KernelError(EPERM, f"{path} is a module: load a kernel first")
        return object_files.load(loader.host, loader.console, class_, file, header, path, dest)
    finally:
        file.close()


FILE_FORMATS = ((_load_elf, ELF32), (_load_object, ELF32), (_load_elf, ELF64), (_load_object, ELF64))
_AMD64 = 2  # whose reason is the most telling when no format takes a file


def load_file(loader: Loader, path: str, dest: int) -> tuple[int, PreloadedFile | None]:
    """file_load: (0, file) or (errno, None), with the loader's message set and our reason in loader.diagnosis.

    Begins with the format that took the last file; when that one refuses, all are tried from the first.
    """
    number = EFTYPE
    index = loader.last_file_format
    while index < len(FILE_FORMATS):
        load, class_ = FILE_FORMATS[index]
        try:
            preloaded = load(loader, class_, path, dest)
        except (KernelError, FileSystemError) as error:
            number = error.errno
            if number != EFTYPE or index == _AMD64:
                loader.diagnosis = f"{error.message}: {error.hint}" if error.hint else error.message
        else:
            preloaded.loader = loader.last_file_format = index
            loader.diagnosis = ""
            return 0, preloaded
        if loader.last_file_format == index and index != 0:
            index = loader.last_file_format = 0
            continue
        if number != EFTYPE:
            loader.fail_with(f"can't load file '{path}': {strerror(number)}")
            break
        index += 1
    return number, None


def exec_file(loader: Loader, kernel: PreloadedFile, howto: int) -> NoReturn:
    """Start ``kernel``: leaves with GuestReady.

    Raises KernelError: EFTYPE (not a kernel), ENOMEM (kernel, modules and variables do not fit into memory).
    """
    _, class_ = FILE_FORMATS[kernel.loader]
    header = kernel.find_metadata(MODINFOMD_ELFHDR)
    if kernel.type != KERNEL_TYPE or header is None:
        raise KernelError(EFTYPE, f"{kernel.name} is not a kernel")
    entry = ElfHeader(class_, header).e_entry
    environment = environment_block(loader.environment, loader.version)
    placement = build(loader.host, loader.preloaded, kernel, environment, howto, wide=class_ is ELF64)
    loader.facts["placement"] = placement
    if class_ is ELF64:
        amd64.exec_kernel(loader.host, entry, placement)
    low, _ = loader.host.getmem()
    kernelname = loader.environment.get("kernelname") or ""
    bootinfo = i386.bootinfo_block(low, loader.version, kernel, kernelname, placement)
    i386.exec_kernel(loader.host, entry, placement, howto, bootinfo)
