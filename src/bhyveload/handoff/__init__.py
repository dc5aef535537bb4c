"""From a loaded VM to something that runs it.

backend.py is the seam.  pvh/ makes the start-up stub and whole-VM images, qemu/ runs them; kvm.py runs tiny kernels
without QEMU, to see whether KVM runs kernels at all.
"""
