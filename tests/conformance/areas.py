"""One adapter per area: a vector's inputs in, the agent's decision out, in the vector's structure.

Every adapter goes the way the agent goes: parameters are parsed with the packaged drop-ins, the
role checks what does not fit together, and the pure builders decide. Each is restricted to what
its area is
about: whether a service is switched on does not change what a start of it would do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from appliance.context import Context, parse_one_env
from appliance.decision import parse_for_role, with_service
from appliance.errors import OneGateError, OnekeError, ParameterProblems, Problem
from appliance.identity import Identity
from appliance.parameters import Entry, build_view
from appliance.paths import packaged_services
from appliance.registry import make_role
from appliance.service import Service, load_services
from appliance.values import Rejected, parse_interface_list
from roles.common.addresses import AddressBook, build_address_book, select_interfaces
from roles.vnf.backends import (
    Registrations,
    merge,
    read_leases,
    read_service,
    with_registrations,
)
from roles.vnf.haproxy import BalancerModel, build_balancers
from roles.vnf.keepalived import SYNC_GROUP, VrrpInstance, build_vrrp
from roles.vnf.nat import build_forwarding, build_nat, is_router
from roles.vnf.params import VnfParams
from roles.vnf.watcher import follows, uses_leases
from tests.conformance.cleaning import decide_cleaner
from tests.conformance.clusternodes import (
    decide_config,
    decide_endpoints,
    decide_registration,
)
from tests.conformance.components import decide_cilium, decide_metallb
from tests.conformance.documents import leases_of, service_id_of, service_of
from tests.conformance.electing import decide_detect_node
from tests.conformance.nodenetwork import decide_node_network
from tests.conformance.ownaddresses import decide_external_ipv4s
from tests.conformance.vectors import Inputs

_ROLE = "vnf"

# Service to the variable of its interface list, and whether an unset or empty list means every NIC.
INTERFACE_LISTS: Mapping[str, tuple[str, bool]] = {
    "haproxy": ("ONEAPP_VNF_HAPROXY_INTERFACES", True),
    "lvs": ("ONEAPP_VNF_LB_INTERFACES", True),
    "keepalived": ("ONEAPP_VNF_KEEPALIVED_INTERFACES", True),
    "dns": ("ONEAPP_VNF_DNS_INTERFACES", True),
    "dhcp4": ("ONEAPP_VNF_DHCP4_INTERFACES", True),
    "router4": ("ONEAPP_VNF_ROUTER4_INTERFACES", True),
    "nat4": ("ONEAPP_VNF_NAT4_INTERFACES_OUT", False),
    "sdnat4": ("ONEAPP_VNF_SDNAT4_INTERFACES", False),
}


@cache
def _services() -> dict[str, Service]:
    return load_services([packaged_services()])


@cache
def _list_entry() -> Entry:
    entries = _services()["haproxy"].entries
    return next(entry for entry in entries if entry.type == "interface_list")


def _parse(inputs: Inputs) -> tuple[VnfParams, tuple[Problem, ...]]:
    """Parse a gateway's parameters; settings of services the agent does not have play no part.

    As in a run, the context is completed with the service's id, where OneGate tells it.
    """
    used = {field.name for field in fields(VnfParams)}
    services = {name: service for name, service in _services().items() if name in used}
    told = Identity(service_id=service_id_of(inputs.onegate))
    context = with_service(Context(inputs.context, "vector"), told)
    parsed, _ = parse_for_role(_ROLE, context, services)
    return build_view(VnfParams, parsed.values), parsed.problems


def _decide(inputs: Inputs, *, with_balancers: bool = False) -> tuple[VnfParams, AddressBook]:
    """Parse and check a gateway's parameters.

    Args:
        with_balancers: Check the balancers even where HAProxy is not switched on.

    Raises:
        ParameterProblems: The agent would refuse this context.
    """
    params, problems = _parse(inputs)
    enabled = params.haproxy.enabled or with_balancers
    params = replace(params, haproxy=replace(params.haproxy, enabled=enabled))
    problems += make_role(_ROLE, _services()).check(params).problems
    if problems:
        raise ParameterProblems(problems)
    return params, build_address_book(params.opennebula, params.keepalived.vips)


def list_text(inputs: Inputs) -> str | None:
    """Return the list that a vector of the area `interfaces` is about; None for no list."""
    if "service" not in inputs.call:
        spec = inputs.call.get("spec")
        return None if spec is None else str(spec)
    variable, empty_means_all = INTERFACE_LISTS[inputs.call["service"]]
    return inputs.context.get(variable) or ("" if empty_means_all else None)


def decide_interfaces(inputs: Inputs) -> dict[str, Any]:
    """Resolve one interface list."""
    book = _read_addresses(inputs)
    text = list_text(inputs)
    try:
        items = None if text is None else parse_interface_list(text, _list_entry())
    except Rejected as rejected:
        raise OnekeError(f"{text}: {rejected}") from rejected
    selection = select_interfaces(items, book)
    if selection.unknown:
        raise OnekeError(f"unknown: {', '.join(map(str, selection.unknown))}")
    return {
        "interfaces": [
            {"nic": one.link, "addr": one.address, "port": one.port} for one in selection.mentions
        ],
        "selected": list(selection.links(book)),
    }


def _read_addresses(inputs: Inputs) -> AddressBook:
    """Parse a context for its addresses alone."""
    params, problems = _parse(replace(inputs, context=_without_lists(inputs.context)))
    if problems:
        raise ParameterProblems(problems)
    return build_address_book(params.opennebula, params.keepalived.vips)


def _without_lists(context: Mapping[str, str]) -> dict[str, str]:
    variables = {variable for variable, _ in INTERFACE_LISTS.values()}
    return {key: text for key, text in context.items() if key not in variables}


def decide_addresses(inputs: Inputs) -> dict[str, Any]:
    """Tell own addresses, floating addresses and endpoints; who may hold them is not asked here."""
    book = _read_addresses(inputs)
    found: dict[str, dict[str, dict[str, str]]] = {"addrs": {}, "vips": {}, "endpoints": {}}
    kinds = {"IP": "addrs", "VIP": "vips", "EP": "endpoints"}
    for name, address in book.placeholders().items():
        number, kind = re.fullmatch(r"ETH(\d+)_(IP|VIP|EP)\d+", name).groups()
        found[kinds[kind]].setdefault(f"eth{number}", {})[name] = str(address)
    return found


def decide_keepalived(inputs: Inputs) -> dict[str, Any]:
    """Tell the VRRP instances."""
    params, book = _decide(inputs)
    model = build_vrrp(params.keepalived, params.opennebula, book)
    return {
        "sync_groups": {SYNC_GROUP: [instance.name for instance in model.instances]},
        "instances": {one.name: _instance(one, model.version) for one in model.instances},
        "links_brought_up": list(model.links_to_raise),
    }


def _instance(instance: VrrpInstance, version: int) -> dict[str, Any]:
    password = instance.password if version == 2 else None  # as keepalived.conf.j2 writes it
    return {
        "interface": instance.link,
        "initial_state": "BACKUP",
        "virtual_router_id": instance.vrid,
        "priority": instance.priority,
        "advert_int": instance.interval,
        "auth": {"type": "PASS", "pass": password} if password else None,
        "vips": [{"address": str(vip.address), "dev": vip.link} for vip in instance.vips],
        "routes": [f"0.0.0.0/0 via {route.via}" for route in instance.routes],
    }


def decide_haproxy(inputs: Inputs) -> dict[str, Any]:
    """Tell what the balancers listen on and what stands behind them, after one look at OneGate."""
    params, book = _decide(inputs, with_balancers=True)
    declared = build_balancers(params.haproxy, book)
    known = _registrations(inputs, params, declared, book) if follows(params) else {}
    balancers = with_registrations(declared, known).balancers
    return {
        "frontends": [{"name": one.name, "bind": f"{one.address}:{one.port}"} for one in balancers],
        "backends": {
            one.name: [f"{server.host}:{server.port}" for server in one.servers]
            for one in balancers
        },
    }


def _registrations(
    inputs: Inputs, params: VnfParams, declared: BalancerModel, book: AddressBook
) -> Registrations:
    """Tell what one look at OneGate shows to a gateway that knew nothing before.

    OneGate failing is no error; what is known stays, and nothing is.
    """
    opennebula = params.opennebula
    try:
        if uses_leases(params):
            router_id = opennebula.virtual_router_id
            identity = "" if router_id is None else str(router_id)
            seen = read_leases(leases_of(inputs.onegate), declared, book, identity)
        else:
            service = service_of(inputs.onegate)
            service_id = opennebula.service_id
            identity = str(service.service_id if service_id is None else service_id)
            seen = read_service(service, opennebula.vm_id, declared, book, identity)
    except OneGateError:
        return {}
    return merge({}, seen)


def decide_nat4(inputs: Inputs) -> dict[str, Any]:
    """Tell what the packet filter's table would hold."""
    params, book = _decide(inputs)
    enabled = params.nat4.enabled
    if inputs.call.get("action") == "stop":
        return {"enabled": enabled, "masquerade": [], "dnat": []}
    table = build_nat(params.nat4, book)
    return {
        "enabled": enabled,
        "masquerade": list(table.masquerade),
        "dnat": [
            {
                "proto": protocol,
                "dest": str(forward.destination) if forward.destination else None,
                "dport": forward.port,
                "to": forward.target,
            }
            for forward in table.forwards
            for protocol in ("tcp", "udp")
        ],
    }


