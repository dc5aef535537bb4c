"""bhyveload: load a FreeBSD guest into a virtual machine on Linux, without firmware and without root.

The programs in ``bhyveload.cli`` are thin users of three names: ``VirtualMachine``, ``load`` and ``run``.
"""

from __future__ import annotations

__version__ = "0.1.0"
