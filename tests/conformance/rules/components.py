"""The rules of the areas `metallb` and `cilium`: what the reference tells them, and the agent.

Source: OpenNebula one-apps (Apache-2.0), appliances/OneKE, as far as the vectors show it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import yaml

from tests.conformance import reference
from tests.conformance.reference import Context, ReferenceFails, env, is_on, split, uri_host
from tests.conformance.rules import cluster
from tests.conformance.rules.base import (
    Rule,
    is_ipv4_with_prefix,
    is_on_for_us,
    is_port,
    is_word,
    our_floating,
)
from tests.conformance.vectors import Inputs

METALLB, CILIUM = "ONEAPP_K8S_METALLB_RANGE", "ONEAPP_K8S_CILIUM_RANGE"
CONFIG, OLDER_CONFIG = "ONEAPP_K8S_METALLB_CONFIG", "ONEAPP_K8S_LOADBALANCER_CONFIG"
BGP = "ONEAPP_K8S_CILIUM_BGP_ENABLED"
_OLDER_RANGE = "ONEAPP_K8S_LOADBALANCER_RANGE"
_PORT = "ONEAPP_VNF_HAPROXY_LB1_PORT"
_HOST = re.compile(r"(?:https://)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?(?::([0-9]+))?/?\Z")
_EXAMPLES: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("metallb", "address-in-use"): {METALLB: "10.42.0.0-10.42.0.9"},
    ("metallb", "unsound-config"): {
        CONFIG: base64.b64encode(b"address-pools: [{name: default}]\n").decode()
    },
    ("metallb", "plain-config"): {
        CONFIG: "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: edge},"
        " spec: {addresses: [203.0.113.0/28]}}"
    },
    ("metallb", "older-names"): {_OLDER_RANGE: "198.51.100.40"},
    ("metallb", "networks-and-ipv6"): {METALLB: "2001:db8::40-2001:db8::60"},
    ("metallb", "several-in-one"): {METALLB: "198.51.100.40, 198.51.100.50"},
    ("metallb", "no-empty-pool"): {},
    ("cilium", "address-in-use"): {BGP: "YES", CILIUM: "10.43.7.0/24"},
    ("cilium", "malformed-setting"): {cluster.VIP: "198.51.100.200", BGP: "maybe"},
    ("cilium", "overlapping-ranges"): {
        cluster.VIP: "198.51.100.200",
        BGP: "YES",
        f"{CILIUM}0": "203.0.113.0/28",
        f"{CILIUM}1": "203.0.113.0/29",
    },
    ("cilium", "bgp-switch"): {cluster.VIP: "198.51.100.200", BGP: "true"},
    ("cilium", "older-names"): {"ETH0_VROUTER_IP": "198.51.100.200"},
    ("cilium", "endpoint-address-text"): {cluster.VIP: "198.51.100.200/24"},
    ("cilium", "reference-gives-up"): {cluster.CONTROL_PLANE: " api.example.org:6443"},
}


@dataclass(frozen=True)
class Range:
    """Addresses from the first to the last, as the agent reads them."""

    first: IPv4Address | IPv6Address
    last: IPv4Address | IPv6Address
    network: str = ""

    def __str__(self) -> str:
        """Write it as the agent does."""
        return self.network or f"{self.first}-{self.last}"

    def meets(self, other: Range) -> bool:
        """Say whether an address lies in both."""
        if self.first.version != other.first.version:
            return False
        return max(int(self.first), int(other.first)) <= min(int(self.last), int(other.last))


def read_range(word: str) -> Range | None:
    """Read an address, first-last or a network; None for what the agent refuses."""
    try:
        if "/" in word:
            network = ip_network(word)
            is_plain = re.fullmatch(r"[0-9]{1,3}", word.split("/")[1])
            return Range(network[0], network[-1], str(network)) if is_plain else None
        ends = [ip_address(end.strip()) for end in word.split("-")]
    except ValueError:
        return None
    is_sound = len(ends) < 3 and ends[0].version == ends[-1].version and "%" not in word
    return Range(ends[0], ends[-1]) if is_sound and int(ends[0]) <= int(ends[-1]) else None


def words_of(text: str) -> list[str]:
    """Take a list apart as the agent does."""
    return [word for word in (piece.strip() for piece in re.split("[,;]", text)) if word]


def given(context: Context, *stems: str) -> list[str]:
    """Return the texts of a family, an older name only where the current one is missing."""
    found: dict[str, str] = {}
    for stem in stems:
        for key, text in context.items():
            if key.startswith(stem) and text:
                found.setdefault(key.removeprefix(stem), text)
    return [found[key] for key in sorted(found)]


def _joined(ranges: list[Range]) -> list[Range]:
    found: list[Range] = []
    for new in ranges:
        meeting = [old for old in found if old.meets(new)]
        parts = [*meeting, new]
        first = min((one.first for one in parts), key=int)
        last = max((one.last for one in parts), key=int)
        same = [one for one in parts if (one.first, one.last) == (first, last)]
        found = [old for old in found if old not in meeting]
        found.append(same[0] if same else Range(first, last))
    return found


# ---- texts that only the agent has something against


def _is_malformed(texts: list[str]) -> bool:
    return any(
        not words_of(text) or any(read_range(word) is None for word in words_of(text))
        for text in texts
    )


def _ranges(texts: list[str]) -> list[Range]:
    found = [read_range(word) for text in texts for word in words_of(text)]
    return [one for one in found if one is not None]


def _is_in_use(context: Context, texts: list[str]) -> bool:
    floating = [text.strip().split("/")[0] for text in our_floating(context).values()]
    pods = env(context, cluster.PODS) or env(context, cluster.OLDER_PODS) or "10.42.0.0/16"
    services = env(context, cluster.SERVICES) or "10.43.0.0/16"
    taken = _ranges([*floating, pods, services])
    return any(one.meets(other) for one in _ranges(texts) for other in taken)


def _own_config(context: Context) -> str | None:
    text = env(context, CONFIG) or env(context, OLDER_CONFIG)
    return None if text is None or not _decoded(text).strip() else _decoded(text)


def _decoded(text: str) -> str:
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return text


def _config_documents(text: str) -> list[Any] | None:
    """Return the documents of an own configuration; None for what the agent refuses."""
    try:
        documents = [one for one in yaml.safe_load_all(text) if one is not None]
    except (yaml.YAMLError, ValueError):
        return None
    is_sound = all(
        isinstance(one, dict)
        and {"apiVersion", "kind", "metadata"} <= set(one)
        and one["kind"] != "ConfigMap"
        for one in documents
    )
    return documents if documents and is_sound else None


# ---- whole decisions

Outcome = tuple[Any, ...]


def _pools(documents: list[Any]) -> Outcome:
    pools = sorted(
        (one["metadata"]["name"], sorted(one["spec"]["addresses"]))
        for one in documents
        if one["kind"] == "IPAddressPool"
    )
    announced = [one for one in documents if one["kind"] == "L2Advertisement"]
    return pools, sorted(name for one in announced for name in one["spec"]["ipAddressPools"])


def _metallb_of_agent(context: Context) -> Outcome | None:
    """Return what the agent decides; None where it refuses."""
    texts, config = given(context, METALLB, _OLDER_RANGE), _own_config(context)
    if _is_malformed(texts) or _is_in_use(context, texts):
        return None
    if config is not None:
        documents = _config_documents(config)
        return None if documents is None else _pools(documents)
    addresses = sorted(map(str, _joined(_ranges(texts))))
    return ([("default", addresses)], ["default"]) if addresses else ([], [])


def _metallb_of_reference(context: Context) -> Outcome:
    config = env(context, CONFIG)
    if config is not None:
        documents = _config_documents(decode64(config))
        return _pools(documents) if documents is not None else ("something else",)
    return [("default", sorted(their_ranges(given(context, METALLB))))], ["default"]


def decode64(text: str) -> str:
    """Decode as the reference does: what is no base64 becomes what YAML does not read."""
    if _decoded(text) == text:
        raise ReferenceFails("Psych::SyntaxError")
    return _decoded(text)


def their_ranges(texts: list[str]) -> list[str]:
    """Return what the reference makes of ranges: what it does not understand is gone."""
    parts = [[end.strip() for end in split(text, "-")] for text in texts]
    return [
        f"{ends[0]}-{ends[-1]}" for ends in parts if len(ends) in (1, 2) and all(map(_is_v4, ends))
    ]


def _is_v4(text: str) -> bool:
    try:
        return reference.ip_address(text).is_ipv4
    except ReferenceFails:
        return False


def _cilium_of_agent(context: Context) -> Outcome | None:
    texts = given(context, CILIUM)
    if _has_bad_setting(context) or _is_malformed(texts) or _is_in_use(context, texts):
        return None
    announces = is_on_for_us(env(context, BGP) or "NO")
    blocks = sorted(map(str, _joined(_ranges(texts)))) if announces else None
    return _our_api(context), announces, blocks


def _our_api(context: Context) -> tuple[str, str]:
    own = {key: text for key, text in context.items() if key != cluster.JOIN_ADDRESS}
    end = cluster.Settings(own, cluster.ASPECTS).endpoint(1) or "127.0.0.1:6443"
    host, _, port = end.rpartition(":")
    return host, str(int(port))


def _cilium_of_reference(context: Context) -> Outcome:
    announces = is_on(env(context, BGP) or "NO")
    blocks = sorted(their_blocks(given(context, CILIUM))) if announces else None
    return their_api(context), announces, blocks


def their_api(context: Context) -> tuple[str, str]:
    """Return host and port of the control plane as the reference reads them."""
    end = cluster.Settings(context, ()).endpoint(1) or ""
    host = uri_host(f"https://{end}") or ""
    port = re.search(r":([0-9]+)\Z", end.split("/")[0])
    return host, str(int(port[1])) if port else "443"


def their_blocks(texts: list[str]) -> list[str]:
    """Return what the reference makes of networks: what it does not understand is gone."""
    found = []
    for text in texts:
        parts = split(text, "/")
        if len(parts) == 2 and _is_v4(parts[0]) and reference.integer(parts[1]) is not None:
            found.append(text)
    return found


def _has_bad_setting(context: Context) -> bool:
    port, end = env(context, _PORT), env(context, cluster.CONTROL_PLANE)
    found = _HOST.match(end.strip()) if end else None
    return (
        any(not is_ipv4_with_prefix(text) for text in our_floating(context).values())
        or (port is not None and not is_port(port.strip()))
        or (end is not None and (not found or not is_port(found[1] or "1")))
        or not is_word(env(context, BGP) or "NO")
    )


# ---- the rules

_OF_AGENT = {"metallb": _metallb_of_agent, "cilium": _cilium_of_agent}
_OF_REFERENCE = {"metallb": _metallb_of_reference, "cilium": _cilium_of_reference}
_WHERE_IT_ENDS = ("plain-config", "reference-gives-up")
_NAMED_BEFORE = (
    "A wrong setting is named before anything is changed (design: parameters are checked all at"
    " once); a controller that lacks addresses says so in a log that nobody reads."
)


def _texts(area: str, context: Context) -> list[str]:
    return given(context, METALLB, _OLDER_RANGE) if area == "metallb" else given(context, CILIUM)


def _is_other(area: str, text: str) -> bool:
    """Say whether a text holds what the reference's kind of ranges has not."""
    words = words_of(text)
    if area == "cilium":
        return any("/" not in word or ":" in word for word in words)
    return any("/" in word or ":" in word for word in words)


