"""The typed views of what every node of the cluster reads, one class per drop-in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from appliance.secret import Secret
from appliance.values import AddressWithPrefix, HostAndPort, Placeholder
from roles.common.opennebula import OpenNebulaParams

Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True)
class VipParams:
    """Drop-in `keepalived`, as far as a node reads it: interface and index to virtual address."""

    vips: Mapping[tuple[int, int], AddressWithPrefix]


@dataclass(frozen=True)
class BalancerParams:
    """Drop-in `haproxy`, as far as a node reads it: number of the balancer to what is given."""

    balancer_addresses: Mapping[int, AddressWithPrefix | Placeholder]
    balancer_ports: Mapping[int, int]


@dataclass(frozen=True)
class Rke2Params:
    """Drop-in `rke2`.

    Attributes:
        cni_config: YAML, not looked at yet; `extra_config` likewise.
        http_proxy: A URL that may hold a password; `https_proxy` likewise.
    """

    supervisor_endpoint: HostAndPort | None
    control_plane_endpoint: HostAndPort | None
    extra_sans: tuple[str, ...]
    cluster_networks: Networks
    service_networks: Networks
    cni_plugin: str
    cni_config: str | None
    multus_enabled: bool
    cloud_controller_enabled: bool
    masters_tainted: bool
    node_labels: tuple[str, ...] | None
    node_taints: tuple[str, ...] | None
    extra_config: str | None
    http_proxy: Secret | None
    https_proxy: Secret | None
    no_proxy: tuple[str, ...] | None
    node_nic: str | None
    node_name: str | None
    join_address: str | None
    join_token: Secret | None
    join_hash: str | None
    publish_kubeconfig: bool
    join_timeout: float
    start_timeout: float


@dataclass(frozen=True)
class RegistryParams:
    """Drop-in `registries`.

    Attributes:
        mirrored: The registries the endpoints stand for, by host; `*` for all.
        ca: Certificates in PEM, not looked at yet.
        fallback_enabled: Whether the registry that an image names is tried behind the endpoints;
            None where nothing is said of it.
        own_text: YAML of a registries.yaml, not looked at yet.
    """

    endpoints: tuple[str, ...] | None
    mirrored: tuple[str, ...]
    username: str | None
    password: Secret | None
    ca: str | None
    fallback_enabled: bool | None
    system_default: HostAndPort | None
    own_text: Secret | None


@dataclass(frozen=True)
class AirgapParams:
    """Drop-in `airgap`.

    Attributes:
        enabled: Whether there is no way out of the network.
    """

    enabled: bool


class NodeParams(Protocol):
    """What the modules about RKE2 need of a node's parameters."""

    @property
    def opennebula(self) -> OpenNebulaParams:
        """What OpenNebula says."""

    @property
    def keepalived(self) -> VipParams:
        """The gateway's virtual addresses."""

    @property
    def haproxy(self) -> BalancerParams:
        """The gateway's balancers."""

    @property
    def rke2(self) -> Rke2Params:
        """What is said about RKE2."""


class RunningParams(NodeParams, Protocol):
    """What is needed to say what RKE2 runs with."""

    @property
    def registries(self) -> RegistryParams:
        """Where images are fetched from."""

    @property
    def airgap(self) -> AirgapParams:
        """Whether there is a way out."""


def pinned_token(params: Rke2Params, user: str) -> Secret | None:
    """Return the token to join with by hand, pinned to the cluster's CA where its hash is given.

    Args:
        params: Of the node.
        user: `server` or `node`: whom the token is to let in. RKE2 does not trust it.
    """
    token, ca_hash = params.join_token, params.join_hash
    if token is None or ca_hash is None or token.reveal().startswith("K10"):
        return token
    text = token.reveal()
    # A bootstrap token, as in abcdef.0123456789abcdef, has no user in front.
    is_bootstrap = len(text) == 23 and text[6] == "."
    password = text if is_bootstrap else f"{user}:{text}"
    return Secret(f"K10{ca_hash.removeprefix('sha256:').lower()}::{password}")
