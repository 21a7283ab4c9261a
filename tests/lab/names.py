"""A small DNS server for the lab: it knows a few names, and that there are no others.

It is started as a program of its own in a network namespace, and prints `ready` when it listens.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import socketserver
import struct

_HEADER = struct.Struct("!6H")
_ANSWER = struct.Struct("!HHHIH")
_IS_ANSWER, _WANTS_RECURSION, _RECURSES = 0x8000, 0x0100, 0x0080
_NO_SUCH_NAME = 3
_TYPE_A, _CLASS_IN = 1, 1
_TO_QUESTION = 0xC000 | _HEADER.size
_TTL_S = 60


def answer(query: bytes, names: dict[str, str]) -> bytes | None:
    """Answer a query of one question; None for what is none.

    Args:
        query: The packet.
        names: IPv4 address by name, in lower case and without a dot at the end.
    """
    if len(query) < _HEADER.size:
        return None
    number, flags, *_ = _HEADER.unpack_from(query)
    labels, at = [], _HEADER.size
    while at < len(query) and (length := query[at]):
        labels.append(query[at + 1 : at + 1 + length].decode(errors="replace").lower())
        at += 1 + length
    question = query[_HEADER.size : at + 5]
    if flags & _IS_ANSWER or len(query) < at + 5:
        return None
    (wanted,) = struct.unpack_from("!H", query, at + 1)
    address = names.get(".".join(labels))
    records = b""
    if address is not None and wanted == _TYPE_A:
        packed = ipaddress.IPv4Address(address).packed
        records = _ANSWER.pack(_TO_QUESTION, _TYPE_A, _CLASS_IN, _TTL_S, len(packed)) + packed
    code = _NO_SUCH_NAME if address is None and labels else 0
    told = _IS_ANSWER | (flags & _WANTS_RECURSION) | _RECURSES | code
    return _HEADER.pack(number, told, 1, int(bool(records)), 0, 0) + question + records


class Handler(socketserver.BaseRequestHandler):
    """Answers one packet."""

    names: dict[str, str]

    def handle(self) -> None:
        """Send the answer, if there is one."""
        query, connection = self.request
        reply = answer(query, self.names)
        if reply is not None:
            connection.sendto(reply, self.client_address)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--names", default="{}", help="JSON: name to IPv4 address")
    options = parser.parse_args()
    address, _, port = options.listen.rpartition(":")
    Handler.names = json.loads(options.names)
    with socketserver.ThreadingUDPServer((address, int(port)), Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