def decide_router4(inputs: Inputs) -> dict[str, Any]:
    """Tell the kernel settings for forwarding."""
    params, book = _decide(inputs)
    starting = inputs.call.get("action") != "stop"
    return {
        "enabled": is_router(params.router4, params.opennebula),
        "sysctl": build_forwarding(params.router4, book, enabled=starting),
    }


def decide_one_env(inputs: Inputs) -> dict[str, Any]:
    """Read a file of the contextualization packages."""
    return {"env": parse_one_env(str(inputs.call.get("text") or ""))}


def same_text(value: object) -> str:
    """Bring numbers and the texts that stand for them to one form."""
    text = str(value)
    if re.fullmatch(r"\s*[+-]?[0-9]{1,15}(\.[0-9]+)?\s*", text):
        return f"{float(text):g}" if "." in text else str(int(text))
    return text


def plain(value: object) -> object:
    """Bring a decision to a form that compares: numbers as texts, lists in their order."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if value is None else value if isinstance(value, bool) else same_text(value)


def in_any_order(values: Iterable[object]) -> list[object]:
    """Sort what carries no order."""
    return sorted(map(plain, values), key=repr)


def _normal_interfaces(decision: Mapping[str, Any]) -> object:
    selected = in_any_order(decision["selected"])
    return {"interfaces": plain(decision["interfaces"]), "selected": selected}


def _normal_keepalived(decision: Mapping[str, Any]) -> object:
    groups = {name: in_any_order(of) for name, of in decision["sync_groups"].items() if of}
    instances = {
        name: plain(
            {
                **one,
                "vips": in_any_order(one["vips"]),
                "routes": in_any_order(map(addresses_of_route, one.get("routes") or ())),
            }
        )
        for name, one in decision["instances"].items()
    }
    links = in_any_order(decision["links_brought_up"])
    return {"sync_groups": groups, "instances": instances, "links_brought_up": links}


def addresses_of_route(route: object) -> list[str]:
    """Return a route's addresses and networks, however it is written; its link plays no part."""
    words = re.split(r"[^0-9A-Za-z./]+", str(route))
    networks = ["0.0.0.0/0" if word == "default" else word for word in words]
    return sorted(word for word in networks if re.fullmatch(r"\d+(\.\d+){3}(/\d+)?", word))


