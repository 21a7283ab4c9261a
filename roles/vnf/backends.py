"""Backends that follow OneGate: what siblings register, what HAProxy runs, and the way between.

Everything here is a value. What siblings say is input to check: any of them may write anything.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from appliance.system.onegate import Lease, Service
from appliance.values import Rejected, ipv4_or_placeholder, port_number
from roles.common.addresses import AddressBook
from roles.vnf.haproxy import Balancer, BalancerModel, Server, make_server

_PREFIX = "ONEGATE_HAPROXY_LB"
_LEAVING = 12
_LONGEST_SHOWN = 60

# Bearer of registrations (a VM id, or a lease) -> its servers as (balancer number, host, port).
Registrations = Mapping[str, tuple[tuple[int, str, int], ...]]


@dataclass(frozen=True)
class Seen:
    """What one answer of OneGate tells.

    Attributes:
        registrations: By VM id (or lease), also of those that register nothing.
        is_whole: Whether who is not in it is really gone.
        members: Who is there although it may not have been readable; None where even that is not
            known.
        complaints: What was wrong with single registrations, each with the name of its VM.
    """

    registrations: Registrations
    is_whole: bool
    complaints: tuple[str, ...]
    members: frozenset[str] | None = None


def read_service(
    service: Service, own_vm_id: int | None, model: BalancerModel, book: AddressBook, identity: str
) -> Seen:
    """Read the registrations of every VM of the service.

    A VM that is being shut down counts as registering nothing. An answer without roles, or in
    which this very VM is missing, is not the whole truth.

    Args:
        service: OneGate's answer.
        own_vm_id: This gateway.
        model: The declared balancers.
        book: What placeholders stand for.
        identity: The service's id; registrations limited to another are not for us.
    """
    found: dict[str, tuple[tuple[int, str, int], ...]] = {}
    complaints: list[str] = []
    for vm in (vm for role in service.roles for vm in role.vms):
        if vm.lcm_state == _LEAVING:
            found[str(vm.vm_id)] = ()
            continue
        name = f"VM {vm.vm_id} ({_shown(vm.name)})"
        found[str(vm.vm_id)] = _read_bearer(
            name, _texts(vm.attributes), model, book, identity, complaints
        )
    known = {vm_id for role in service.roles for vm_id in role.vm_ids}
    is_listed = (
        bool(service.roles)
        and own_vm_id in known | {None}
        and all(len(role.vm_ids) >= role.cardinality for role in service.roles)
    )
    members = frozenset(map(str, known)) if is_listed else None
    return Seen(found, is_listed and service.complete, tuple(complaints), members)


def read_leases(
    leases: Iterable[Lease], model: BalancerModel, book: AddressBook, identity: str
) -> Seen:
    """Read the registrations that leases of the virtual router's networks carry."""
    found: dict[str, tuple[tuple[int, str, int], ...]] = {}
    complaints: list[str] = []
    for lease in leases:
        if lease.attributes.get("BACKEND") != "YES":
            continue
        key = f"{lease.network_id}/{lease.ip}"
        texts = _texts(lease.attributes)
        name = f"lease {_shown(lease.ip)}"
        mine = _read_bearer(name, texts, model, book, identity, complaints)
        found[key] = found.get(key, ()) + mine
    return Seen(found, is_whole=True, complaints=tuple(complaints))


def _texts(attributes: Mapping[str, object]) -> dict[str, str]:
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, str) and name.startswith(_PREFIX)
    }


def _read_bearer(
    name: str,
    texts: Mapping[str, str],
    model: BalancerModel,
    book: AddressBook,
    identity: str,
    complaints: list[str],
) -> tuple[tuple[int, str, int], ...]:
    servers = []
    for balancer in model.balancers:
        stem = f"{_PREFIX}{balancer.number}_"
        wanted = texts.get(f"{stem}ID", "")
        host, port = texts.get(f"{stem}SERVER_HOST", ""), texts.get(f"{stem}SERVER_PORT", "")
        if not (host or port) or wanted not in ("", identity):
            continue
        try:
            if not _is_meant(balancer, texts, stem, book):
                continue
            servers.append((balancer.number, *_read_server(model, stem, host, port)))
        except Rejected as rejected:
            complaints.append(f"{name}: {rejected}")
    return tuple(servers)


