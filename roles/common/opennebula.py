"""The typed view of the parameters that OpenNebula gives every VM (drop-in `opennebula`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from appliance.secret import Secret
from appliance.values import AddressWithPrefix


@dataclass(frozen=True)
class OpenNebulaParams:
    """What OpenNebula itself says; the mappings go from NIC number to value."""

    vm_id: int | None
    service_id: int | None
    virtual_router_id: int | None
    onegate_endpoint: str | None
    onegate_token: Secret | None
    onegate_ca: str | None
    onegate_tls_verify: bool
    report_ready: bool
    fallback_gateway: IPv4Address | None
    nic_addresses: Mapping[int, AddressWithPrefix | None]
    nic_masks: Mapping[int, int]
    nic_networks: Mapping[int, IPv4Address]
    nic_gateways: Mapping[int, IPv4Address]
    nic_nameservers: Mapping[int, str]
    nic_macs: Mapping[int, str]
    nic_external: Mapping[int, bool]
    nic_management: Mapping[int, bool]
    host_name: str | None = None
    host_name_from_dns: bool = False