def _normal_haproxy(decision: Mapping[str, Any]) -> object:
    return {
        "frontends": in_any_order(decision["frontends"]),
        "backends": {name: in_any_order(of) for name, of in decision["backends"].items()},
    }


def _normal_nat4(decision: Mapping[str, Any]) -> object:
    """Group the forwards by protocol and port, where their order matters."""
    by_port: dict[str, list[object]] = {}
    for rule in decision["dnat"]:
        port = f"{rule['proto']} {same_text(rule['dport'])}"
        by_port.setdefault(port, []).append(plain([rule["dest"], rule["to"]]))
    return {
        "enabled": decision["enabled"],
        "masquerade": in_any_order(decision["masquerade"]),
        "dnat": by_port,
    }


def _normal_endpoints(decision: Mapping[str, Any]) -> object:
    balancers = in_any_order(decision["load_balancers"])
    return plain(
        {**decision, "load_balancers": balancers, "tls_sans": in_any_order(decision["tls_sans"])}
    )


def _normal_config(decision: Mapping[str, Any]) -> object:
    """Sort the certificate's names, whose order says nothing."""
    configs = {
        name: {**decision[name], "tls-san": in_any_order(decision[name].get("tls-san", ()))}
        for name in ("config", "first_start_config")
        if name in decision
    }
    return plain({**decision, **configs})


