"""Name servers: whether one answers, and what resolv.conf says."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import PurePosixPath

from appliance.errors import SocketError
from appliance.system import System

RESOLV_CONF = PurePosixPath("/etc/resolv.conf")
MARK = "# Written by oneke-agent: the name server of the private network."

_PORT = 53
_TRIES = 2
_TIMEOUT_S = 0.5
# A name that every resolver knows by itself, whatever it can reach. Source: RFC 6761, 6.3.
_NAME = "localhost"
_TYPE_A, _CLASS_IN = 1, 1
_RECURSION_DESIRED = 0x0100
_IS_ANSWER = 0x8000
_CODE = 0x000F
# Source: RFC 1035, 4.1.1: no error, and a name error, which is an answer too.
_ANSWERED = (0, 3)
_HEADER = struct.Struct("!HHHHHH")

_NAMESERVER = re.compile(r"^nameserver[ \t]+(\S+)", re.MULTILINE)
_KEPT = re.compile(r"(?:domain|search|options|sortlist)[ \t]")


@dataclass(frozen=True)
class AnswersQuestions:
    """Whether a name server answers this machine."""

    server: IPv4Address

    def look(self, system: System) -> bool:
        """Ask it for a name that it must know."""
        for number in range(_TRIES):
            query = build_query(number + 1)
            try:
                reply = system.sockets.exchange(self.server, _PORT, query, timeout_s=_TIMEOUT_S)
            except SocketError:
                continue
            if is_answer(query, reply):
                return True
        return False


def build_query(number: int) -> bytes:
    """Build a DNS question for an address, with this number."""
    name = b"".join(bytes([len(label)]) + label.encode() for label in (*_NAME.split("."), ""))
    header = _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + name + struct.pack("!HH", _TYPE_A, _CLASS_IN)


def is_answer(query: bytes, reply: bytes) -> bool:
    """Say whether a reply answers a query: no refusal, no failure, nobody else's words."""
    if len(reply) < _HEADER.size:
        return False
    (asked, *_), (answered, flags, *_) = _HEADER.unpack_from(query), _HEADER.unpack_from(reply)
    return answered == asked and bool(flags & _IS_ANSWER) and flags & _CODE in _ANSWERED


def read_addresses(texts: Iterable[str]) -> Iterator[IPv4Address | IPv6Address]:
    """Yield the addresses of lists between blanks, commas or semicolons, each once."""
    words = [word for text in texts for word in re.split(r"[\s,;]+", text) if word]
    for word in dict.fromkeys(words):
        try:
            yield ip_address(word)
        except ValueError:
            continue


def nameservers_of(resolv_conf: str) -> tuple[str, ...]:
    """Return the name servers of a resolv.conf, as they are written."""
    return tuple(_NAMESERVER.findall(resolv_conf))


def is_marked(resolv_conf: str) -> bool:
    """Say whether a resolv.conf is ours."""
    return MARK in resolv_conf.splitlines()


def is_of_resolved(resolv_conf: str) -> bool:
    """Say whether a resolv.conf is one of systemd-resolved's, which name it in their comments."""
    return any("systemd-resolved" in line for line in resolv_conf.splitlines() if line[:1] == "#")


def with_nameserver(given: str, nameserver: IPv4Address) -> str:
    """Return a resolv.conf of ours that keeps what another says of domains and options."""
    return "".join(f"{line}\n" for line in (MARK, f"nameserver {nameserver}", *_kept(given)))


def without_mark(marked: str, nameservers: Iterable[object]) -> str:
    """Return what a resolv.conf of ours is without our name server, with these."""
    lines = (*(f"nameserver {server}" for server in nameservers), *_kept(marked))
    return "".join(f"{line}\n" for line in lines)


def _kept(resolv_conf: str) -> list[str]:
    return [line for line in resolv_conf.splitlines() if _KEPT.match(line)]