def _is_meant(balancer: Balancer, texts: Mapping[str, str], stem: str, book: AddressBook) -> bool:
    address, port = texts.get(f"{stem}IP", ""), texts.get(f"{stem}PORT", "")
    if not address or not port:
        missing = f"{stem}IP" if not address else f"{stem}PORT"
        raise Rejected(f"{missing} is missing beside its server")
    try:
        meant = book.resolve(ipv4_or_placeholder(address))
    except Rejected:
        raise Rejected(f"{stem}IP={_shown(address)}: expected an IPv4 address") from None
    return meant == balancer.address and port.strip() == str(balancer.port)


def _read_server(model: BalancerModel, stem: str, host: str, port: str) -> tuple[str, int]:
    try:
        address = IPv4Address(host.strip())
    except ValueError:
        raise Rejected(f"{stem}SERVER_HOST={_shown(host)}: expected an IPv4 address") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise Rejected(f"{stem}SERVER_HOST={address}: no address of a server")
    try:
        number = port_number(port)
    except Rejected as rejected:
        raise Rejected(f"{stem}SERVER_PORT={_shown(port)}: {rejected}") from None
    if any((address, number) == (one.address, one.port) for one in model.balancers):
        raise Rejected(f"{stem}SERVER_HOST={address}: is a balancer itself")
    return str(address), number


def _shown(text: str) -> str:
    line = "".join(c if c.isprintable() else "?" for c in text[: _LONGEST_SHOWN + 1])
    return line if len(line) <= _LONGEST_SHOWN else f"{line[:_LONGEST_SHOWN]}..."


def merge(known: Registrations, seen: Seen) -> Registrations:
    """Take what was seen; who is there and could not be read stays as known."""
    if seen.is_whole:
        return seen.registrations
    members = seen.members
    staying = {key: servers for key, servers in known.items() if members is None or key in members}
    return {**staying, **seen.registrations}


def with_registrations(model: BalancerModel, registrations: Registrations) -> BalancerModel:
    """Put registered servers behind the static ones, the same server once."""
    return replace(
        model,
        balancers=tuple(
            replace(balancer, servers=tuple(_servers_of(balancer, registrations)))
            for balancer in model.balancers
        ),
    )


def _servers_of(balancer: Balancer, registrations: Registrations) -> Iterator[Server]:
    seen = set()
    for server in balancer.servers:
        seen.add((server.host, server.port))
        yield server
    registered = {
        (host, port)
        for servers in registrations.values()
        for number, host, port in servers
        if number == balancer.number
    }
    for host, port in sorted(registered - seen, key=lambda one: (IPv4Address(one[0]), one[1])):
        yield make_server(balancer.number, host, port)


def to_text(registrations: Registrations) -> str:
    """Write registrations for the next start."""
    listed = {key: [list(server) for server in servers] for key, servers in registrations.items()}
    return json.dumps({"registrations": listed}, indent=1, sort_keys=True) + "\n"


def from_text(text: str | None) -> Registrations:
    """Read registrations back; nothing from what is not theirs."""
    try:
        listed = json.loads(text or "{}")["registrations"]
        return {
            str(key): tuple(
                (int(number), str(IPv4Address(host)), port_number(str(port)))
                for number, host, port in servers
            )
            for key, servers in listed.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, Rejected):
        return {}


@dataclass(frozen=True)
class RunningServer:
    """A server as HAProxy runs it.

    Attributes:
        status: HAProxy's words, such as UP, DOWN, DRAIN, MAINT.
        sessions: How many connections it holds.
        check: What its last health check said.
    """

    backend: str
    name: str
    address: str
    status: str
    sessions: int
    check: str

    @property
    def is_up(self) -> bool:
        """Whether it gets connections."""
        return self.status.startswith(("UP", "no check"))

    @property
    def is_leaving(self) -> bool:
        """Whether it takes no new connections because it is to go."""
        return self.status.startswith(("DRAIN", "MAINT"))


