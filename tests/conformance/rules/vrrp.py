"""VRRP as the reference decides it, with single aspects decided the agent's way instead.

An aspect is a deviation of its own exactly where deciding it the other way changes the outcome.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tests.conformance.reference import (
    Context,
    env,
    is_on,
    management,
    own_texts,
    read_list,
    to_i,
)
from tests.conformance.rules.base import (
    is_on_for_us,
    our_floating,
    our_management,
    told_service,
)
from tests.conformance.rules.lists import read_ours
from tests.conformance.vectors import Inputs

KEEPALIVED = "ONEAPP_VNF_KEEPALIVED_"
INTERFACES = f"{KEEPALIVED}INTERFACES"
ASPECTS = ("list", "switches", "order", "router-id-text", "router-id-source", "skipped")

_LEGACY_MARKS = r"ONEAPP_K8S_LOADBALANCER_(RANGE|CONFIG)"
_LEGACY_BALANCER = r"ONEAPP_VNF_HAPROXY_LB[0-9]+_IP"


@dataclass(frozen=True)
class Outcome:
    """What an instance comes to, as texts; enough to see whether two of them differ."""

    carrier: str
    router_id: str
    settings: tuple[str | None, ...]
    floating: frozenset[tuple[str, str]]
    route: str | None


def outcome(inputs: Inputs, ours: Collection[str]) -> tuple[frozenset[Outcome], frozenset[str]]:
    """Return the instances, and the links to bring up.

    Args:
        ours: The aspects that are decided the agent's way.
    """
    context = inputs.context
    chosen = _chosen(context, ours)
    groups: dict[str | int, list[str]] = {}
    for nic in chosen:
        if not ("skipped" in ours and _is_skipped(context, nic, ours)):
            groups.setdefault(_router_id(inputs, nic, ours), []).append(nic)
    bare = [nic for nic in chosen if nic not in own_texts(context)]
    routed = next((nic for nic in bare if env(context, f"{nic.upper()}_GATEWAY")), None)
    instances = (_instance(context, key, group, routed, ours) for key, group in groups.items())
    return frozenset(filter(None, instances)), frozenset(bare)


def _chosen(context: Context, ours: Collection[str]) -> list[str]:
    spec = env(context, INTERFACES) or ""
    left_out = our_management(context) if "switches" in ours else management(context)
    if {"list", "order"} <= set(ours):  # the reference may be unable to read the list at all
        return [
            nic
            for nic in dict.fromkeys(m.nic for m in read_ours(context, spec))
            if nic not in left_out
        ]
    by_reference = list(read_list(context, spec))
    found = by_reference
    if "list" in ours:
        by_us = dict.fromkeys(mention.nic for mention in read_ours(context, spec))
        found = [nic for nic in by_reference if nic in by_us]
        found += [nic for nic in by_us if nic not in found]
    if "order" in ours:
        found = sorted(found, key=lambda nic: int(nic.removeprefix("eth")))
    return [nic for nic in found if nic not in left_out]


def _is_skipped(context: Context, nic: str, ours: Collection[str]) -> bool:
    text = context.get(f"{KEEPALIVED}{nic.upper()}_SKIP")
    return is_on_for_us(text) if "switches" in ours else is_on(text)


def _router_id(inputs: Inputs, nic: str, ours: Collection[str]) -> str | int:
    context = inputs.context
    own = env(context, f"{KEEPALIVED}{nic.upper()}_VRID")
    given = own or env(context, f"{KEEPALIVED}VRID") or env(context, "VROUTER_KEEPALIVED_ID")
    if given is None:
        return derived_router_id(inputs, as_agent="router-id-source" in ours)
    return to_i(given) if "router-id-text" in ours else given


def derived_router_id(inputs: Inputs, *, as_agent: bool) -> int:
    """Return the router id where none is given."""
    context, service = inputs.context, env(inputs.context, "SERVICE_ID")
    vm = env(context, "VMID")
    if as_agent:
        vm = vm or env(context, "VM_ID")
        service = service or told_service(inputs)
        if is_legacy(context):
            return 1
    elif service is None:
        asked = (inputs.onegate.get("service") or {}).get("SERVICE") or {}
        service = asked.get("id")
    identity = service if service is not None else vm
    return 1 if identity is None else to_i(str(identity)) % 255 + 1


def is_legacy(context: Context) -> bool:
    """Say whether a context is of the 1.24 generation."""
    has_enabled = "ONEAPP_VNF_HAPROXY_ENABLED" in context
    return any(
        re.fullmatch(_LEGACY_MARKS, key)
        or (re.fullmatch(_LEGACY_BALANCER, key) and not has_enabled)
        for key in context
    )


def _instance(
    context: Context,
    router_id: str | int,
    group: Sequence[str],
    routed: str | None,
    ours: Collection[str],
) -> Outcome | None:
    own = own_texts(context)
    able = [nic for nic in group if nic in own and not _is_skipped(context, nic, ours)]
    if not able:
        return None
    carrier = able[0]
    floating = frozenset(key for key in our_floating(context) if key[0] in group)
    route = env(context, f"{routed.upper()}_GATEWAY") if routed and routed in group else None
    return Outcome(carrier, str(to_i(str(router_id))), settings(context, carrier), floating, route)


def settings(context: Context, carrier: str) -> tuple[str | None, ...]:
    """Return interval, priority and password of an instance, by its carrier."""
    older = {"PASSWORD": "VROUTER_KEEPALIVED_PASSWORD"}
    return tuple(
        env(context, f"{KEEPALIVED}{carrier.upper()}_{name}")
        or env(context, f"{KEEPALIVED}{name}")
        or env(context, older.get(name, ""))
        or default
        for name, default in (("INTERVAL", "1"), ("PRIORITY", "100"), ("PASSWORD", None))
    )


def _seconds(instances: Iterable[Outcome]) -> list[float]:
    texts = [(instance.settings[0] or "").strip() for instance in instances]
    return [float(text) for text in texts if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text)]


def has_too_long_interval(context: Context) -> bool:
    """An interval that VRRP 3 does not know, beside one that needs VRRP 3."""
    seconds = _seconds(outcome(Inputs(context), ASPECTS)[0])
    return any(not s.is_integer() for s in seconds) and any(s > 40.95 for s in seconds)


def has_password_in_version_3(context: Context) -> bool:
    """A password beside an interval that needs VRRP 3."""
    instances, _ = outcome(Inputs(context), ASPECTS)
    needs_version_3 = any(not s.is_integer() for s in _seconds(instances))
    return needs_version_3 and any(instance.settings[2] for instance in instances)
