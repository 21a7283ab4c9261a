"""What the reference decides on a node's network, and variations of what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.conformance.reference import env, is_on, passes_as_ipv4
from tests.conformance.vectors import Inputs

POOL: Mapping[str, Sequence[str]] = {
    "ONEAPP_VROUTER_ETH1_VIP0": (
        "",
        "10.77.0.200",
        "10.77.0.200/16",
        "10.77.0.200/40",
        "10.77.0.10",
        "10.99.0.1",
        " 10.77.0.200",
        "10.077.0.200",
        "fd00::200",
        "<ETH1_VIP0>",
        "vip",
    ),
    "FALLBACK_GW": ("", "10.77.0.1", "10.99.0.2", "2001:db8::1", "10.77.0.1/16", "gw"),
    "FALLBACK_DNS": ("", "10.77.0.53", "1.1.1.1", "2001:db8::53", " 1.1.1.1", "dns"),
    "ONEAPP_VNF_DNS_ENABLED": ("", "YES", "NO", "true", "on", "1", "0", "maybe", " YES"),
    "ETH0_IP": ("", "10.77.0.10", "10.77.0.10/24", "198.51.100.10"),
    "ETH0_MASK": ("", "255.255.0.0", "255.255.255.252"),
    "ETH1_IP": ("", "10.99.3.4"),
}


def node_network(inputs: Inputs) -> dict[str, Any]:
    """Return the default route and the name server that the reference sets."""
    context = inputs.context
    floating = env(context, "ONEAPP_VROUTER_ETH1_VIP0")
    gateway = floating or env(context, "FALLBACK_GW")
    resolver = floating or env(context, "FALLBACK_DNS")
    is_wanted = is_on(env(context, "ONEAPP_VNF_DNS_ENABLED") or "YES")
    return {
        "default_gateway": gateway if passes_as_ipv4(gateway) else None,
        "nameserver": resolver if is_wanted and passes_as_ipv4(resolver) else None,
    }
