"""Masquerading, port forwards and forwarding of a gateway."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import PurePosixPath

from appliance.errors import Problem
from roles.common.addresses import ADDRESS_KEYS, AddressBook, select_interfaces
from roles.common.opennebula import OpenNebulaParams
from roles.vnf.params import Nat4Params, Router4Params

TABLE_FAMILY = "ip"
TABLE_NAME = "oneke"
SYSCTL_CONF = PurePosixPath("/etc/sysctl.d/60-oneke.conf")
INTERFACES_OUT_KEY = "ONEAPP_VNF_NAT4_INTERFACES_OUT"
ROUTER_INTERFACES_KEY = "ONEAPP_VNF_ROUTER4_INTERFACES"

_COUNTER = re.compile(r"counter packets (\d+) bytes \d+ (masquerade|dnat)")
_FORWARD_PREFIX = "ONEAPP_VNF_NAT4_PORT_FWD"


@dataclass(frozen=True)
class Forward:
    """A destination NAT for TCP and UDP.

    Attributes:
        destination: The address it arrives at; None for any address of this gateway.
        to_port: None to keep the port.
    """

    destination: IPv4Address | None
    port: int
    to: IPv4Address
    to_port: int | None

    @property
    def match(self) -> str:
        """What a packet's destination has to be, as nft writes it: never just any machine's."""
        if self.destination is None:
            return "fib daddr type local"
        return f"ip daddr {self.destination}"

    @property
    def target(self) -> str:
        """The new destination as nft writes it."""
        return str(self.to) if self.to_port is None else f"{self.to}:{self.to_port}"


@dataclass(frozen=True)
class NatTable:
    """The model of the packet filter's table.

    Attributes:
        masquerade: Links whose outgoing packets get the gateway's address.
        forwards: In the order of their numbers; the first that matches wins.
    """

    family: str
    table: str
    masquerade: tuple[str, ...]
    forwards: tuple[Forward, ...]


def build_nat(params: Nat4Params, book: AddressBook) -> NatTable:
    """Decide what is masqueraded and forwarded, were it switched on."""
    forwards = []
    for _, forward in sorted(params.port_forwards.items()):
        to = book.resolve(forward.to)
        destination = None if forward.destination is None else book.resolve(forward.destination)
        if to is not None and (destination is not None or forward.destination is None):
            forwards.append(Forward(destination, forward.port, to, forward.to_port))
    masquerade = select_interfaces(params.interfaces_out, book).links(book)
    return NatTable(TABLE_FAMILY, TABLE_NAME, masquerade, tuple(forwards))


def check_nat(params: Nat4Params, book: AddressBook) -> tuple[list[Problem], list[str]]:
    """Find what does not fit together: problems and warnings."""
    problems = []
    taken: dict[tuple[object, int], int] = {}
    for number, forward in sorted(params.port_forwards.items()):
        key = f"{_FORWARD_PREFIX}{number}"
        for given in (forward.destination, forward.to):
            if given is not None and book.resolve(given) is None:
                problems.append(
                    Problem(
                        key,
                        str(given),
                        "this placeholder stands for nothing here",
                        depends_on=ADDRESS_KEYS,
                    )
                )
        destination = None if forward.destination is None else book.resolve(forward.destination)
        if forward.destination is not None and destination is None:
            continue
        first = taken.setdefault((destination, forward.port), number)
        if first != number:
            problems.append(
                Problem(
                    key,
                    str(forward.port),
                    f"port {forward.port} of the same address is forwarded by"
                    f" {_FORWARD_PREFIX}{first} already",
                    depends_on=(f"{_FORWARD_PREFIX}{first}",),
                )
            )
    warnings = []
    if params.enabled and not select_interfaces(params.interfaces_out, book).links(book):
        warnings.append(
            f"ONEAPP_VNF_NAT4_ENABLED is on and {INTERFACES_OUT_KEY} names no interface: nothing is"
            " masqueraded"
        )
    if params.port_forwards and not params.enabled:
        warnings.append(
            f"{_FORWARD_PREFIX}<n> is without effect while ONEAPP_VNF_NAT4_ENABLED is off"
        )
    return problems, warnings


@dataclass(frozen=True)
class NatCounters:
    """How many connections were given another address since the table was loaded."""

    masqueraded: int
    forwarded: int


def read_counters(listed: str) -> NatCounters:
    """Add up the counters of a table as nft lists it; a NAT rule counts first packets only."""
    counts = {"masquerade": 0, "dnat": 0}
    for line in listed.splitlines():
        found = _COUNTER.search(line)
        if found:
            counts[found[2]] += int(found[1])
    return NatCounters(counts["masquerade"], counts["dnat"])


def is_router(params: Router4Params, opennebula: OpenNebulaParams) -> bool:
    """Say whether forwarding is on: as set, else where the VM is a virtual router."""
    if params.enabled is not None:
        return params.enabled
    return opennebula.virtual_router_id is not None


def build_forwarding(params: Router4Params, book: AddressBook, *, enabled: bool) -> dict[str, str]:
    """Decide the kernel settings: forwarding per link, never for all of them.

    The general switches come first, for writing them resets those of the links.
    """
    settings = dict.fromkeys(
        ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv4.conf.default.forwarding"),
        "0",
    )
    forwarding = set(select_interfaces(params.interfaces, book).links(book)) if enabled else set()
    for nic in book.nics:
        settings[f"net.ipv4.conf.{nic.name}.forwarding"] = "1" if nic.name in forwarding else "0"
    return settings


@dataclass(frozen=True)
class SysctlConf:
    """The model of the sysctl drop-in."""

    settings: tuple[tuple[str, str], ...]