def _overlaps(area: str, context: Context) -> bool:
    ranges = _ranges(_texts(area, context))
    return len(_joined(ranges)) < len(ranges)


def _rule(
    area: str, name: str, said: tuple[str, str, str], concerns: Callable[[Context], bool]
) -> Rule:
    """Return a rule about what a difference comes from; `refuse` where there is no result."""
    refuses = said[1].startswith("refuse")

    def predicate(inputs: Inputs) -> bool:
        ours = _OF_AGENT[area](inputs.context)
        if (ours is None) != refuses:
            return False
        try:
            theirs = _OF_REFERENCE[area](inputs.context)
        except ReferenceFails:
            return name in _WHERE_IT_ENDS
        return name not in _WHERE_IT_ENDS and ours != theirs and concerns(inputs.context)

    return Rule(area, name, *said, predicate)


def component_rules() -> Iterator[Rule]:
    """Yield the rules of these areas."""
    for area in _OF_AGENT:
        yield from _range_rules(area)
    yield from _metallb_rules()
    yield from _cilium_rules()


def _range_rules(area: str) -> Iterator[Rule]:
    yield _rule(
        area,
        "malformed-range",
        (
            "drops a range or network that it does not understand without a message, or writes on"
            " what the controller refuses",
            "refuse what is no address, first-last or network",
            _NAMED_BEFORE,
        ),
        lambda context: _is_malformed(_texts(area, context)),
    )
    yield _rule(
        area,
        "address-in-use",
        (
            "gives out addresses that are virtual addresses, or of the pods' or services' network",
            "refuse a range that overlaps one of them",
            _NAMED_BEFORE,
        ),
        lambda context: _is_in_use(context, _texts(area, context)),
    )
    yield _rule(
        area,
        "overlapping-ranges",
        (
            "writes ranges on that share addresses",
            "join them into one",
            "The controller refuses them, and no address is given out at all.",
        ),
        lambda context: _overlaps(area, context),
    )
    yield _rule(
        area,
        "several-in-one",
        (
            "drops a parameter that holds more than one range",
            "take ranges between commas or semicolons",
            "What they mean is plain.",
        ),
        lambda context: any(re.search("[,;]", text) for text in _texts(area, context)),
    )


