"""A model of the reference: whole decisions, in the structure the vectors record.

It shares with the rules only what Ruby's own functions do (tests.conformance.reference); a
decision is put together here a second time, so that rules and oracle have to agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.conformance.areas import INTERFACE_LISTS
from tests.conformance.reference import (
    Context,
    ReferenceFails,
    dig,
    each,
    env,
    exports,
    floating_addresses,
    integer,
    is_on,
    management,
    nics,
    own_addresses,
    own_texts,
    passes_as_ipv4,
    read_list,
    split,
    to_i,
    undump,
)
from tests.conformance.vectors import Inputs
from tests.unit.conformance import cluster_nodes, cluster_oracle, components
from tests.unit.conformance.node_network import node_network

Decision = dict[str, Any]
Endpoint = tuple[int, str, str]
_SYSCTL = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.forwarding",
    "net.ipv4.conf.default.forwarding",
)


def decide(area: str, inputs: Inputs) -> Decision:
    """Return what the reference would be recorded with."""
    try:
        return _DECIDE[area](inputs)
    except ReferenceFails as error:
        return {"error": {"kind": "uncaught", "detail": str(error)}}


def _names(context: Context) -> tuple[dict[str, dict[str, str]], ...]:
    own = {nic: {f"ETH{nic[3:]}_IP0": text} for nic, text in own_addresses(context).items()}
    floating = {
        nic: {f"ETH{nic[3:]}_VIP{index}": text for index, text in by_index.items()}
        for nic, by_index in floating_addresses(context).items()
    }
    endpoints: dict[str, dict[str, str]] = {}
    for kind, found in (("_IP", own), ("_VIP", floating)):
        for nic, named in found.items():
            renamed = {name.replace(kind, "_EP"): text for name, text in named.items()}
            endpoints.setdefault(nic, {}).update(renamed)
    return own, floating, endpoints


def addresses(inputs: Inputs) -> Decision:
    own, floating, endpoints = _names(inputs.context)
    return {"addrs": own, "vips": floating, "endpoints": endpoints}


def interfaces(inputs: Inputs) -> Decision:
    context = inputs.context
    if "service" in inputs.call:
        variable, empty_means_all = INTERFACE_LISTS[inputs.call["service"]]
        spec = env(context, variable) or ("" if empty_means_all else None)
    else:
        spec = inputs.call.get("spec")
    found = read_list(context, spec)
    ordered = sorted(found, key=lambda nic: (len(nic), nic))
    return {
        "interfaces": [
            {"nic": one.nic, "addr": one.address, "port": one.port}
            for nic in ordered
            for one in found[nic]
        ],
        "selected": [nic for nic in ordered if nic not in management(context)],
    }


def keepalived(inputs: Inputs) -> Decision:
    context = inputs.context
    prefix = "ONEAPP_VNF_KEEPALIVED_"
    common = {
        "VRID": env(context, f"{prefix}VRID") or env(context, "VROUTER_KEEPALIVED_ID"),
        "PASSWORD": env(context, f"{prefix}PASSWORD")
        or env(context, "VROUTER_KEEPALIVED_PASSWORD"),
        "PRIORITY": env(context, f"{prefix}PRIORITY") or "100",
        "INTERVAL": env(context, f"{prefix}INTERVAL") or "1",
    }
    if common["VRID"] is None:
        service = env(context, "SERVICE_ID")
        if service is None and inputs.onegate.get("service"):
            service = str(inputs.onegate["service"]["SERVICE"]["id"])
        identity = service or env(context, "VMID")
        common["VRID"] = ("derived", to_i(identity) % 255 + 1 if identity else 1)
    floating = floating_addresses(context)
    marked = management(context)
    by_router_id: dict[Any, list[str]] = {}
    chosen = [
        nic
        for nic in read_list(context, env(context, f"{prefix}INTERFACES") or "")
        if nic not in marked
    ]

    def option(nic: str, name: str) -> Any:
        return env(context, f"{prefix}{nic.upper()}_{name}") or common.get(name)

    for nic in chosen:
        by_router_id.setdefault(option(nic, "VRID"), []).append(nic)
    bare = [nic for nic in chosen if nic not in own_texts(context)]
    gateway_nic = next((nic for nic in bare if env(context, f"{nic.upper()}_GATEWAY")), None)
    instances = {}
    for router_id, members in by_router_id.items():
        carrier = next((n for n in members if n not in bare and not is_on(option(n, "SKIP"))), None)
        if carrier is None:
            continue
        password = option(carrier, "PASSWORD")
        instances[carrier.upper()] = {
            "interface": carrier,
            "initial_state": "BACKUP",
            "virtual_router_id": router_id[1] if isinstance(router_id, tuple) else router_id,
            "priority": option(carrier, "PRIORITY"),
            "advert_int": option(carrier, "INTERVAL"),
            "auth": {"type": "PASS", "pass": password} if password else None,
            "vips": [
                {"address": text, "dev": nic}
                for nic in members
                for text in floating.get(nic, {}).values()
            ],
            "routes": [
                {"dst": "default", "via": env(context, f"{nic.upper()}_GATEWAY"), "dev": nic}
                for nic in members
                if nic == gateway_nic
            ],
        }
    groups = {"VRouter": list(instances)} if chosen else {}
    return {"sync_groups": groups, "instances": instances, "links_brought_up": bare}


def haproxy(inputs: Inputs) -> Decision:
    context = inputs.context
    known = {
        name: text
        for group in _names(context)
        for named in group.values()
        for name, text in named.items()
    }
    prefix = "ONEAPP_VNF_HAPROXY_LB"
    options: dict[int, dict[str, str]] = {}
    servers: dict[tuple[int, int], dict[str, str]] = {}
    for key, text in context.items():
        if found := re.fullmatch(rf"{prefix}(\d+)_(IP|PORT|PROTOCOL|METHOD|SCHEDULER)", key):
            options.setdefault(int(found[1]), {})[found[2]] = text
        if found := re.fullmatch(
            rf"{prefix}(\d+)_SERVER(\d+)_(HOST|PORT|WEIGHT|ULIMIT|LLIMIT)", key
        ):
            servers.setdefault((int(found[1]), int(found[2])), {})[found[3]] = text
    endpoints: dict[Endpoint, dict[tuple[str, str], None]] = {}
    for (number, _), server in servers.items():
        if number not in options:
            raise ReferenceFails("NoMethodError")
        if {"IP", "PORT"} <= set(options[number]) and {"HOST", "PORT"} <= set(server):
            endpoint = (number, options[number]["IP"], options[number]["PORT"])
            endpoints.setdefault(endpoint, {})[server["HOST"], server["PORT"]] = None
    if not all("IP" in option for option in options.values()):
        raise ReferenceFails("NoMethodError")

    def resolved(text: str) -> str:
        placeholder = re.fullmatch("<(.+)>", text)
        return (split(known.get(placeholder[1], text) if placeholder else text, "/") or [""])[0]

    by_endpoint: dict[Endpoint, dict[tuple[str, str], None]] = {}
    for (number, ip, port), of_balancer in endpoints.items():
        by_endpoint.setdefault((number, resolved(ip), port), {}).update(of_balancer)
    declared = {(n, resolved(o["IP"]), o["PORT"]) for n, o in options.items() if "PORT" in o}
    if is_on(context.get("ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED")):
        for (number, ip, port), of_balancer in _dynamic_endpoints(inputs).items():
            if (number, resolved(ip), port) in declared:
                by_endpoint.setdefault((number, resolved(ip), port), {}).update(of_balancer)
    chosen = set(read_list(context, env(context, f"{prefix[:-2]}INTERFACES") or "")) - management(
        context
    )
    allowed = [text for nic, text in own_texts(context).items() if nic in chosen]
    for by_index in floating_addresses(context).values():
        allowed += [text.split("/")[0] for text in by_index.values()]
    decision: Decision = {"frontends": [], "backends": {}}
    for (number, address, port), of_balancer in by_endpoint.items():
        if address and address in allowed:
            name = f"lb{number}_{port}".rstrip()
            bind = f"{address}:{port}".rstrip()
            decision["frontends"].append({"name": name, "bind": bind})
            decision["backends"][name] = [f"{host}:{its}".rstrip() for host, its in of_balancer]
    return decision


def _dynamic_endpoints(inputs: Inputs) -> dict[Endpoint, dict[tuple[str, str], None]]:
    """Return what VMs or leases register, by balancer number, address and port as written."""
    context, documents = inputs.context, inputs.onegate
    router, service = env(context, "VROUTER_ID"), env(context, "SERVICE_ID")
    objects = _vrouter_networks(documents) if router else _service_vms(documents)
    api = (context.get("ONEAPP_VNF_LB_ONEGATE_API") or "").lower()
    says: list[Any] = []
    if service is not None and api != "vrouter":
        own_id: str | None = service
        says = [dig(vm, "VM", "USER_TEMPLATE") for vm in objects]
    else:
        own_id = router
        for network in objects:
            for block in each(dig(network, "VNET", "AR_POOL", "AR") or []):
                for lease in each(dig(block, "LEASES", "LEASE") or []):
                    says += [lease] if dig(lease, "BACKEND") == "YES" else []
    all_options: dict[int, dict[str, Any]] = {}
    found: dict[Endpoint, dict[tuple[str, str], None]] = {}
    for said in filter(None, says):
        options: dict[int, dict[str, Any]] = {}
        servers: dict[int, dict[str, Any]] = {}
        for key, value in said.items():
            if match := re.fullmatch(r"ONEGATE_HAPROXY_LB(\d+)_(ID|IP|PORT)", key):
                options.setdefault(int(match[1]), {})[match[2]] = value
            if match := re.fullmatch(
                r"ONEGATE_HAPROXY_LB(\d+)_SERVER_(HOST|PORT|WEIGHT|ULIMIT|LLIMIT)", key
            ):
                servers.setdefault(int(match[1]), {})[match[2]] = value
        for number in list(options) if own_id else ():
            wanted = options[number].get("ID")
            if wanted is not None and wanted != "" and wanted != own_id:
                del options[number]
                servers.pop(number, None)
        for number, server in servers.items():
            if number not in options:
                raise ReferenceFails("NoMethodError")
            address, bound = options[number].get("IP"), options[number].get("PORT")
            host, port = server.get("HOST"), server.get("PORT")
            if isinstance(address, str) and isinstance(bound, str) and None not in (host, port):
                of_endpoint = found.setdefault((number, address, bound), {})
                of_endpoint[str(host), str(port)] = None
        for number, option in options.items():
            all_options.setdefault(number, {}).update(option)
    if any(not isinstance(option.get("IP"), str) for option in all_options.values()):
        raise ReferenceFails("NoMethodError")
    return found


def _service_vms(documents: Mapping[str, Any]) -> list[Any]:
    answers = {str(dig(vm, "VM", "ID")): vm for vm in reversed(documents.get("vms") or [])}
    ids = []
    for role in each(dig(documents.get("service"), "SERVICE", "roles") or []):
        nodes = each(dig(role, "nodes") or [])
        ids += [dig(node, "vm_info", "VM", "ID") for node in nodes]
    return [answers[str(one)] for one in dict.fromkeys(ids) if str(one) in answers]


def _vrouter_networks(documents: Mapping[str, Any]) -> list[Any]:
    answers = {str(dig(net, "VNET", "ID")): net for net in reversed(documents.get("vnets") or [])}
    found: list[Any] = []

    def follow(network_ids: list[Any], depth: int) -> None:
        if depth > len(answers):
            raise ReferenceFails("SystemStackError")
        for network in (answers[str(one)] for one in network_ids if str(one) in answers):
            found.append(network)
            for block in each(dig(network, "VNET", "AR_POOL", "AR") or []):
                leases = each(dig(block, "LEASES", "LEASE") or [])
                follow([dig(lease, "VNET") for lease in leases], depth + 1)

    nics = each(dig(documents.get("vrouter"), "VROUTER", "TEMPLATE", "NIC") or [])
    follow([dig(nic, "NETWORK_ID") for nic in nics], 0)
    return found


def nat4(inputs: Inputs) -> Decision:
    chains: dict[str, Any] | None = None
    for earlier in inputs.previous:
        try:
            chains = _nat4_step(earlier, chains)
        except ReferenceFails as error:
            is_start = earlier.call.get("action") != "stop"
            empty: dict[str, Any] | None = {"masquerade": [], "dnat": []} if is_start else None
            chains = error.args[1] if len(error.args) > 1 else chains or empty
    chains = _nat4_step(inputs, chains)
    enabled = is_on(inputs.context.get("ONEAPP_VNF_NAT4_ENABLED"))
    return {"enabled": enabled, "masquerade": chains["masquerade"], "dnat": chains["dnat"]}


def _nat4_step(inputs: Inputs, chains: dict[str, Any] | None) -> dict[str, Any]:
    context = inputs.context
    if inputs.call.get("action") == "stop":
        if chains is None:
            raise ReferenceFails("RuntimeError")
        return {"masquerade": [], "dnat": []}
    new = dict(chains or {"masquerade": [], "dnat": []})
    known = {
        n: t.split("/")[0]
        for group in _names(context)
        for named in group.values()
        for n, t in named.items()
    }
    spec = env(context, "ONEAPP_VNF_NAT4_INTERFACES_OUT")
    masquerade = [nic for nic in read_list(context, spec) if nic not in management(context)]
    forwards = {}
    for key, text in context.items():
        found = re.fullmatch(r"ONEAPP_VNF_NAT4_PORT_FWD(\d+)", key)
        parts = _forward_parts(text, known) if found and text.strip() else None
        if found and parts:
            forwards[int(found[1])] = parts
    if forwards:
        new["dnat"] = []
    for destination, port, to, to_port in forwards.values():
        number, new_number = (
            _iptables_port(port),
            _iptables_port(to_port) if to_port is not None else None,
        )
        if number is None or "/" in to or (to_port is not None and new_number is None):
            raise ReferenceFails("RuntimeError", new)
        target = to if to_port is None else f"{to}:{new_number}"
        for protocol in ("tcp", "udp"):
            new["dnat"] = [
                *new["dnat"],
                {"proto": protocol, "dest": destination, "dport": number, "to": target},
            ]
    return {**new, "masquerade": masquerade or new["masquerade"]}


def _forward_parts(text: str, known: Mapping[str, str]) -> tuple[Any, ...] | None:
    parts: list[str | None] = [part.strip() for part in split(text, ":")]
    if not parts or not parts[0] or len(parts) > 4:
        return None
    if re.fullmatch(r"<ETH\d+_(IP|EP|VIP)\d+>", parts[0]):
        parts[0] = known.get(parts[0].strip("<>"), parts[0])
    elif not passes_as_ipv4(parts[0]):
        if integer(parts[0]) is None:
            return None
        parts.insert(0, None)
    destination, port, to, to_port = [*parts, None, None, None][:4]
    if destination and not passes_as_ipv4(destination):
        return None
    if not port or integer(port) is None or not to or not passes_as_ipv4(to):
        return None
    if to_port and integer(to_port) is None:
        return None
    return destination, port, to, to_port


def _iptables_port(text: str) -> int | None:
    word = text.removeprefix("+")
    if not re.fullmatch("0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*", word):
        return None
    number = int(word, 0) if not re.fullmatch("0[0-7]+", word) else int(word, 8)
    return number if number <= 65535 else None


def router4(inputs: Inputs) -> Decision:
    context = inputs.context
    switch = env(context, "ONEAPP_VNF_ROUTER4_ENABLED")
    settings = dict.fromkeys(_SYSCTL, 0)
    settings |= {f"net.ipv4.conf.{nic}.forwarding": 0 for nic in nics(context)}
    if inputs.call.get("action") != "stop":
        chosen = set(read_list(context, env(context, "ONEAPP_VNF_ROUTER4_INTERFACES") or ""))
        settings |= {f"net.ipv4.conf.{nic}.forwarding": 1 for nic in chosen - management(context)}
    enabled = is_on(switch) if switch else env(context, "VROUTER_ID") is not None
    return {"enabled": enabled, "sysctl": settings}


def one_env(inputs: Inputs) -> Decision:
    return {"env": {name: undump(raw) for name, raw in exports(str(inputs.call["text"]))}}


def external_ipv4s(inputs: Inputs) -> Decision:
    try:
        nics_of_vm = inputs.onegate["vm"]["VM"]["TEMPLATE"]["NIC"]
        found = []
        for nic in nics_of_vm if inputs.call["ip_addr"] else ():
            for link in inputs.call["ip_addr"]:
                is_same = link["address"].lower() == nic["MAC"].lower()
                infos = link["addr_info"] if is_same else ()
                pairs = [(info.get("family"), info.get("local")) for info in infos]
                if ("inet", nic.get("IP")) in pairs:
                    found.append(nic["IP"])
                    break
    except (KeyError, TypeError, AttributeError) as error:
        raise ReferenceFails(repr(error)) from error
    if not found:
        raise ReferenceFails("exit status 1")
    return {"ipv4s": found}


_DECIDE: Mapping[str, Callable[[Inputs], Decision]] = {
    "addresses": addresses,
    "interfaces": interfaces,
    "keepalived": keepalived,
    "haproxy": haproxy,
    "nat4": nat4,
    "router4": router4,
    "one_env": one_env,
    "external_ipv4s": external_ipv4s,
    "node_network": node_network,
    "detect_node": cluster_oracle.detect_node,
    "cleaner": cluster_oracle.cleaner,
    "oneke_endpoints": cluster_nodes.endpoints,
    "node_config": cluster_nodes.config,
    "backend_registration": cluster_nodes.registration,
    "metallb": components.metallb,
    "cilium": components.cilium,
}
