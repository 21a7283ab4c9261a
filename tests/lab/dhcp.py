"""A small DHCP server for the lab: it gives leases that have to be renewed all the time.

It is started as a program of its own in a network namespace, prints `ready` when it listens, and a
line `ADDRESS` for each lease that it gives or renews.
"""

from __future__ import annotations

import argparse
import socket
import struct
from ipaddress import IPv4Address

_SERVER_PORT, _CLIENT_PORT = 67, 68
_COOKIE = b"\x63\x82\x53\x63"
_HEAD, _MAC = 236, 28
_END, _PADDING = 255, 0
# Source: RFC 2132.
_MASK, _ROUTER, _RESOLVER, _DOMAIN = 1, 3, 6, 15
_LEASE, _KIND, _SERVER = 51, 53, 54
_DISCOVER, _OFFER, _REQUEST, _ACKNOWLEDGE = 1, 2, 3, 5


def options_of(packet: bytes) -> dict[int, bytes]:
    """Read the options behind the cookie."""
    found: dict[int, bytes] = {}
    at = _HEAD + len(_COOKIE)
    while at + 1 < len(packet) and packet[at] != _END:
        if packet[at] == _PADDING:
            at += 1
            continue
        end = at + 2 + packet[at + 1]
        found[packet[at]] = packet[at + 2 : end]
        at = end
    return found


def answer_to(packet: bytes, address: IPv4Address, settings: dict[int, bytes]) -> bytes | None:
    """Offer or acknowledge an address; None for what needs no answer."""
    kinds = {_DISCOVER: _OFFER, _REQUEST: _ACKNOWLEDGE}
    kind = kinds.get(options_of(packet).get(_KIND, b"\0")[0])
    if kind is None:
        return None
    head = struct.pack("!BBBB", 2, 1, 6, 0) + packet[4:8] + b"\0\0" + packet[10:16]
    head += address.packed + settings[_SERVER] + b"\0" * 4 + packet[28:44]
    told = {_KIND: bytes([kind]), **settings}
    options = b"".join(bytes([code, len(value)]) + value for code, value in told.items())
    return head.ljust(_HEAD, b"\0") + _COOKIE + options + bytes([_END])


def serve(options: argparse.Namespace) -> None:
    """Give each NIC the address that OpenNebula made its hardware address of, until killed."""
    settings = {
        _SERVER: IPv4Address(options.own).packed,
        _LEASE: struct.pack("!I", options.lease),
        _MASK: IPv4Address("255.255.255.0").packed,
        _ROUTER: IPv4Address(options.router).packed,
        _RESOLVER: IPv4Address(options.resolver).packed,
        _DOMAIN: b"dhcp.lab",
    }
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        server.bind(("", _SERVER_PORT))
        print("ready", flush=True)
        while True:
            packet, (peer, _) = server.recvfrom(2048)
            address = IPv4Address(packet[_MAC + 2 : _MAC + 6])
            reply = answer_to(packet, address, settings)
            if reply is not None:
                to = peer if peer != "0.0.0.0" else "255.255.255.255"
                server.sendto(reply, (to, _CLIENT_PORT))
                print(address, flush=True)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--own", required=True, help="the server's address")
    parser.add_argument("--router", required=True)
    parser.add_argument("--resolver", required=True)
    parser.add_argument("--lease", type=int, default=8, help="seconds; renewed after half of it")
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
