"""From a loaded VM to something that runs it.

pvh.py makes the start-up stub and whole-VM images, qemu.py QEMU's command line, run.py runs it; kvm.py runs tiny test
kernels without QEMU; bhyve.py writes FreeBSD's own command line.
"""
