"""Tells of every packet that comes to an interface from machines beyond it, each kind once.

It is started as a program of its own in a network namespace and prints `ready` when it listens,
then one JSON object a line: who sent it, where to, the protocol, the port, and the name that a
question to a name server asks for.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
from dataclasses import asdict, dataclass

_IPV4 = 0x0800
_PORTS = struct.Struct("!HH")
_TCP, _UDP, _DNS = 6, 17, 53
_DNS_HEADER, _UDP_HEADER = 12, 8
_LONGEST = 65535


@dataclass(frozen=True)
class Seen:
    """A kind of packet.

    Attributes:
        protocol: Its number.
        port: Where it goes to; 0 for a protocol without ports.
        name: What is asked for; empty in any other packet.
    """

    source: str
    target: str
    protocol: int
    port: int
    name: str


def read(packet: bytes) -> Seen | None:
    """Read an IPv4 packet; None for what is none, and for what answers another one.

    Of connections the first packet counts, and of datagrams all but what name servers answer.
    """
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    body = packet[(packet[0] & 15) * 4 :]
    protocol, port, name = packet[9], 0, ""
    if protocol in (_TCP, _UDP) and len(body) >= _UDP_HEADER:
        source_port, port = _PORTS.unpack_from(body)
        if protocol == _TCP and (len(body) < 14 or body[13] & 0x12 != 0x02):
            return None
        if protocol == _UDP and source_port == _DNS:
            return None
        if port == _DNS and protocol == _UDP:
            name = question(body[_UDP_HEADER:])
    source, target = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
    return Seen(source, target, protocol, port, name)


def question(query: bytes) -> str:
    """Read the name that a question is about."""
    labels, at = [], _DNS_HEADER
    while at < len(query) and (length := query[at]):
        labels.append(query[at + 1 : at + 1 + length].decode(errors="replace").lower())
        at += 1 + length
    return ".".join(labels)


def main() -> None:
    """Listen until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interface", default="eth0")
    interface = parser.parse_args().interface
    known: set[Seen] = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_IPV4)) as listening:
        listening.bind((interface, _IPV4))
        print("ready", flush=True)
        while True:
            packet, address = listening.recvfrom(_LONGEST)
            seen = read(packet) if address[2] != socket.PACKET_OUTGOING else None
            if seen is not None and seen not in known:
                known.add(seen)
                print(json.dumps(asdict(seen)), flush=True)


if __name__ == "__main__":
    main()
