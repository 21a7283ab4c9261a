"""The balancers of a gateway: what is declared, what stands behind it, and how it is checked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import PurePosixPath

from appliance.errors import Problem
from appliance.values import Placeholder
from roles.common.addresses import ADDRESS_KEYS, AddressBook, select_interfaces
from roles.vnf.params import HaproxyParams

UNIT = "haproxy.service"
CONF = PurePosixPath("/etc/haproxy/haproxy.cfg")
STATS_SOCKET = PurePosixPath("/run/haproxy/admin.sock")
HEALTH_SOCKET = PurePosixPath("/run/haproxy/health.sock")
STATISTICS = (STATS_SOCKET, "show stat")
INTERFACES_KEY = "ONEAPP_VNF_HAPROXY_INTERFACES"
OWN_CONFIG_KEY = "ONEAPP_VNF_HAPROXY_CONFIG"

_PREFIX = "ONEAPP_VNF_HAPROXY_LB"
_ADDRESS = re.compile(r"[\d.]+\Z")
_DEFAULT_PORTS = {0: 9345, 1: 6443, 2: 443, 3: 80}
_DEFAULT_ADDRESS = Placeholder("ETH0_VIP0")
# What answers behind the balancers that OneKE knows, so that a check can ask more than for a
# connection.
_SUPERVISOR_PORT = 9345
_API_PORT = 6443


# How a server is checked, by what its balancer asks of it; the same words in the file and at run
# time, for servers that are added at run time take nothing from `default-server`.
_TIMING = "inter 2s fastinter 500ms downinter 1s rise 1 fall 2 on-marked-down shutdown-sessions"
SERVER_OPTIONS = {
    "supervisor": f"check check-ssl verify none {_TIMING}",
    "api": f"check check-ssl verify none {_TIMING}",
    "tcp": f"check {_TIMING}",
}


def is_agreement(command: str, answer: str) -> bool:
    """Say whether HAProxy did what it was told; it answers refusals in the same way.

    Source: HAProxy management guide, 9.3: `add server` and `del server` tell their success, the
    other commands used here succeed without a word.
    """
    if command.startswith("add server"):
        return answer.startswith("New server registered")
    if command.startswith("del server"):
        return answer.startswith("Server deleted")
    return not answer


@dataclass(frozen=True)
class Server:
    """A backend server.

    Attributes:
        name: Made of balancer, host and port, so that the same server has the same name in every
            file.
    """

    host: str
    port: int
    name: str

    @property
    def options(self) -> str:
        """What its line needs beyond its check: a name is looked up while HAProxy runs."""
        return "" if _ADDRESS.match(self.host) else " resolvers system init-addr last,libc,none"


@dataclass(frozen=True)
class Balancer:
    """A declared balancer.

    Attributes:
        name: As in `lb1_6443`.
        check: `supervisor`, `api` or `tcp`: what a server has to do to count as alive.
    """

    number: int
    address: IPv4Address
    port: int
    check: str
    servers: tuple[Server, ...]

    @property
    def name(self) -> str:
        """The name of its frontend and backend."""
        return f"lb{self.number}_{self.port}"


@dataclass(frozen=True)
class BalancerModel:
    """What HAProxy is to serve.

    Attributes:
        left_out: Declared balancers on an interface that is not to be served, with the reason.
    """

    balancers: tuple[Balancer, ...]
    left_out: tuple[str, ...]


def declared_numbers(params: HaproxyParams) -> list[int]:
    """Return the numbers of the balancers of which anything is set."""
    numbers = {*params.balancer_addresses, *params.balancer_ports}
    numbers |= {balancer for balancer, _ in (*params.server_hosts, *params.server_ports)}
    return sorted(numbers)


def build_balancers(params: HaproxyParams, book: AddressBook) -> BalancerModel:
    """Decide which balancers are served; one that is declared is bound even without servers.

    What `check_balancers` finds wrong is left out here.
    """
    served = set(select_interfaces(params.interfaces, book).links(book))
    restricted = bool(params.interfaces)
    balancers, left_out = [], []
    for number in declared_numbers(params):
        address = _address_of(number, params, book)
        port = params.balancer_ports.get(number, _DEFAULT_PORTS.get(number))
        if address is None or port is None:
            continue
        links = book.links_of(address)
        if links and served.isdisjoint(links):
            reason = f"not in {INTERFACES_KEY}" if restricted else "for administration only"
            left_out.append(
                f"{_PREFIX}{number}: {address}:{port} is not served: {links[0]} is {reason}"
            )
        elif links:
            servers = tuple(_servers(number, params))
            balancers.append(Balancer(number, address, port, _check_of(number, servers), servers))
    return BalancerModel(tuple(balancers), tuple(left_out))


def _check_of(number: int, declared: Sequence[Server]) -> str:
    """Decide what a server has to do to count as alive, from what is declared only."""
    known = {0: ("supervisor", _SUPERVISOR_PORT), 1: ("api", _API_PORT)}
    check, port = known.get(number, ("tcp", 0))
    return check if all(server.port == port for server in declared) else "tcp"


def _address_of(number: int, params: HaproxyParams, book: AddressBook) -> IPv4Address | None:
    given = params.balancer_addresses.get(number)
    if given is None and number in _DEFAULT_PORTS:
        given = _DEFAULT_ADDRESS
    return book.resolve(given) if given else None


def _servers(number: int, params: HaproxyParams) -> Iterator[Server]:
    seen = set()
    for (balancer, server), host in sorted(params.server_hosts.items()):
        port = params.server_ports.get((balancer, server))
        if balancer == number and port is not None and (host, port) not in seen:
            seen.add((host, port))
            yield make_server(number, host, port)


def make_server(number: int, host: str, port: int) -> Server:
    """Return a server with its name."""
    return Server(host, port, f"lb{number}_{host}_{port}")


def check_balancers(params: HaproxyParams, book: AddressBook) -> tuple[list[Problem], list[str]]:
    """Find what does not fit together: problems and warnings."""
    problems = [
        *(p for number in declared_numbers(params) for p in _check_one(number, params, book)),
        *_check_servers(params),
    ]
    model = build_balancers(params, book)
    taken: dict[tuple[IPv4Address, int], Balancer] = {}
    for balancer in model.balancers:
        first = taken.setdefault((balancer.address, balancer.port), balancer)
        if first is not balancer:
            problems.append(
                Problem(
                    f"{_PREFIX}{balancer.number}_PORT",
                    str(balancer.port),
                    f"{balancer.address}:{balancer.port} is balancer {first.number}'s already;"
                    " every balancer needs an address and port of its own",
                    depends_on=_keys_of(balancer.number) + _keys_of(first.number),
                )
            )
    return problems, list(model.left_out)


def _keys_of(number: int) -> tuple[str, ...]:
    return (f"{_PREFIX}{number}_IP", f"{_PREFIX}{number}_PORT")


def _check_one(number: int, params: HaproxyParams, book: AddressBook) -> Iterator[Problem]:
    address_key, port_key = _keys_of(number)
    given = params.balancer_addresses.get(number)
    if number not in params.balancer_ports and number not in _DEFAULT_PORTS:
        yield Problem(port_key, None, f"missing: balancer {number} needs a port")
    if given is None and (number not in _DEFAULT_PORTS or not _has_default_address(book)):
        yield Problem(
            address_key,
            None,
            f"missing: balancer {number} needs an address",
            depends_on=(*ADDRESS_KEYS, *_keys_of(number)),
        )
    if given is None:
        return
    address = book.resolve(given)
    if address is None:
        known = ", ".join(f"<{name}>" for name in sorted(book.placeholders()))
        yield Problem(
            address_key,
            str(given),
            f"stands for nothing here; known are {known or 'none'}",
            depends_on=ADDRESS_KEYS,
        )
    elif not book.links_of(address):
        own = sorted({str(interface.ip) for interface in book.placeholders().values()})
        yield Problem(
            address_key,
            str(given),
            "expected an own or virtual address of this gateway:"
            f" {', '.join(own) or 'it has none'}",
            depends_on=ADDRESS_KEYS,
        )


def _has_default_address(book: AddressBook) -> bool:
    return book.resolve(_DEFAULT_ADDRESS) is not None


def _check_servers(params: HaproxyParams) -> Iterator[Problem]:
    pairs: tuple[
        tuple[str, Mapping[tuple[int, int], object], str, Mapping[tuple[int, int], object]], ...
    ] = (
        ("HOST", params.server_hosts, "PORT", params.server_ports),
        ("PORT", params.server_ports, "HOST", params.server_hosts),
    )
    for given, these, missing, those in pairs:
        for balancer, server in sorted(set(these) - set(those)):
            stem = f"{_PREFIX}{balancer}_SERVER{server}_"
            yield Problem(
                f"{stem}{missing}",
                None,
                f"missing: {stem}{given} is set",
                depends_on=(f"{stem}{given}",),
            )


@dataclass(frozen=True)
class HaproxyCfg:
    """The model of haproxy.cfg.

    Attributes:
        own_config: A user's own text, put behind; empty for none.
        server_options: Check of a balancer to the options of the servers behind it.
        has_names: Whether a server is told by name, so that names have to be resolved.
    """

    balancers: tuple[Balancer, ...]
    own_config: str
    server_options: Mapping[str, str]
    stats_socket: str
    health_socket: str
    has_names: bool
