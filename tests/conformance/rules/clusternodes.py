"""The rules of the areas about a node of the cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import AddressValueError, IPv6Address, ip_network

from tests.conformance.reference import Context, ReferenceFails, env
from tests.conformance.rules import cluster
from tests.conformance.rules.base import (
    Predicate,
    Rule,
    is_ipv4,
    is_ipv4_with_prefix,
    is_netmask,
    is_placeholder,
    is_port,
    is_word,
    our_floating,
)
from tests.conformance.rules.files import our_ipv4s
from tests.conformance.vectors import Inputs

AREAS = tuple(cluster.OUTCOMES)
_PLUGINS = ("cilium", "calico", "canal", "flannel", "none")
_HOST_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*\.?\Z")
_PROXY = re.compile(
    r"(?:(?:https?|socks5h?)://)?(?:(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+@)?"
    rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?/?\Z"
)
_NAMED_BEFORE = (
    "A wrong setting is named before anything is changed (design: parameters are checked all at"
    " once); RKE2 would start without it, or fail in a log that nobody reads."
)

# Aspect: what the reference does, what we do, why.
_ASPECTS: Mapping[str, tuple[str, str, str]] = {
    "older-names": (
        "does not know ETH<n>_VROUTER_IP, ONEAPP_VNF_LB0_IP, ONEAPP_K8S_PORT and"
        " ONEAPP_K8S_PODS_NETWORK on a node",
        "take them where the current name is not given",
        "Templates of older generations must boot unchanged, and gateway and nodes have to agree"
        " on an address.",
    ),
    "endpoint-address-text": (
        "writes a floating or balancer address on with its prefix length, and a port with blanks",
        "take the address and the port themselves",
        "An endpoint is no network.",
    ),
    "endpoint-text": (
        "takes an endpoint as the rest of a URL, whatever is in it: a scheme in front becomes the"
        " host, a missing port 443",
        "read host and port, with or without https:// in front; a missing port is the balancer's",
        "The name in the certificate and the port that nodes join must be those that were meant.",
    ),
    "endpoint-fallback": (
        "goes on with an endpoint without a host where no public floating address is given",
        "take the balancer's own address, else ONEAPP_K8S_ADDRESS, else the first master's",
        "design: without a gateway endpoints fall back to the first master's address (the older"
        " Kubernetes appliance).",
    ),
    "certificate-names": (
        "separates the certificate's names by commas alone and keeps empty ones",
        "separate them by commas, blanks and semicolons, and pass over empty ones",
        "A list that ends in a comma, where OneFlow had nothing to put behind it, must not put an"
        " empty name into the certificate.",
    ),
    "supervisor-in-certificate": (
        "puts the control plane's host into the certificate, and not that of the join endpoint",
        "put both hosts in",
        "Nodes check the name they join by; a join endpoint of another name would be refused.",
    ),
    "network-text": (
        "writes networks on as they are, blanks and masks included",
        "write them with prefix lengths and without blanks",
        "All masters have to agree on the text; RKE2 compares it.",
    ),
    "node-switch-words": (
        "reads YES and 1 as on, every other word as off",
        "read true and on as on too, and pass over blanks",
        "A switch that a person set to on is on.",
    ),
    "plug-in": (
        "takes Cilium where nothing is said, whatever the template's generation, and compares its"
        " name letter by letter",
        "take Canal in templates of the 1.24 generation, and the names in any case",
        "A node of the 1.24 generation's cluster must keep its plug-in (parameters:"
        " implied_before).",
    ),
    "private-network-nic": (
        "uses the first NIC that has its address",
        "use the NIC in whose network the private gateway is, where the context tells the network",
        "The cluster lives in the private network; the order of NICs in a template is no choice of"
        " a network.",
    ),
    "server-port": (
        "registers itself as a backend with the balancer's port, or that plus 32000",
        "register the ports that RKE2 and the ingress listen on: 9345, 6443, 32443 and 32080",
        "Another port of the balancer does not move what listens behind it.",
    ),
    "own-balancer": (
        "registers another of its addresses, or an empty one, where its own is the balancer's",
        "register the address that the node has inside the cluster",
        "An empty address is a broken backend; the gateway drops a backend that is the balancer"
        " itself.",
    ),
    "kubeconfig-keeps-name": (
        "looks the control plane's name up and freezes the address it found into the published"
        " credentials",
        "keep the name",
        "A name is given so that the address may change, and the certificate holds the name.",
    ),
    "proxy-exceptions": (
        "excepts the endpoints and the cluster's ranges from the proxy, or what the user gives"
        " instead",
        "except the networks of the node, all floating addresses, OneGate, .svc and the cluster's"
        " domain too, and add what the user gives",
        "Joining goes to the supervisor and OneGate in the private network; a user's list must not"
        " cut a node off from its cluster.",
    ),
}


# ---- what the agent refuses


def _has_bad_address(context: Context) -> bool:
    balancers = {
        text
        for key, text in context.items()
        if text and re.fullmatch(r"ONEAPP_VNF_HAPROXY_LB[0-9]+_IP", key)
    }
    master = env(context, cluster.JOIN_ADDRESS)
    return (
        not all(map(is_ipv4_with_prefix, our_floating(context).values()))
        or not all(map(_is_balancer_address, balancers))
        or not all(
            is_sound(text.strip())
            for pattern, is_sound in _ADDRESSES.items()
            for key, text in context.items()
            if text and re.fullmatch(pattern, key)
        )
        or not _is_host((master or "a").strip())
    )


_ADDRESSES = {
    r"FALLBACK_GW|ETH[0-9]+_(NETWORK|GATEWAY)": is_ipv4,
    r"ETH[0-9]+_MASK": is_netmask,
}


def _is_balancer_address(text: str) -> bool:
    bare = text.strip()
    if bare.startswith("<"):
        return is_placeholder(re.sub(r">/[0-9]{1,2}\Z", ">", bare))
    return is_ipv4_with_prefix(bare)


def _is_host(text: str) -> bool:
    if re.fullmatch(r"[0-9.]+", text):
        return is_ipv4(text)
    return len(text) <= 253 and bool(_HOST.match(text))


def _is_ipv6(text: str) -> bool:
    try:
        return IPv6Address(text).scope_id is None
    except AddressValueError:
        return False


def _has_bad_port(context: Context) -> bool:
    given = [
        text
        for key, text in context.items()
        if text and re.fullmatch(r"ONEAPP_VNF_HAPROXY_LB[0-9]+_PORT", key)
    ]
    if not env(context, "ONEAPP_VNF_HAPROXY_LB1_PORT"):
        older = cluster.older_port(context)
        given += [older] if older else []
    return not all(is_port(text.strip()) for text in given)


def _has_bad_endpoint(context: Context) -> bool:
    given = (env(context, name) for name in (cluster.SUPERVISOR, cluster.CONTROL_PLANE))
    return not all(_is_endpoint(text.strip()) for text in given if text)


def _is_endpoint(text: str) -> bool:
    found = re.match(r"(?:https://)?(?:\[([^\]]*)\]|([^:/\[\]]+))(?::([^/]*))?/?\Z", text)
    if not found or not (found[3] is None or is_port(found[3])):
        return False
    return _is_ipv6(found[1]) if found[1] is not None else _is_host(found[2].strip())


def _has_bad_name(context: Context) -> bool:
    words = filter(None, re.split(r"[\s,;]+", env(context, cluster.SANS) or ""))
    return not all(
        _is_ipv6(word) if ":" in word else _is_host(word.removeprefix("*.")) for word in words
    )


def _has_bad_network(context: Context) -> bool:
    return any(_networks(context, name) is None for name in (cluster.PODS, cluster.SERVICES))


def _networks(context: Context, name: str) -> list[str] | None:
    """Return a network or a pair of them, written as the agent does; None where it is neither."""
    settings = cluster.Settings(context, cluster.ASPECTS)
    older = cluster.OLDER_PODS if name == cluster.PODS else ""
    default = "10.42.0.0/16" if name == cluster.PODS else "10.43.0.0/16"
    words = settings.networks(name, older, default).split(",")
    try:
        versions = [ip_network(word).version for word in words]
    except ValueError:
        return None
    is_pair = len(set(versions)) == len(versions)
    return words if is_pair and all("/" in word for word in words) else None


def _have_networks_no_place(inputs: Inputs) -> bool:
    pods = [ip_network(one) for one in _networks(inputs.context, cluster.PODS) or ()]
    services = [ip_network(one) for one in _networks(inputs.context, cluster.SERVICES) or ()]
    return {one.version for one in pods} != {one.version for one in services} or any(
        pod.version == service.version and pod[0] <= service[-1] and service[0] <= pod[-1]
        for pod in pods
        for service in services
    )


def _has_bad_switch(context: Context) -> bool:
    return not all(is_word(env(context, name) or "NO") for name in _SWITCHES)


_SWITCHES = (cluster.MULTUS, cluster.CLOUD_CONTROLLER)


def _has_bad_plugin(context: Context) -> bool:
    text = env(context, cluster.PLUGIN)
    return text is not None and text.strip().lower() not in _PLUGINS


def _has_bad_proxy(context: Context) -> bool:
    given = (env(context, name) for name in cluster.PROXIES)
    return not all(_is_proxy(text.strip()) for text in given if text)


def _is_proxy(text: str) -> bool:
    found = _PROXY.match(text)
    return bool(found) and 0 < int(found[1] or 1) <= 65535


_REFUSALS: Mapping[str, tuple[Predicate, str, str]] = {
    "malformed-gateway-address": (
        lambda inputs: _has_bad_address(inputs.context),
        "takes any text for a floating address, a balancer's or a gateway's",
        "refuse what is no IPv4 address, and for a balancer no placeholder either",
    ),
    "malformed-port": (
        lambda inputs: _has_bad_port(inputs.context),
        "takes any text for a balancer's port, or any number: 70000, and 0x1bb, which counts as 0"
        " elsewhere",
        "refuse what is no port from 1 to 65535",
    ),
    "malformed-endpoint": (
        lambda inputs: _has_bad_endpoint(inputs.context),
        "takes any text for an endpoint",
        "refuse what is no host with a port",
    ),
    "malformed-name": (
        lambda inputs: _has_bad_name(inputs.context),
        "puts any text into the certificate's names",
        "refuse what is neither a host name nor an address",
    ),
    "malformed-network": (
        lambda inputs: _has_bad_network(inputs.context),
        "writes any text on as the pods' or services' network",
        "refuse what is no network, or no pair of an IPv4 and an IPv6 one",
    ),
    "networks-overlap": (
        lambda inputs: not _has_bad_network(inputs.context) and _have_networks_no_place(inputs),
        "founds a cluster whose pods and services share addresses, or have no kind in common",
        "refuse it",
    ),
    "unclear-node-switch": (
        lambda inputs: _has_bad_switch(inputs.context),
        "reads every word but YES and 1 as off",
        "refuse a word that is neither on (yes, true, on, 1) nor off (no, false, off, 0)",
    ),
    "unknown-plug-in": (
        lambda inputs: _has_bad_plugin(inputs.context),
        "writes any text on as the network plug-in",
        "refuse a plug-in that RKE2 does not have",
    ),
    "malformed-proxy": (
        lambda inputs: _has_bad_proxy(inputs.context),
        "writes any text on as a proxy, without quotes",
        "refuse what is no URL: Go, in which RKE2 is written, ignores it without a word",
    ),
}
_OF_SETTINGS = frozenset(_REFUSALS) - {"networks-overlap"}


def _refuses(area: str, inputs: Inputs) -> bool:
    names = _OF_SETTINGS if area == "oneke_endpoints" else _REFUSALS
    return any(_REFUSALS[name][0](inputs) for name in names)


def _has_no_result(area: str, inputs: Inputs) -> bool:
    """Say whether the agent refuses, has no address, or knows of nobody to join."""
    if _refuses(area, inputs):
        return True
    return area != "oneke_endpoints" and (_is_nowhere(inputs) or _knows_nobody(inputs))


def _is_nowhere(inputs: Inputs) -> bool:
    return not our_ipv4s(cluster.with_links(inputs))


def _knows_nobody(inputs: Inputs) -> bool:
    """Say whether a node that is to join knows no address to join by."""
    if inputs.call["role"] == "init_master":
        return False
    return cluster.Settings(inputs.context, cluster.ASPECTS).endpoint(0) is None


def _reference_fails(area: str, inputs: Inputs) -> bool:
    try:
        cluster.OUTCOMES[area](inputs, ())
    except ReferenceFails:
        return True
    return False


def _where_it_works(area: str, predicate: Predicate) -> Predicate:
    return lambda inputs: not _reference_fails(area, inputs) and predicate(inputs)


def _changed_by(area: str, aspect: str) -> Predicate:
    return lambda inputs: (
        not _has_no_result(area, inputs)
        and not _reference_fails(area, inputs)
        and cluster.is_changed_by(area, inputs, aspect)
    )


def cluster_node_rules() -> Iterator[Rule]:
    """Yield the rules of these areas."""
    for area in AREAS:
        for name, (predicate, theirs, own) in _REFUSALS.items():
            if area != "oneke_endpoints" or name in _OF_SETTINGS:
                yield Rule(area, name, theirs, own, _NAMED_BEFORE, _where_it_works(area, predicate))
        for aspect in cluster.aspects_of(area):
            yield Rule(area, aspect, *_ASPECTS[aspect], _changed_by(area, aspect))
        yield _stumbling_rule(area)
        if area != "oneke_endpoints":
            yield _waiting_rule(area)


def _stumbling_rule(area: str) -> Rule:
    return Rule(
        area,
        "reference-gives-up",
        "ends over a name that does not resolve, an endpoint that is no part of a URL, or a"
        " balancer without an address, after host name and node name were changed and published",
        "go on: a name stays a name, an endpoint is read as host and port, and without a gateway"
        " the first master's address is the endpoint",
        "None of these keeps a cluster from being founded or joined.",
        lambda inputs: _reference_fails(area, inputs) and not _has_no_result(area, inputs),
    )


def _waiting_rule(area: str) -> Rule:
    return Rule(
        area,
        "waits-for-a-master",
        "has RKE2 join at an endpoint without a host, for ever",
        "wait until a master publishes its address, and say so",
        "There is nobody to join yet.",
        _where_it_works(
            area,
            lambda inputs: (
                not _refuses(area, inputs) and not _is_nowhere(inputs) and _knows_nobody(inputs)
            ),
        ),
    )
