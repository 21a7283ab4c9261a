"""The typed view of the gateway's parameters, one class per drop-in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from appliance.secret import Secret
from appliance.values import AddressWithPrefix, Endpoint, InterfaceItem, Placeholder, PortForward
from roles.common.opennebula import OpenNebulaParams
from roles.common.rke2params import AirgapParams


@dataclass(frozen=True)
class KeepalivedParams:
    """Drop-in `keepalived`; the mappings `nic_*` go from interface number to value."""

    enabled: bool
    vips: Mapping[tuple[int, int], AddressWithPrefix]
    vrid: int | None
    password: Secret | None
    interval: float
    priority: int
    interfaces: tuple[InterfaceItem, ...] | None
    nic_vrids: Mapping[int, int]
    nic_passwords: Mapping[int, Secret]
    nic_intervals: Mapping[int, float]
    nic_priorities: Mapping[int, int]
    nic_skipped: Mapping[int, bool]


@dataclass(frozen=True)
class HaproxyParams:
    """Drop-in `haproxy`; mappings go from balancer, or balancer and server number, to value."""

    enabled: bool
    discovery: bool
    refresh_rate: float
    interfaces: tuple[InterfaceItem, ...] | None
    own_config: str | None
    balancer_addresses: Mapping[int, AddressWithPrefix | Placeholder]
    balancer_ports: Mapping[int, int]
    server_hosts: Mapping[tuple[int, int], str]
    server_ports: Mapping[tuple[int, int], int]
    discovery_source: str


@dataclass(frozen=True)
class Nat4Params:
    """Drop-in `nat4`."""

    enabled: bool
    interfaces_out: tuple[InterfaceItem, ...] | None
    port_forwards: Mapping[int, PortForward]


@dataclass(frozen=True)
class Router4Params:
    """Drop-in `router4`.

    Attributes:
        enabled: None where it follows from being a virtual router.
    """

    enabled: bool | None
    interfaces: tuple[InterfaceItem, ...] | None


@dataclass(frozen=True)
class DnsParams:
    """Drop-in `dns`.

    Attributes:
        enabled: None where nothing was said, which means no.
        use_root_servers: None where nothing was said.
    """

    enabled: bool | None
    interfaces: tuple[InterfaceItem, ...] | None
    nameservers: tuple[Endpoint, ...] | None
    use_root_servers: bool | None
    allowed_networks: tuple[IPv4Network, ...] | None
    cluster_domain: str
    max_cache_ttl: int
    upstream_timeout: int
    tcp_disabled: bool
    udp_disabled: bool
    own_config: str | None


@dataclass(frozen=True)
class VnfParams:
    """Everything a gateway reads."""

    opennebula: OpenNebulaParams
    keepalived: KeepalivedParams
    haproxy: HaproxyParams
    nat4: Nat4Params
    router4: Router4Params
    dns: DnsParams
    airgap: AirgapParams