def _metallb_rules() -> Iterator[Rule]:
    area = "metallb"
    yield _rule(
        area,
        "networks-and-ipv6",
        (
            "drops networks and IPv6 addresses without a message",
            "take them",
            "MetalLB gives them out.",
        ),
        lambda context: any(_is_other(area, text) for text in _texts(area, context)),
    )
    yield _rule(
        area,
        "unsound-config",
        (
            "writes any YAML into the manifest",
            "refuse what is no resource of Kubernetes, and the ConfigMap of before 0.13",
            "MetalLB does not read the older form, and would have no addresses.",
        ),
        lambda context: (
            (config := _own_config(context)) is not None and _config_documents(config) is None
        ),
    )
    yield _rule(
        area,
        "plain-config",
        (
            "ends over a configuration that is not in base64",
            "take it as it is",
            "parameters: decode where the value is base64, else take it as it is.",
        ),
        lambda context: True,
    )
    yield _rule(
        area,
        "older-names",
        (
            "does not know ONEAPP_K8S_LOADBALANCER_RANGE and _CONFIG",
            "take them where the current name is not given",
            "Templates of older generations must boot unchanged.",
        ),
        lambda context: any(
            text and key.startswith((_OLDER_RANGE, OLDER_CONFIG)) for key, text in context.items()
        ),
    )
    yield _rule(
        area,
        "no-empty-pool",
        (
            "writes a pool without addresses",
            "write none",
            "MetalLB refuses it, at every attempt anew.",
        ),
        lambda context: not _texts(area, context) and _own_config(context) is None,
    )


