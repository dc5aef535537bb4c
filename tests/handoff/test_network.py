"""--net's words and what QEMU is told."""

from __future__ import annotations

import pytest

from bhyveload.errors import UsageError
from bhyveload.handoff.network import parse_network
from bhyveload.handoff.qemu.command import network_arguments
from bhyveload.handoff.qemu.files import Paths

VIRTIO = "virtio-net-pci,netdev=net0,romfile="


@pytest.mark.parametrize(
    ("text", "netdev", "device"),
    [
        ("user", "user,id=net0,restrict=on", VIRTIO),
        ("user,host", "user,id=net0,restrict=off", VIRTIO),
        ("user,hostfwd=tcp::80-:8080", "user,id=net0,restrict=off,hostfwd=tcp:127.0.0.1:80-:8080", VIRTIO),
        (
            "user,hostfwd=udp:0.0.0.0:53-10.0.2.15:53,hostfwd=:1-:2",
            "user,id=net0,restrict=off,hostfwd=udp:0.0.0.0:53-10.0.2.15:53,hostfwd=tcp:127.0.0.1:1-:2",
            VIRTIO,
        ),
        ("tap,tap0", "tap,id=net0,ifname=tap0,script=no,downscript=no", VIRTIO),
        (
            "tap,ifname=br-x,model=e1000",
            "tap,id=net0,ifname=br-x,script=no,downscript=no",
            "e1000-82545em,netdev=net0,romfile=",
        ),
        (
            "user,mac=0:A:98:1:2:3",
            "user,id=net0,restrict=on",
            "virtio-net-pci,netdev=net0,mac=00:0a:98:01:02:03,romfile=",
        ),
    ],
)
def test_networks(text: str, netdev: str, device: str) -> None:
    assert network_arguments(parse_network(text), Paths()) == ["-netdev", netdev, "-device", device]


def test_none() -> None:
    assert network_arguments(parse_network("none"), Paths()) == []


def test_ssh() -> None:
    net = parse_network("user,mac=02:00:00:00:00:01").with_ssh("2222")
    assert net.forwards == (("tcp", "127.0.0.1", 2222, "", 22),)
    assert parse_network("none").with_ssh("22").kind == "user"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "User",
        "none,mac=02:00:00:00:00:01",
        "user,",
        "user,host=1",
        "user,hostfwd=",
        "user,hostfwd=tcp:1",
        "user,hostfwd=tcp:1-2-3:4",
        "user,hostfwd=tcp:256.0.0.1:1-:2",
        "user,hostfwd=tcp:1.2.3:1-:2",
        "user,hostfwd=tcp::0-:2",
        "user,hostfwd=tcp::65536-:2",
        "user,hostfwd=tcp::١-:2",
        "user,hostfwd=tcp::1-:2,restrict=off",
        "user,tap0",
        "tap,tap0,tap1",
        "tap,tap0,host",
        "tap,0123456789abcdef",
        "tap,a b",
        "user,mac=",
        "user,mac=00:00:00:00:00:00",
        "user,mac=02:00:00:00:00",
        "user,mac=02:00:00:00:00:0g",
        "user,mac=002:00:00:00:00:00",
    ],
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(UsageError):
        parse_network(text)
