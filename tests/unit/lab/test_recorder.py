"""What the recorder of the lab makes of packets."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.lab.recorder import Seen, read

NODE, SERVER = "10.2.11.200", "198.51.100.7"


def packet(protocol: int, body: bytes, options: bytes = b"") -> bytes:
    """An IPv4 packet from the node to the server."""
    words = 5 + len(options) // 4
    header = struct.pack("!BBHHHBBH", 0x40 | words, 0, 20 + len(body), 0, 0, 64, protocol, 0)
    return header + socket.inet_aton(NODE) + socket.inet_aton(SERVER) + options + body


def tcp(flags: int) -> bytes:
    """A TCP header to port 443."""
    return struct.pack("!HHIIBBHHH", 40000, 443, 0, 0, 0x50, flags, 0, 0, 0)


def datagram(source: int, target: int, data: bytes) -> bytes:
    """A UDP header with data."""
    return struct.pack("!HHHH", source, target, 8 + len(data), 0) + data


QUESTION = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\x06charts\x07Example\x00\x00\x01\x00\x01"


def seen(protocol: int, port: int, name: str = "") -> Seen:
    """What is told of a packet."""
    return Seen(NODE, SERVER, protocol, port, name)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (packet(6, tcp(0x02)), seen(6, 443)),
        (packet(6, tcp(0x02), options=b"\x01\x01\x01\x00"), seen(6, 443)),
        (packet(6, tcp(0x12)), None),
        (packet(6, tcp(0x10)), None),
        (packet(17, datagram(50000, 123, b"\x23")), seen(17, 123)),
        (packet(17, datagram(123, 123, b"\x23")), seen(17, 123)),
        (packet(17, datagram(50000, 53, QUESTION)), seen(17, 53, "charts.example")),
        (packet(17, datagram(53, 50000, QUESTION)), None),
        (packet(1, b"\x08\x00"), seen(1, 0)),
        (b"\x60" + b"\0" * 39, None),
        (b"\x45", None),
    ],
)
def test_what_begins_something_is_told_and_answers_are_not(sent: bytes, told: Seen | None) -> None:
    assert read(sent) == told
