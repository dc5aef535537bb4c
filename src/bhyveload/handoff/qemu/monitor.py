"""What QEMU's human monitor is asked, and whether anybody hears the power button (processors.py: who waits for good).

The words are those of a process that a guest may have taken over: whatever they are, no answer does harm.
"""

from __future__ import annotations

_PM1_CONTROL = 0x604  # where SeaBIOS puts PIIX4's
_SCI_EN, _NO_PORT = 1, 0xFFFF
_PORT = rf"port.\[{_PM1_CONTROL:#06x}\] = 0x([0-9a-f]{{1,8}})"

POWER_BUTTON = f"i /h {_PM1_CONTROL:#x}"
REGISTERS = "info registers -a"


def button_heard(answer: object) -> bool | None:
    """Whether the guest has turned ACPI on, and so will hear the power button; None: POWER_BUTTON was not asked."""
    import re  # QEMU is asked when the guest runs already

    port = re.match(_PORT, answer) if isinstance(answer, str) else None
    if port is None:
        return None
    value = int(port[1], 16)
    return bool(value & _SCI_EN) and value != _NO_PORT
