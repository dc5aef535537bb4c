"""bhyve(8)'s guests as arguments for QEMU: each device where the command line put it, with bhyve's identities.

bhyve/devices.py's values --> slots.py (where) + blocks.py, consoles.py, devices.py (what) --> arguments
"""
