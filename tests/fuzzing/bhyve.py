"""Targets: bhyve(8)'s command line, into the tree of variables and the devices that it describes.

Options that open files of the host (-k) are left out; devices that name some are described all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from bhyveload.bhyve.command_line import CommandLine
from bhyveload.bhyve.guest import guest_of, memory_of, pins_of, topology_of
from bhyveload.bhyve.usage import SHORT_OPTIONS
from bhyveload.cli.getopt import Getopt
from fuzzing import Run, Target

_LEFT_OUT = ("h", "k")


def _bhyve() -> Run:
    def run(data: bytes) -> None:
        words = data.decode("utf-8", "surrogateescape").split("\0")
        for compat in SHORT_OPTIONS:
            told: list[str] = []
            line = CommandLine(compat, told.append)
            try:
                for option, argument in Getopt(words, SHORT_OPTIONS[compat], {}):
                    if option not in _LEFT_OUT:
                        line.option(option, argument or "")
                line.finish()
                dumped = list(line.config.dump())
                assert all("=" in text for text in dumped)
                topology = topology_of(line.config)
                pins_of(line.config, topology.cpus, compat)
                memory_of(line.config, compat)
                guest_of(line.config, "vm", compat, "host")
            finally:
                assert all(isinstance(text, str) for text in told)

    return run


def _bhyve_seeds() -> Iterator[bytes]:
    yield from (
        b"-AHP\0-c\x002\0-m\x00512M\0-s\x000,hostbridge\0-s\x001,lpc\0-s\x002,virtio-net,tap0,mac=58:9c:fc:0:0:1\0-s\x003,virtio-blk,/tmp/disk,nocache,ro"
        b"\0-l\0com1,stdio\0vm",
        b"-c\0cpus=4,sockets=2,cores=2,threads=1\0-p\x000:1\0-p\x001:2\0-S\0-C\0-w\0-u\0-U\0c5a1e2b0-0000-0000-0000-000000000001",
        b"-o\0pci.0.3.0.device=nvme\0-o\0pci.0.3.0.path=/x\0-o\0name=%(uuid)\0-o\0uuid=%(name)%%(x\0-o\0a.b.c=%(a.b.d)",
        b"-s\x003:0,ahci,hd:/x,ser=1,nmrr=1,cd:/y\0-s\x004:1,ahci-cd,/z,ro\0-s\x005,nvme,ram=16,maxq=4,qsz=8,ioslots=2,sectsz=512,ser=A",
        b"-s\0006,fbuf,tcp=[::1]:5900,w=800,h=600,password=x,wait,vga=io\0-s\0007,xhci,tablet\0-s\0008,virtio-console,port=/x\0-G\0w127.0.0.1:1234",
        b"-o\0lpc.bootrom=%(lpc.bootvars)\0-o\0lpc.bootvars=%%(\0-o\0vcpu.0.cpuset=0x1-3,5\0-s\x002,xhci\0-o\0pci.0.2.0.slot.0x1.device=tablet",
        b"-s\x009,virtio-9p,share=/x,ro\0-s\x0010,passthru,1/2/3,rom=/x\0-s\x0011,virtio-scsi,/dev/cam/ctl1.1,iid=3\0-s\x0012,hda,play=/dev/dsp,rec=/dev/dsp",
        b"-n\0id=0,size=1G,cpus=0-3,domain_policy=first-touch\0-f\0name=opt/x,string=y\0-K\0us\0-l\0tpm,passthru,/dev/tpm0,version=2.0\0-l\0bootrom,/x,/y,fwcfg=qemu",
        b"-s\x0030,virtio-rnd\0-s\x0031,virtio-input,/dev/input/event0\0-s\x0029,uart,/dev/nmdm0A\0-s\x000:28:7,e1000,slirp,hostfwd=tcp:127.0.0.1:22-:22\0-l\0com2,tcp=:1",
    )


TARGETS = [Target("bhyve-options", _bhyve, _bhyve_seeds, rounds=800, size=1024)]
