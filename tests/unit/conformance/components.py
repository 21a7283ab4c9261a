"""What the reference tells MetalLB and Cilium, and variations of what it is asked."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tests.conformance.reference import (
    ReferenceFails,
    env,
    integer,
    ip_address,
    is_on,
    split,
    uri_host,
)
from tests.conformance.vectors import Inputs

_POOL = {
    "apiVersion": "metallb.io/v1beta1",
    "kind": "IPAddressPool",
    "metadata": {"name": "edge"},
    "spec": {"addresses": ["203.0.113.0/28"]},
}
_L2 = {
    "apiVersion": "metallb.io/v1beta1",
    "kind": "L2Advertisement",
    "metadata": {"name": "edge"},
    "spec": {"ipAddressPools": ["edge"]},
}


def _encoded(*documents: Mapping[str, Any]) -> str:
    return base64.b64encode(yaml.safe_dump_all(documents).encode()).decode()


_RANGES = (
    "",
    "198.51.100.40",
    "198.51.100.41",
    "198.51.100.40-198.51.100.60",
    "10.77.9.1-10.77.9.9",
    " 10.77.8.1 - 10.77.8.4 ",
    "203.0.113.64-203.0.113.70",
    "10.77.7.7",
    "198.51.100.50-198.51.100.70",
    "198.51.100.60-198.51.100.40",
    "198.51.100.40-",
    "198.51.100.40-198.51.100.50-198.51.100.60",
    "198.51.100.40,10.77.9.20",
    "10.42.7.1",
    "2001:db8::1-2001:db8::9",
    "203.0.113.0/28",
    "nowhere",
)
METALLB: Mapping[str, Sequence[str]] = {
    "ONEAPP_K8S_METALLB_RANGE": _RANGES,
    "ONEAPP_K8S_METALLB_RANGE{n}": _RANGES,
    "ONEAPP_K8S_METALLB_RANGE_A": _RANGES[:8],
    "ONEAPP_K8S_LOADBALANCER_RANGE": ("", "", "198.51.100.90"),
    "ONEAPP_K8S_METALLB_CONFIG": (
        "",
        _encoded(_POOL),
        _encoded(_POOL, _L2),
        _encoded({"address-pools": []}),
        yaml.safe_dump(_POOL),
        "kind: IPAddressPool",
    ),
    "ONEAPP_VROUTER_ETH0_VIP0": ("", "198.51.100.200", "198.51.100.50"),
}
_BLOCKS = (
    "",
    "203.0.113.0/28",
    "203.0.113.64/26",
    "10.88.0.0/16",
    "10.89.0.0/16",
    "203.0.113.7",
    "203.0.113.0/-1",
    "203.0.113.0/28/29",
    "10.88.0.0/",
    "203.0.113.0/29",
    "2001:db8::/120",
    "203.0.113.128/28,10.90.0.0/16",
    "203.0.113.32-203.0.113.40",
    "10.43.7.0/24",
)
CILIUM: Mapping[str, Sequence[str]] = {
    "ONEAPP_K8S_CILIUM_RANGE": _BLOCKS,
    "ONEAPP_K8S_CILIUM_RANGE{n}": _BLOCKS,
    "ONEAPP_K8S_CILIUM_BGP_ENABLED": ("YES", "YES", "YES", "NO", "1", "true", "maybe", ""),
    "ONEAPP_VROUTER_ETH0_VIP0": ("", "198.51.100.200", "198.51.100.201", "198.51.100.200/24"),
    "ONEAPP_K8S_CONTROL_PLANE_EP": (
        "",
        "api.example.org:6443",
        "api.example.org",
        "10.77.0.9:7443",
        " api.example.org:6443",
        "api example.org",
    ),
    "ONEAPP_VNF_HAPROXY_LB1_PORT": ("", "6443", "7443", "70000"),
}


def _family(inputs: Inputs, stem: str) -> list[str]:
    return [text for key, text in inputs.context.items() if key.startswith(stem) and text]


def _is_ipv4(text: str) -> bool:
    try:
        return ip_address(text).is_ipv4
    except ReferenceFails:
        return False


def metallb(inputs: Inputs) -> dict[str, Any]:
    """Return the pools that the reference writes."""
    config = env(inputs.context, "ONEAPP_K8S_METALLB_CONFIG")
    if config is not None:
        return _own_pools(config)
    addresses = []
    for text in _family(inputs, "ONEAPP_K8S_METALLB_RANGE"):
        ends = [end.strip() for end in split(text, "-")]
        if 1 <= len(ends) <= 2 and all(_is_ipv4(end) for end in ends):
            addresses.append(f"{ends[0]}-{ends[-1]}")
    return {"pools": [{"name": "default", "addresses": addresses}], "l2_advertised": ["default"]}


def _own_pools(config: str) -> dict[str, Any]:
    try:
        documents = list(yaml.safe_load_all(base64.b64decode(config, validate=True)))
    except ValueError as error:
        raise ReferenceFails("Psych::SyntaxError") from error
    return {
        "pools": [
            {"name": one["metadata"]["name"], "addresses": one["spec"]["addresses"]}
            for one in documents
            if one.get("kind") == "IPAddressPool"
        ],
        "l2_advertised": [
            name
            for one in documents
            if one.get("kind") == "L2Advertisement"
            for name in one["spec"]["ipAddressPools"]
        ],
    }


def cilium(inputs: Inputs) -> dict[str, Any]:
    """Return the settings that the reference writes."""
    context = inputs.context
    port = env(context, "ONEAPP_VNF_HAPROXY_LB1_PORT") or "6443"
    vip = env(context, "ONEAPP_VROUTER_ETH0_VIP0") or ""
    end = env(context, "ONEAPP_K8S_CONTROL_PLANE_EP") or f"{vip}:{port}"
    host = uri_host(f"https://{end}")
    number = end.split("/")[0].partition(":")[2] or "443"
    announces = is_on(env(context, "ONEAPP_K8S_CILIUM_BGP_ENABLED"))
    blocks = []
    for text in _family(inputs, "ONEAPP_K8S_CILIUM_RANGE"):
        parts = split(text, "/")
        if len(parts) == 2 and _is_ipv4(parts[0]) and integer(parts[1]) is not None:
            blocks.append(text)
    return {
        "k8s_service_host": host or "",
        "k8s_service_port": number,
        "kube_proxy_replacement": True,
        "bgp_enabled": announces,
        "pool_blocks": blocks if announces else None,
    }