def _normal_metallb(decision: Mapping[str, Any]) -> object:
    """Sort pools, and the addresses in each."""
    pools = [{**one, "addresses": in_any_order(one["addresses"])} for one in decision["pools"]]
    announced = in_any_order(decision["l2_advertised"])
    return {"pools": in_any_order(pools), "l2_advertised": announced}


def _normal_cilium(decision: Mapping[str, Any]) -> object:
    """Sort the blocks of the pool."""
    blocks = decision["pool_blocks"]
    return plain({**decision, "pool_blocks": None if blocks is None else in_any_order(blocks)})


@dataclass(frozen=True)
class Area:
    """An area that is due.

    Attributes:
        decide: Inputs to decision; raises OnekeError where there is none.
        normal: A decision, recorded or ours, in a form that compares: what carries no order is
            sorted.
    """

    decide: Callable[[Inputs], dict[str, Any]]
    normal: Callable[[Mapping[str, Any]], object] = plain


AREAS: Mapping[str, Area] = {
    "one_env": Area(decide_one_env, lambda decision: dict(decision["env"])),
    "interfaces": Area(decide_interfaces, _normal_interfaces),
    "addresses": Area(decide_addresses),
    "keepalived": Area(decide_keepalived, _normal_keepalived),
    "haproxy": Area(decide_haproxy, _normal_haproxy),
    "nat4": Area(decide_nat4, _normal_nat4),
    "router4": Area(decide_router4),
    "external_ipv4s": Area(decide_external_ipv4s),
    "node_network": Area(decide_node_network),
    "detect_node": Area(decide_detect_node),
    "oneke_endpoints": Area(decide_endpoints, _normal_endpoints),
    "node_config": Area(decide_config, _normal_config),
    "backend_registration": Area(decide_registration),
    "cleaner": Area(decide_cleaner, lambda decision: in_any_order(decision["delete"])),
    "metallb": Area(decide_metallb, _normal_metallb),
    "cilium": Area(decide_cilium, _normal_cilium),
}

NOT_DUE: Mapping[str, str] = {}

NOT_APPLYING: Mapping[str, str] = {
    "failover": "gateway nodes are symmetric: a failover starts and stops nothing",
    "service_selection": "gateway nodes are symmetric: being active selects no services",
    "start_order": "units are ordered by systemd",
    "lvs": "the kernel's balancer is not part of this agent",
}
