"""Servers that others register in OneGate, as the reference takes them, and as the agent does.

Single aspects can be decided the agent's way instead. One of them is a deviation of its own
where, taken in the order of `ASPECTS`, it changes what is served.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.conformance.reference import Context, ReferenceFails, dig, each, env, is_on
from tests.conformance.rules import balancers
from tests.conformance.rules.balancers import Balancer, resolved
from tests.conformance.rules.base import (
    is_ipv4,
    is_ipv4_with_prefix,
    is_on_for_us,
    is_placeholder,
    is_port,
    told_service,
    whole,
)
from tests.conformance.rules.forwards import our_placeholders, placeholders
from tests.conformance.rules.vrrp import is_legacy
from tests.conformance.vectors import Inputs

SWITCH = "ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED"
SOURCE_NAMES = ("ONEAPP_VNF_LB_ONEGATE_API", "ONEAPP_VNF_ONEGATE_LB_API")
ASPECTS = ("switch", "source", "answer", "leaving", "id", "meant", "server")

_KEY = re.compile(r"ONEGATE_HAPROXY_LB([0-9]+)_(ID|IP|PORT|SERVER_[A-Z]+)\Z")
_SERVER_KEYS = frozenset(
    f"SERVER_{name}" for name in ("HOST", "PORT", "WEIGHT", "ULIMIT", "LLIMIT")
)
_LEAVING = 12

Served = dict[int, tuple[str, str, tuple[str, ...]]]
Added = frozenset[tuple[int, str, str]]


@dataclass(frozen=True)
class Source:
    """Where registrations are looked for.

    Attributes:
        leases: In the leases of the router's networks, not in the VMs of the service.
        identity: Registrations limited to another are dropped; empty to drop none.
        is_misread: Whether what is found there is read as the other, so that nothing is found.
    """

    leases: bool
    identity: str
    is_misread: bool = False


@dataclass(frozen=True)
class Bearer:
    """A VM or a lease, with all it says."""

    attributes: Mapping[str, Any]
    is_leaving: bool = False


def of_reference(inputs: Inputs) -> dict[int, Balancer]:
    """Return the balancers the reference serves.

    Raises:
        ReferenceFails: It ends with an error.
    """
    bound = balancers.of_reference(inputs.context)
    served = _with(bound, registered(inputs, ()))
    return {number: one for number, one in served.items() if one.servers}


def of_agent(inputs: Inputs) -> dict[int, Balancer]:
    """Return the balancers the agent serves."""
    return _with(_ours(inputs.context), registered(inputs, ASPECTS))


def _ours(context: Context) -> dict[int, Balancer]:
    readings = balancers.of_agent(context).items()
    return {number: reading.balancer for number, reading in readings if reading.balancer}


def _with(bound: Mapping[int, Balancer], added: Added) -> dict[int, Balancer]:
    return {
        number: Balancer(
            one.address,
            one.port,
            one.servers | {(host, port) for of, host, port in added if of == number},
        )
        for number, one in bound.items()
    }


def texts(served: Mapping[int, Balancer]) -> Served:
    """Write balancers as they compare; blanks behind a port are lost when the file is read."""
    return {
        number: (
            one.address,
            one.port.rstrip(),
            tuple(sorted(f"{host}:{port}".rstrip() for host, port in one.servers)),
        )
        for number, one in served.items()
    }


def is_changed_by(inputs: Inputs, aspect: str) -> bool:
    """Say whether an aspect changes what is served, after those before it."""
    if texts(of_reference(inputs)) == texts(of_agent(inputs)):
        return False
    before = ASPECTS[: ASPECTS.index(aspect)]
    return _outcome(inputs, before) != _outcome(inputs, (*before, aspect))


def _outcome(inputs: Inputs, ours: Collection[str]) -> Served:
    try:
        added = registered(inputs, ours)
    except ReferenceFails:  # over documents that it would not have read
        added = frozenset()
    return texts(_with(_ours(inputs.context), added))


def registered(inputs: Inputs, ours: Collection[str]) -> Added:
    """Return balancer, host and port of the servers that are added to what is declared.

    Args:
        ours: The aspects that are decided the agent's way.
    """
    if not _is_on(inputs.context, ours):
        return frozenset()
    source = _our_source(inputs) if "source" in ours else _source(inputs.context)
    find = _our_bearers if "answer" in ours else _bearers
    bearers = list(find(inputs, source))
    if source.is_misread:
        return frozenset()
    if not ours:
        _stumble(bearers, source.identity)
    identity = _as_number(source.identity) if "id" in ours else source.identity
    return frozenset(
        server
        for bearer in bearers
        if not ("leaving" in ours and bearer.is_leaving)
        for number, said in _said(bearer, as_agent="meant" in ours).items()
        if _is_ours(said, identity, as_agent="id" in ours)
        and _is_meant(inputs.context, number, said, as_agent="meant" in ours)
        for server in _servers(inputs.context, number, said, as_agent="server" in ours)
    )


def _as_number(text: str) -> str:
    return str(int(text)) if re.fullmatch(r"[+-]?[0-9]+", text.strip()) else text


def _is_on(context: Context, ours: Collection[str]) -> bool:
    text = env(context, SWITCH)
    if "switch" not in ours:
        return is_on(text)
    return is_legacy(context) if text is None else is_on_for_us(text)


def _source(context: Context) -> Source:
    """Where the reference looks: found by the router's id, read by the service's."""
    router, service = env(context, "VROUTER_ID"), env(context, "SERVICE_ID")
    forced = (env(context, SOURCE_NAMES[0]) or "").lower() == "vrouter"
    reads_leases = service is None or forced
    identity = router if reads_leases else service
    return Source(router is not None, identity or "", reads_leases == (router is None))


def source_text(context: Context) -> str:
    """Return where the agent is told to look."""
    given = (env(context, name) for name in SOURCE_NAMES)
    return (next(filter(None, given), None) or "auto").strip().lower()


def has_unknown_source(context: Context) -> bool:
    """Say whether the agent is told to look where it can not."""
    return source_text(context) not in ("auto", "service", "vrouter")


def _our_source(inputs: Inputs) -> Source:
    context, told = inputs.context, source_text(inputs.context)
    router, service = env(context, "VROUTER_ID"), env(context, "SERVICE_ID") or told_service(inputs)
    leases = told == "vrouter" if told != "auto" else service is None and router is not None
    document = (inputs.onegate.get("service") or {}).get("SERVICE") or {}
    identity = (router or "") if leases else (service or str(document.get("id")))
    return Source(leases, identity)


def _bearers(inputs: Inputs, source: Source) -> Iterator[Bearer]:
    """Find what the reference looks through: what can not be read is passed over."""
    if source.leases:
        for network in _networks(inputs.onegate):
            for lease in _leases(network):
                if dig(lease, "BACKEND") == "YES":
                    yield Bearer(lease)
        return
    for vm in _vms(inputs.onegate):
        attributes = dig(vm, "VM", "USER_TEMPLATE")
        if attributes is not None:
            each(attributes)
            yield Bearer(attributes, whole(dig(vm, "VM", "LCM_STATE")) == _LEAVING)


def _vms(documents: Mapping[str, Any]) -> Iterator[Any]:
    found: dict[str, Any] = {}
    for role in each(dig(documents.get("service"), "SERVICE", "roles") or []):
        for node in each(dig(role, "nodes") or []):
            vm_id = dig(node, "vm_info", "VM", "ID")
            if vm_id is not None:
                found.setdefault(str(vm_id), _document(documents, "vms", "VM", vm_id))
    yield from filter(None, found.values())


def _document(documents: Mapping[str, Any], kind: str, key: str, wanted: object) -> Any:
    for document in documents.get(kind) or ():
        if str(dig(document, key, "ID")) == str(wanted):
            return document
    return None


def _networks(documents: Mapping[str, Any]) -> list[Any]:
    nics = dig(documents.get("vrouter"), "VROUTER", "TEMPLATE", "NIC")
    ids = [dig(nic, "NETWORK_ID") for nic in each(nics or [])]
    return list(_follow(documents, ids, ()))


def _follow(
    documents: Mapping[str, Any], ids: Collection[object], path: tuple[object, ...]
) -> Iterator[Any]:
    for network_id in ids:
        network = _document(documents, "vnets", "VNET", network_id)
        if network_id is None or network is None:
            continue
        if network_id in path:
            raise ReferenceFails("SystemStackError: networks reserved in a circle")
        yield network
        reserved = [dig(lease, "VNET") for lease in _leases(network)]
        yield from _follow(documents, reserved, (*path, network_id))


def _leases(network: Any) -> Iterator[Any]:
    for block in each(dig(network, "VNET", "AR_POOL", "AR") or []):
        yield from each(dig(block, "LEASES", "LEASE") or [])


def _our_bearers(inputs: Inputs, source: Source) -> Iterator[Bearer]:
    """Find what the agent looks through: all of the networks or nothing, VMs one by one."""
    documents = inputs.onegate
    if source.leases:
        leases = _our_leases(documents)
        yield from (Bearer(lease) for lease in leases if lease.get("BACKEND") == "YES")
        return
    service = _map(_map(documents.get("service")).get("SERVICE"))
    if whole(service.get("id")) is None:
        return
    wanted = {
        vm_id
        for role in _maps(service.get("roles"))
        for node in _maps(role.get("nodes"))
        if (vm_id := _vm_of(node)) is not None
    }
    for vm in (_map(document.get("VM")) for document in documents.get("vms") or ()):
        if whole(vm.get("ID")) in wanted:
            yield Bearer(_map(vm.get("USER_TEMPLATE")), whole(vm.get("LCM_STATE")) == _LEAVING)


def _vm_of(node: Mapping[str, Any]) -> int | None:
    found = whole(_map(_map(node.get("vm_info")).get("VM")).get("ID"))
    return whole(node.get("deploy_id")) if found is None else found


def _our_leases(documents: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    router = _map(documents.get("vrouter")).get("VROUTER")
    template = _map(_map(router).get("TEMPLATE"))
    waiting = [whole(nic.get("NETWORK_ID")) for nic in _maps(template.get("NIC"))]
    networks = {whole(_map(d.get("VNET")).get("ID")): d for d in documents.get("vnets") or ()}
    seen: dict[int, list[Mapping[str, Any]]] = {}
    while waiting:
        number = waiting.pop()
        if number is None or number in seen:
            continue
        if number not in networks:
            return []
        pool = _map(_map(networks[number].get("VNET")).get("AR_POOL"))
        seen[number] = [
            lease
            for block in _maps(pool.get("AR"))
            for lease in _maps(_map(block.get("LEASES")).get("LEASE"))
        ]
        waiting += [whole(lease.get("VNET")) for lease in seen[number]]
    return [lease for leases in seen.values() for lease in leases]


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: object) -> list[Mapping[str, Any]]:
    listed = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
    return [one for one in listed if isinstance(one, Mapping) and one]


def _said(bearer: Bearer, *, as_agent: bool) -> dict[int, dict[str, Any]]:
    """Return what a bearer says, by balancer; the agent takes numbers as it would write them."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in bearer.attributes.items():
        match = _KEY.match(name)
        if match and not (as_agent and (str(int(match[1])) != match[1] or _text(value) is None)):
            found.setdefault(int(match[1]), {})[match[2]] = value
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _stumble(bearers: Collection[Bearer], identity: str) -> None:
    """End as the reference does over a server without its balancer, or one without address."""
    options: dict[int, dict[str, Any]] = {}
    for bearer in bearers:
        for number, said in _said(bearer, as_agent=False).items():
            own = {key: value for key, value in said.items() if key in ("ID", "IP", "PORT")}
            if not _is_ours(said, identity, as_agent=False):
                continue
            if not own and not _SERVER_KEYS.isdisjoint(said):
                raise ReferenceFails("NoMethodError: a server without a balancer")
            if own:
                options.setdefault(number, {}).update(own)
    if not all(isinstance(option.get("IP"), str) for option in options.values()):
        raise ReferenceFails("NoMethodError: a balancer without an address")