def _cilium_rules() -> Iterator[Rule]:
    area = "cilium"
    yield _rule(
        area,
        "malformed-setting",
        (
            "writes any endpoint on, and reads every word but YES and 1 as off",
            "refuse what is no address, endpoint, port or switch",
            _NAMED_BEFORE,
        ),
        _has_bad_setting,
    )
    yield _rule(
        area,
        "addresses-and-ipv6",
        (
            "drops what is no IPv4 network without a message",
            "take single addresses, first-last and IPv6 too",
            "Cilium's pools take them.",
        ),
        lambda context: any(_is_other(area, text) for text in _texts(area, context)),
    )
    yield _rule(
        area,
        "bgp-switch",
        (
            "reads YES and 1 as on, every other word as off",
            "read true and on as on too, and pass over blanks",
            "A switch that a person set to on is on.",
        ),
        lambda context: is_on(env(context, BGP)) != is_on_for_us(env(context, BGP)),
    )
    yield _rule(
        area,
        "endpoint",
        (
            "takes an endpoint without a port for one with 443, writes an empty host where there is"
            " no floating address, a prefix length on with the address, and knows no older names",
            "take the balancer's port, the node itself (127.0.0.1, where RKE2 answers on every"
            " node), the address alone, and older names",
            "Without the API the plug-in does not start, and no node becomes Ready.",
        ),
        lambda context: _our_api(context) != their_api(context),
    )
    yield _rule(
        area,
        "reference-gives-up",
        (
            "ends over an endpoint that is no part of a URL",
            "read it as host and port",
            "Blanks around it keep no cluster from being founded.",
        ),
        lambda context: True,
    )


def example_of_component(area: str, rule: str) -> Inputs | None:
    """Return inputs that a rule concerns, where the vectors show none."""
    changes = _EXAMPLES.get((area, rule))
    return None if changes is None else Inputs(changes)