def parse_statistics(text: str) -> tuple[RunningServer, ...]:
    """Read the answer to `show stat`.

    Source: HAProxy management guide, 9.1, CSV format; a check under way is marked by `* `.
    """
    lines = text.removeprefix("# ").splitlines()
    rows = csv.DictReader(line for line in lines if line.strip())
    return tuple(
        RunningServer(
            backend=row["pxname"],
            name=row["svname"],
            address=row.get("addr") or "",
            status=row.get("status") or "",
            sessions=int(row.get("scur") or 0),
            check=" ".join(
                filter(None, ((row.get("check_status") or "").lstrip("* "), row.get("last_chk")))
            ),
        )
        for row in rows
        if row.get("type") == "2"
    )


@dataclass(frozen=True)
class Step:
    """Commands that go together; if one is refused, the rest of them is of no use.

    Attributes:
        is_change: Whether the set of servers changes, rather than one that is gone being swept.
    """

    summary: str
    commands: tuple[str, ...]
    is_change: bool = True


@dataclass(frozen=True)
class Transition:
    """How HAProxy gets from what it runs to what it should.

    Attributes:
        steps: In order.
        leaving: Servers that are still held by connections.
        unknown: Backends that HAProxy does not have; only a reload brings them.
    """

    steps: tuple[Step, ...]
    leaving: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def plan_transition(
    model: BalancerModel,
    running: Sequence[RunningServer],
    backends: frozenset[str],
    overdue: frozenset[str],
    *,
    server_options: Mapping[str, str],
) -> Transition:
    """Decide what to tell HAProxy.

    Args:
        model: What should run.
        running: What runs.
        backends: The backends HAProxy has.
        overdue: Servers (backend/name) whose connections have been waited for long enough.
        server_options: Check of a balancer to the options of a server behind it.
    """
    steps: list[Step] = []
    leaving: list[str] = []
    unknown = [b.name for b in model.balancers if b.name not in backends]
    for balancer in model.balancers:
        if balancer.name not in backends:
            continue
        here = {one.name: one for one in running if one.backend == balancer.name}
        wanted = {server.name: server for server in balancer.servers}
        steps += (
            _add(balancer, server, server_options[balancer.check])
            for name, server in wanted.items()
            if name not in here
        )
        steps += (
            Step(f"take back {name}", (f"set server {balancer.name}/{name} state ready",))
            for name in wanted
            if name in here and here[name].is_leaving
        )
        for name, server in here.items():
            if name not in wanted:
                is_overdue = f"{balancer.name}/{name}" in overdue
                retiring = _retire(server, is_overdue)
                steps += [retiring] if retiring else []
                if not server.is_leaving or (server.sessions and not is_overdue):
                    leaving.append(f"{balancer.name}/{name}")
    return Transition(tuple(steps), tuple(leaving), tuple(unknown))


def _add(balancer: Balancer, server: Server, options: str) -> Step:
    where = f"{balancer.name}/{server.name}"
    return Step(
        f"add {where}",
        (
            f"add server {where} {server.host}:{server.port} {options}",
            f"enable health {where}",
            f"enable server {where}",
        ),
    )


def _retire(server: RunningServer, is_overdue: bool) -> Step | None:
    """Drain a server; delete it in a later pass, when nothing holds it.

    Not in the same one: a connection that was given to it since HAProxy was asked would be lost.
    """
    where = f"{server.backend}/{server.name}"
    if not server.is_leaving:
        return Step(f"drain {where}", (f"set server {where} state drain",))
    if server.sessions and not is_overdue:
        return None
    cut = (f"shutdown sessions server {where}",) if server.sessions else ()
    commands = (f"set server {where} state maint", *cut, f"del server {where}")
    return Step(f"delete {where}", commands, is_change=False)