def _is_ours(said: Mapping[str, Any], identity: str, *, as_agent: bool) -> bool:
    wanted = said.get("ID")
    if as_agent:
        return (_text(wanted) or "") in ("", identity)
    return not identity or wanted in (None, "", identity)


def _is_meant(context: Context, number: int, said: Mapping[str, Any], *, as_agent: bool) -> bool:
    address, port = said.get("IP"), said.get("PORT")
    if not as_agent:
        option = balancers.declared(context)[0].get(number, {})
        known = placeholders(context)
        return (
            isinstance(address, str)
            and port is not None
            and "IP" in option
            and (resolved(known, option["IP"]), option.get("PORT"))
            == (resolved(known, address), port)
        )
    own = _ours(context).get(number)
    if own is None or not address or not port:
        return False
    return _our_address(context, address.strip()) == own.address and port.strip() == own.port


def _our_address(context: Context, text: str) -> str | None:
    if text.startswith("<"):
        bare = re.sub(r">/[0-9]{1,2}\Z", ">", text)
        name = bare[1:-1].removeprefix("ONEAPP_VROUTER_")
        return our_placeholders(context).get(name) if is_placeholder(bare) else None
    return text.split("/")[0] if is_ipv4_with_prefix(text) else None


def _servers(
    context: Context, number: int, said: Mapping[str, Any], *, as_agent: bool
) -> Iterator[tuple[int, str, str]]:
    host, port = said.get("SERVER_HOST"), said.get("SERVER_PORT")
    if not as_agent:
        if host is not None and port is not None:
            yield number, str(host), str(port)
        return
    address, text = (_text(host) or "").strip(), (_text(port) or "").strip()
    if not is_ipv4(address) or not is_port(text) or not _is_of_a_server(address):
        return
    own = _ours(context).get(number)
    if own is None or (own.address, own.port) != (address, str(int(text))):
        yield number, address, str(int(text))


def _is_of_a_server(address: str) -> bool:
    first = int(address.split(".")[0])
    return address != "0.0.0.0" and first != 127 and not 224 <= first <= 239
