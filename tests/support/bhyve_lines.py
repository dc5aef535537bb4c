"""bhyve(8) command lines as people and programs write them, with where they stand.

Sources: FreeBSD's handbook, bhyve(8), bhyveload(8); libvirt's tests/bhyvexml2argvdata, vm-bhyve's lib/vm-run, iohyve's.
Words only; what the lines name (disks, taps) is made by who runs them.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple


class Line(NamedTuple):
    source: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)[1:]


LINES = {
    "handbook-linux-cd": Line(
        "handbook, virtualization",
        "bhyve -A -H -P -s 0:0,hostbridge -s 1:0,lpc -s 2:0,virtio-net,tap0 -s 3:0,virtio-blk,./linux.img"
        " -s 4:0,ahci-cd,./somelinux.iso -l com1,stdio -c 4 -m 1024M linuxguest",
    ),
    "handbook-linux-zvol": Line(
        "handbook, virtualization",
        "bhyve -A -H -P -s 0:0,hostbridge -s 1:0,lpc -s 2:0,virtio-net,tap0 -s3:0,virtio-blk,/dev/zvol/zroot/linuxdisk0"
        " -l com1,stdio -c 4 -m 1024M linuxguest",
    ),
    "handbook-uefi": Line(
        "handbook, virtualization",
        "bhyve -AHP -s 0:0,hostbridge -s 31:0,lpc -s 2:0,virtio-net,tap1 -s 3:0,virtio-blk,./disk.img"
        " -s 4:0,ahci-cd,./install.iso -c 4 -m 1024M -s 29,fbuf,tcp=0.0.0.0:5900,w=800,h=600,wait -s 30,xhci,tablet"
        " -l bootrom,/usr/local/share/uefi-firmware/BHYVE_UEFI.fd guest",
    ),
    "handbook-windows": Line(
        "handbook, virtualization",
        "bhyve -c 2 -s 0,hostbridge -s 3,nvme,windows2016.img -s 4,ahci-cd,install.iso -s 10,virtio-net,tap0 -s 31,lpc"
        " -s 30,xhci,tablet -l bootrom,/usr/local/share/uefi-firmware/BHYVE_UEFI.fd -m 8G -H -w windows2016",
    ),
    "manual-1": Line(
        "bhyve(8)",
        "bhyve -c 2 -s 0,hostbridge -s 1,lpc -s 2,virtio-blk,/my/image -l com1,stdio -H -P -m 1G vm1",
    ),
    "manual-3-taps": Line(
        "bhyve(8)",
        "bhyve -s 0,hostbridge -s 1,lpc -s 2:0,virtio-net,tap0 -s 2:1,virtio-net,tap1"
        " -s 2:2,virtio-net,tap2,mac=00:be:fa:76:45:00 -s 3,virtio-blk,/my/image -l com1,stdio -H -P -m 24G bigvm",
    ),
    "manual-8-disks": Line(
        "bhyve(8); its slot 1 is taken twice and it has no name",
        "bhyve -c 4 -s 0,amd_hostbridge -s 1,lpc -s 1:0,ahci,hd:/images/disk.1,hd:/images/disk.2,hd:/images/disk.3,"
        "hd:/images/disk.4,hd:/images/disk.5,hd:/images/disk.6,hd:/images/disk.7,hd:/images/disk.8,"
        "cd:/images/install.iso -s 3,virtio-net,tap0 -l com1,/dev/nmdm0A -H -P -m 8G",
    ),
    "manual-dump": Line(
        "bhyve(8)",
        "/usr/sbin/bhyve -c 2 -m 256 -H -P -s 0:0,hostbridge -s 1:0,virtio-net,tap0 -s 2:0,ahci-hd,./vm0.img -s 31,lpc"
        " -l com1,stdio -o config.dump=1 vm0",
    ),
    "libvirt-base": Line(
        "libvirt bhyvexml2argv-base (old)",
        "/usr/sbin/bhyve -c 1 -m 214 -H -P -s 0:0,hostbridge -s 1:0,virtio-net,faketapdev,mac=52:54:00:00:00:00"
        " -s 2:0,ahci-hd,/tmp/freebsd.img bhyve",
    ),
    "libvirt-serial": Line(
        "libvirt bhyvexml2argv-serial",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 1:0,lpc -s 2:0,ahci,hd:/tmp/freebsd.img"
        " -s 3:0,virtio-net,faketapdev,mac=52:54:00:4f:f3:5b -l com1,/dev/nmdm0A bhyve",
    ),
    "libvirt-acpiapic": Line(
        "libvirt bhyvexml2argv-acpiapic",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd.img"
        " -s 3:0,virtio-net,faketapdev,mac=52:54:00:4f:f3:5b bhyve",
    ),
    "libvirt-disk-virtio": Line(
        "libvirt bhyvexml2argv-disk-virtio",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 1:0,virtio-net,faketapdev,mac=52:54:00:b9:94:02"
        " -s 2:0,virtio-blk,/tmp/freebsd.img bhyve",
    ),
    "libvirt-disk-cdrom": Line(
        "libvirt bhyvexml2argv-disk-cdrom",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,cd:/tmp/cdrom.iso"
        " -s 3:0,virtio-net,faketapdev,mac=52:54:00:b9:94:02 bhyve",
    ),
    "libvirt-cputopology": Line(
        "libvirt bhyvexml2argv-cputopology",
        "bhyve -c cpus=2,sockets=1,cores=2,threads=1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd.img"
        " -s 3:0,virtio-net,faketapdev,mac=52:54:00:b9:94:02 bhyve",
    ),
    "libvirt-vcpupin": Line(
        "libvirt bhyvexml2argv-vcpupin",
        "bhyve -c 2 -p 0:1 -p 0:3 -p 0:4 -p 1:0 -p 1:4 -m 214 -u -H -P -s 0:0,hostbridge"
        " -s 2:0,ahci,hd:/tmp/freebsd.img -s 3:0,virtio-net,faketapdev,mac=52:54:00:b9:94:02 bhyve",
    ),
    "libvirt-slirp": Line(
        "libvirt bhyvexml2argv-slirp",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd.img"
        " -s 3:0,e1000,slirp,mac=52:54:00:00:00:00,open bhyve",
    ),
    "libvirt-smbios": Line(
        "libvirt bhyvexml2argv-sysinfo-smbios",
        "bhyve -c 1 -m 214 -u -H -P -o bios.vendor=LENOVO -o 'board.version=0B98401 Pro' -o chassis.sku=Type3Sku1"
        " -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd.img bhyve",
    ),
    "libvirt-nvme": Line(
        "libvirt bhyvexml2argv-nvme-explicit",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,nvme,/tmp/freebsd.img,maxq=2,qsz=256,ser=BHYVE-NVME0-01234"
        " bhyve",
    ),
    "libvirt-rotation-rate": Line(
        "libvirt bhyvexml2argv-sata-rotation-rate",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd1.img,nmrr=7200,ser=BHYVE-SER01-0001,"
        "hd:/tmp/freebsd2.img,nmrr=5400,ser=BHYVE-SER02-0004,hd:/tmp/freebsd3.img,nmrr=1,ser=BHYVE-SER03-1234"
        " -s 3:0,virtio-net,faketapdev,mac=52:54:00:b9:94:02 bhyve",
    ),
    "libvirt-more-than-32": Line(
        "libvirt bhyvexml2argv-disks-more-than-32 (its disk paths shortened)",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,"
        + ",".join(f"hd:/tmp/d{number if number else 1}.img" for number in range(31))
        + " -s 4:0,ahci,"
        + ",".join(f"hd:/tmp/d{number}.img" for number in range(31, 36))
        + " -s 3:0,virtio-net,faketapdev,mac=52:54:00:b9:94:02 bhyve",
    ),
    "libvirt-4-consoles": Line(
        "libvirt bhyvexml2argv-4-consoles",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 1:0,lpc -s 2:0,ahci,hd:/tmp/freebsd.img"
        " -s 3:0,virtio-net,faketapdev,mac=52:54:00:b1:42:eb"
        " -l com1,/dev/nmdmdf3be7e7-a104-11e3-aeb0-50e5492bd3dcA -l com2,tcp=127.0.0.1:12345 -l com3,tcp=0.0.0.0:54321"
        " -l com4,/dev/nmdm0A bhyve",
    ),
    "libvirt-9p": Line(
        "libvirt bhyvexml2argv-fs-9p-readonly",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd.img"
        " -s 3:0,virtio-net,faketapdev,mac=52:54:00:00:00:00 -s 4:0,virtio-9p,shared_dir=/shared/dir,ro bhyve",
    ),
    "libvirt-console": Line(
        "libvirt bhyvexml2argv-virtio-console",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge"
        " -s 2:0,virtio-console,org.qemu.guest_agent.1=/var/run/libvirt/bhyve/bhyve.agent-1"
        " -s 3:0,virtio-console,org.qemu.guest_agent.2=/var/run/libvirt/bhyve/bhyve.agent-2 bhyve",
    ),
    "libvirt-slot-1": Line(
        "libvirt bhyvexml2argv-non-isa-controller-on-slot-1",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -l bootrom,/path/to/test.fd,fwcfg=qemu -s 2:0,lpc"
        " -s 3:0,ahci,hd:/tmp/freebsd.img -s 1:0,virtio-net,faketapdev,mac=52:54:00:b1:42:eb bhyve",
    ),
    "libvirt-passthru": Line(
        "libvirt bhyvexml2argv-passthru",
        "bhyve -c 1 -m 214 -u -H -P -S -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd.img -s 7:0,passthru,3/0/0 bhyve",
    ),
    "libvirt-scsi": Line(
        "libvirt bhyvexml2argv-virtio-scsi",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,virtio-scsi,/dev/cam/ctl bhyve",
    ),
    "libvirt-sound": Line(
        "libvirt bhyvexml2argv-sound",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd.img"
        " -s 4:0,hda,play=/dev/dsp0,rec=/dev/dsp0 bhyve",
    ),
    "libvirt-vnc-password": Line(
        "libvirt bhyvexml2argv-vnc-password",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd.img"
        " -s 4:0,fbuf,tcp=127.0.0.1:5904,password=s3cr3t bhyve",
    ),
    "libvirt-numa": Line(
        "libvirt bhyvexml2argv-numa",
        "bhyve -c 8 -m 214 -u -H -P -n id=0,size=107,cpus=0-3 -n id=1,size=107,cpus=4-7 -s 0:0,hostbridge"
        " -s 2:0,ahci,hd:/tmp/freebsd.img bhyve",
    ),
    "libvirt-commandline": Line(
        "libvirt bhyvexml2argv-commandline (a test of what is passed through)",
        "bhyve -c 1 -m 214 -u -H -P -s 0:0,hostbridge -s 2:0,ahci,hd:/tmp/freebsd.img ARGUMENT1 ARGUMENT2 bhyve",
    ),
    "vm-bhyve": Line(
        "vm-bhyve lib/vm-run",
        "bhyve -s 0,hostbridge -s 31,lpc -s 0:4:0,virtio-blk,/vm/g/disk0.img"
        " -s 0:5:0,virtio-net,tap0,mac=58:9c:fc:01:02:03 -c 2 -m 2G -AHPw -U 5d8ab6ee-1111-4222-8333-0123456789ab -u"
        " -l com1,/dev/nmdm-g.1A g",
    ),
    "iohyve": Line(
        "iohyve lib/ioh-cmd",
        "/usr/sbin/bhyve -c 1 -A -H -P -m 256M -s 0,hostbridge -s 1,lpc -s 2,ahci-hd,/dev/zvol/tank/iohyve/g/disk0"
        " -s 3,virtio-net,tap0 -lcom1,/dev/nmdm0A ioh-g",
    ),
}

LOADS = {
    "manual-iso": Line("bhyveload(8)", "bhyveload -m 1G -d /freebsd/release.iso freebsd-vm"),
    "manual-folder": Line("bhyveload(8)", "bhyveload -m 256MB -h /usr/images/test -c /dev/nmdm1B test-vm"),
    "vmrun": Line(
        "share/examples/bhyve/vmrun.sh",
        "/usr/sbin/bhyveload -c stdio -m 512M -d ./diskdev -d ./second -e autoboot_delay=3 guest",
    ),
    "libvirt": Line(
        "libvirt's documentation of its bhyve driver", "/usr/sbin/bhyveload -m 214 -d /home/user/vm1.img vm1"
    ),
    "vm-bhyve": Line(
        "vm-bhyve lib/vm-run", "bhyveload -c /dev/nmdm-g.1A -m 256M -e autoboot_delay=3 -d /vm/g/disk0.img g"
    ),
    "iohyve": Line("iohyve lib/ioh-cmd", "bhyveload -m 256M -d /dev/zvol/tank/iohyve/g/disk0 ioh-g"),
    "ci": Line("FreeBSD's CI", "/usr/sbin/bhyveload -c stdio -m 4096m -d disk-test.img testvm-main-amd64-12345"),
    "cbsd": Line("CBSD's notes", "bhyveload -c stdio -m 600M -d /dev/zvol/zroot/nicvm -S nicvm"),
    "without-console": Line("a manager in Python", "bhyveload -c /dev/null -m 512 -d /vm/disk.img guest"),
}
