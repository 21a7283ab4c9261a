"""The way to OneGate before the role is known.

A node of the private network may reach OneGate only through the gateway pair, and it has no route
there before its role has set one. So a default route through the private virtual address is set
first, until the next boot; the role replaces or removes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address
from urllib.parse import urlsplit

from appliance.context import Context
from appliance.networkactions import RuntimeDefaultRoute
from appliance.system.network import Link, link_towards

_GATEWAY = re.compile(r"ETH\d+_GATEWAY\Z")
_VIAS = ("ONEAPP_VROUTER_ETH1_VIP0", "ETH1_VROUTER_IP", "FALLBACK_GW")


def build_first_route(context: Context, links: Sequence[Link]) -> RuntimeDefaultRoute | None:
    """Decide whether a route is needed to ask OneGate, and which.

    Returns:
        The route; None where the context names a gateway, OneGate is on-link or unknown, or the
        private virtual address lies in none of the networks this VM is in.
    """
    endpoint = context.get("ONEGATE_ENDPOINT")
    if endpoint is None or any(
        _GATEWAY.match(key) and value for key, value in context.values.items()
    ):
        return None
    onegate = _address(_host_of(endpoint))
    if onegate is not None and (onegate.is_loopback or link_towards(onegate, links)):
        return None
    for key in _VIAS:
        via = _address((context.get(key) or "").partition("/")[0])
        if via is not None:
            link = link_towards(via, links)
            return RuntimeDefaultRoute(via, link) if link else None
    return None


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url.strip()).hostname
    except ValueError:  # brackets that do not match; told as a problem of the parameter
        return None


def _address(text: str | None) -> IPv4Address | None:
    try:
        return IPv4Address(text) if text else None
    except AddressValueError:
        return None
