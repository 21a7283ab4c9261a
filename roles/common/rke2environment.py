"""The environment of RKE2's units: proxies, and what is reached without them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from roles.common.addresses import build_address_book
from roles.common.endpoints import ClusterNode
from roles.common.registries import HEADER, direct_hosts
from roles.common.rke2extra import parse_extra_config
from roles.common.rke2params import NodeParams, RunningParams

_ALWAYS_DIRECT = ("127.0.0.0/8", "localhost")
_CLUSTER_DOMAIN = "cluster.local"

# What keeps a meaning between double quotes.
# Source: systemd, src/basic/env-file.c (SHELL_NEED_ESCAPE); variables are not replaced there.
_ESCAPED = str.maketrans({c: f"\\{c}" for c in '"\\`$'})


def build_environment(params: RunningParams, node: ClusterNode) -> Mapping[str, str]:
    """Decide the environment: variable to value; empty where there is no proxy.

    A proxy's URL may hold a password, so the file must not be shown.
    """
    rke2 = params.rke2
    given = {"HTTP_PROXY": rke2.http_proxy, "HTTPS_PROXY": rke2.https_proxy}
    proxies = {name: proxy.reveal() for name, proxy in given.items() if proxy}
    return {**proxies, "NO_PROXY": ",".join(build_exceptions(params, node))} if proxies else {}


def build_exceptions(params: RunningParams, node: ClusterNode) -> tuple[str, ...]:
    """List what is reached without a proxy: the cluster and what it rests on, and what is given."""
    return tuple(dict.fromkeys((*_own_exceptions(params, node), *(params.rke2.no_proxy or ()))))


def _own_exceptions(params: RunningParams, node: ClusterNode) -> Iterator[str]:
    yield from _ALWAYS_DIRECT
    ends = (node.endpoints.supervisor, node.endpoints.control_plane)
    yield from (end.host for end in ends if end)
    yield from map(str, params.rke2.cluster_networks)
    yield from map(str, params.rke2.service_networks)
    yield ".svc"
    yield f".{_cluster_domain(params)}"
    for nic in build_address_book(params.opennebula, {}).nics:
        if nic.address and not nic.is_external:
            yield str(nic.address.network)
    yield from (str(vip.address) for _, vip in sorted(params.keepalived.vips.items()))
    for balancer in node.endpoints.balancers:
        if isinstance(balancer.address, IPv4Address):
            yield str(balancer.address)
    onegate = urlsplit(params.opennebula.onegate_endpoint or "").hostname
    if onegate:
        yield onegate
    yield from direct_hosts(params.registries)


def _cluster_domain(params: NodeParams) -> str:
    given = parse_extra_config(params.rke2.extra_config or "").get("cluster-domain")
    return given if isinstance(given, str) and given else _CLUSTER_DOMAIN


def render_environment(environment: Mapping[str, str]) -> str:
    """Write variables as systemd reads them from an EnvironmentFile; nothing for none."""
    if not environment:
        return ""
    return HEADER + "".join(f"{name}={quote(value)}\n" for name, value in environment.items())


def quote(value: str) -> str:
    """Quote a value so that systemd reads the very same."""
    return f'"{value.translate(_ESCAPED)}"'
