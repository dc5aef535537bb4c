"""The guest's network as the user asks for it: ``user[,host][,hostfwd=RULE]...``, ``tap,INTERFACE`` or ``none``.

With ``user`` alone the guest sees nobody but the gateway; with ``host``, or where something is forwarded to it, it
reaches what the user reaches, the host's own loopback services included.
"""

from __future__ import annotations

from bhyveload.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NONE, USER, TAP = "none", "user", "tap"
MODELS = {
    "virtio": "virtio-net-pci",
    "virtio-net": "virtio-net-pci",
    "e1000": "e1000-82545em",
    "rtl8139": "rtl8139",
    "vmxnet3": "vmxnet3",
}
IFNAMSIZ = 16
_SSH = 22


class Network:
    """``kind`` is NONE, USER or TAP; ``host``: with USER, whether the guest reaches beyond the gateway; ``forwards`` as
    (protocol, host address, host port, guest address, guest port); ``mac`` "" for QEMU's; ``model``: a value of MODELS.
    """

    __slots__ = ("forwards", "host", "interface", "kind", "mac", "model")

    def __init__(
        self,
        kind: str = NONE,
        *,
        host: bool = False,
        forwards: Sequence[tuple[str, str, int, str, int]] = (),
        interface: str = "",
        mac: str = "",
        model: str = MODELS["virtio"],
    ) -> None:
        self.kind = kind
        self.host = host
        self.forwards = tuple(forwards)
        self.interface = interface
        self.mac = mac
        self.model = model

    def with_ssh(self, port: str) -> Network:
        """With ``port`` of the host's loopback leading to the guest's sshd.  Raises UsageError."""
        if self.kind == TAP:
            raise UsageError("--ssh needs the user network, not tap", "the guest has an address of its own there")
        forward = ("tcp", "127.0.0.1", _port(port, f"--ssh {port}"), "", _SSH)
        return Network(USER, host=self.host, forwards=(*self.forwards, forward), mac=self.mac, model=self.model)


def parse_network(text: str) -> Network:
    """What --net's ``text`` asks for.  Raises UsageError, TypeError: it is no text."""
    if not isinstance(text, str):
        raise TypeError(f"net: must be a text, as 'none' or 'user', not {text!r}")
    kind, *words = text.split(",")
    if kind not in (NONE, USER, TAP):
        raise UsageError(f"--net {text}: must be one of none, user, tap", "as in user,hostfwd=tcp:127.0.0.1:2222-:22")
    host, mac, model, interface = False, "", MODELS["virtio"], ""
    forwards = []
    for word in words:
        name, equals, value = word.partition("=")
        if name == "mac" and equals and kind != NONE:
            mac = _mac(value, text)
        elif name == "model" and value in MODELS and kind != NONE:
            model = MODELS[value]
        elif name == "host" and not equals and kind == USER:
            host = True
        elif name == "hostfwd" and equals and kind == USER:
            forwards.append(_forward(value, text))
        elif name == "ifname" and equals and kind == TAP and not interface:
            interface = _interface(value, text)
        elif not equals and kind == TAP and not interface:
            interface = _interface(word, text)
        else:
            raise UsageError(f"--net {text}: '{word}' is not understood", f"models: {', '.join(MODELS)}")
    if kind == TAP and not interface:
        raise UsageError(f"--net {text}: names no interface", "as in tap,tap0")
    return Network(kind, host=host, forwards=forwards, interface=interface, mac=mac, model=model)


def _interface(name: str, text: str) -> str:
    if not 0 < len(name.encode()) < IFNAMSIZ or "/" in name or not name.isprintable() or " " in name:
        raise UsageError(f"--net {text}: '{name}' cannot be an interface's name")
    return name


def _mac(value: str, text: str) -> str:
    parts = value.split(":")
    digits = "0123456789abcdefABCDEF"
    good = len(parts) == 6 and all(0 < len(part) <= 2 and all(digit in digits for digit in part) for part in parts)
    numbers = [int(part, 16) for part in parts] if good else []
    if not good or numbers[0] & 1 or not any(numbers):
        raise UsageError(f"--net {text}: '{value}' is no address for a network card", "as in mac=00:a0:98:01:02:03")
    return ":".join(f"{number:02x}" for number in numbers)


def _forward(rule: str, text: str) -> tuple[str, str, int, str, int]:
    """``tcp:127.0.0.1:2222-10.0.2.15:22``: addresses may be left away; the host's is then its loopback's."""
    front, dash, back = rule.partition("-")
    protocol, _, host = front.partition(":")
    host_address, _, host_port = host.rpartition(":")
    guest_address, _, guest_port = back.rpartition(":")
    if not dash or protocol not in ("tcp", "udp", ""):
        raise UsageError(f"--net {text}: '{rule}' is not understood", "as in hostfwd=tcp:127.0.0.1:2222-:22")
    for address in (host_address, guest_address):
        if address and not _is_ipv4(address):
            raise UsageError(f"--net {text}: '{address}' is no IPv4 address")
    return (
        protocol or "tcp",
        host_address or "127.0.0.1",
        _port(host_port, f"--net {text}"),
        guest_address,
        _port(guest_port, f"--net {text}"),
    )


def _is_ipv4(address: str) -> bool:
    parts = address.split(".")
    return len(parts) == 4 and all(
        part.isascii() and part.isdigit() and len(part) <= 3 and int(part) < 256 for part in parts
    )


def _port(text: str, where: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 0 < number < 1 << 16:
        raise UsageError(f"{where}: '{text}' is no port number")
    return number
