"""Who a node of the cluster is and by which addresses the cluster is reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from appliance.errors import ParameterProblems, Problem
from appliance.values import AddressWithPrefix, HostAndPort, Placeholder
from roles.common.addresses import ADDRESS_KEYS, Nic, build_address_book
from roles.common.opennebula import OpenNebulaParams
from roles.common.rke2params import NodeParams

SUPERVISOR, API, HTTPS, HTTP = 0, 1, 2, 3
"""The numbers of the balancers OneKE knows."""

SUPERVISOR_PORT = 9345
API_PORT = 6443

NODE_NIC_KEY = "ONEAPP_K8S_NODE_NIC"
PRIVATE_VIP = (1, 0)

_PUBLIC_VIP = (0, 0)
_DEFAULT_PORTS = {SUPERVISOR: SUPERVISOR_PORT, API: API_PORT, HTTPS: 443, HTTP: 80}
_VIRTUAL = re.compile(r"ETH([0-9]+)_(?:VIP|EP)([0-9]+)\Z")


@dataclass(frozen=True)
class ClusterEndpoint:
    """Where a service of the cluster is reached.

    Attributes:
        host: A name or an address; an IPv6 address without brackets.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as part of a URL."""
        return str(HostAndPort(self.host, self.port))

    @property
    def url(self) -> str:
        """The URL of its root."""
        return f"https://{self}"


@dataclass(frozen=True)
class BalancerAddress:
    """A balancer of the gateway, as this node names it.

    Attributes:
        address: As the gateway's own parameter has it, possibly a placeholder that only the
            gateway can resolve; None where there is no such balancer.
    """

    number: int
    address: IPv4Address | Placeholder | None
    port: int


@dataclass(frozen=True)
class Endpoints:
    """By which addresses the cluster is reached.

    Attributes:
        supervisor: Where nodes join; None where there is no gateway and no master is known yet.
        control_plane: Where clients reach the API; None likewise.
        balancers: The four of OneKE, by number.
    """

    supervisor: ClusterEndpoint | None
    control_plane: ClusterEndpoint | None
    balancers: tuple[BalancerAddress, ...]


@dataclass(frozen=True)
class NodeNic:
    """The interface that a node uses inside the cluster."""

    name: str
    address: IPv4Interface


@dataclass(frozen=True)
class ClusterNode:
    """Who a node is and by which addresses its cluster is reached."""

    node_name: str
    nic: NodeNic
    endpoints: Endpoints

    @property
    def address(self) -> IPv4Address:
        """The address it has inside the cluster."""
        return self.nic.address.ip


def build_node(params: NodeParams, *, node_name: str = "", first_master: str = "") -> ClusterNode:
    """Put together who a node is.

    Args:
        params: Of the node.
        node_name: The name it joined with; empty before it has joined.
        first_master: See `build_endpoints`.

    Raises:
        ParameterProblems: It has no address to use.
    """
    nic = find_node_nic(params)
    name = node_name or build_node_name(params, nic)
    return ClusterNode(name, nic, build_endpoints(params, first_master))


def build_endpoints(params: NodeParams, first_master: str = "") -> Endpoints:
    """Decide by which addresses the cluster is reached.

    What is given wins, then the gateway's address, then the master that was named to join by hand,
    then the first master.

    Args:
        params: Of the node.
        first_master: The address of a master that serves, or of this one if it is to found the
            cluster; empty where none is known.
    """
    balancers = tuple(_balancer(number, params) for number in _DEFAULT_PORTS)
    given = params.rke2
    masters = given.join_address or first_master
    supervisor, api = balancers[SUPERVISOR], balancers[API]
    return Endpoints(
        _endpoint(given.supervisor_endpoint, supervisor, params, masters, SUPERVISOR_PORT),
        # The API's port of the older appliance is an older name of the balancer's: it holds for a
        # master too.
        _endpoint(given.control_plane_endpoint, api, params, masters, api.port),
        balancers,
    )


def _balancer(number: int, params: NodeParams) -> BalancerAddress:
    given = params.haproxy.balancer_addresses.get(number)
    address = given or params.keepalived.vips.get(_PUBLIC_VIP)
    port = params.haproxy.balancer_ports.get(number, _DEFAULT_PORTS[number])
    bare = address.address if isinstance(address, AddressWithPrefix) else address
    return BalancerAddress(number, bare, port)


def _endpoint(
    given: HostAndPort | None,
    balancer: BalancerAddress,
    params: NodeParams,
    masters: str,
    masters_port: int,
) -> ClusterEndpoint | None:
    if given:
        return ClusterEndpoint(given.host, given.port or balancer.port)
    vips = params.keepalived.vips
    public = vips.get(_PUBLIC_VIP)
    gateway = public.address if public else _known_address(balancer, vips)
    if gateway:
        return ClusterEndpoint(str(gateway), balancer.port)
    return ClusterEndpoint(masters, masters_port) if masters else None


def _known_address(
    balancer: BalancerAddress, vips: Mapping[tuple[int, int], AddressWithPrefix]
) -> IPv4Address | None:
    """Resolve a balancer's address as far as a node can: virtual addresses are those it is told."""
    if not isinstance(balancer.address, Placeholder):
        return balancer.address
    found = _VIRTUAL.match(balancer.address.name)
    vip = vips.get((int(found[1]), int(found[2]))) if found else None
    return vip.address if vip else None


def build_tls_sans(params: NodeParams, endpoints: Endpoints) -> tuple[str, ...]:
    """List the names and addresses the servers' certificate is to hold beside RKE2's own.

    The hosts of both endpoints are always among them, for clients and joining nodes check them.
    """
    ends = (endpoints.control_plane, endpoints.supervisor)
    hosts = [one.host for one in ends if one]
    return tuple(dict.fromkeys((*params.rke2.extra_sans, *hosts)))


def find_node_nic(params: NodeParams) -> NodeNic:
    """Find the interface that the node uses inside the cluster.

    It is the one that is named, else the one in the private network, else the first with an
    address; an interface for administration only where there is no other.

    Raises:
        ParameterProblems: There is none, or the named one has no address.
    """
    found = _find_nic(params)
    if isinstance(found, Problem):
        raise ParameterProblems([found])
    return found


def _find_nic(params: NodeParams) -> NodeNic | Problem:
    book = build_address_book(params.opennebula, {})
    usable = [
        (nic, NodeNic(nic.name, nic.address))
        for nic in sorted(book.nics, key=lambda nic: (nic.is_management, nic.number))
        if nic.address and not nic.is_external
    ]
    own = [node_nic for _, node_nic in usable]
    wanted = params.rke2.node_nic
    if wanted:
        named = next((nic for nic in own if nic.name == wanted), None)
        return named or _no_such_nic(wanted, own)
    if not own:
        return Problem(
            "ETH<nic>_IP",
            None,
            "missing: a node of the cluster needs an interface with an IPv4 address",
            depends_on=ADDRESS_KEYS,
        )
    return _in_private_network(usable, params) or own[0]


def _no_such_nic(wanted: str, own: list[NodeNic]) -> Problem:
    names = ", ".join(sorted(nic.name for nic in own)) or "none"
    return Problem(
        NODE_NIC_KEY,
        wanted,
        f"expected an interface with an IPv4 address; this VM has {names}",
        depends_on=ADDRESS_KEYS,
    )


def _in_private_network(usable: list[tuple[Nic, NodeNic]], params: NodeParams) -> NodeNic | None:
    """Find the interface in whose network the gateway is; a guessed network tells nothing."""
    vip = params.keepalived.vips.get(PRIVATE_VIP)
    gateway = vip.address if vip else params.opennebula.fallback_gateway
    for nic, own in usable:
        is_known = _is_network_known(nic.number, params.opennebula)
        if gateway and is_known and gateway in own.address.network:
            return own
    return None


def _is_network_known(nic: int, params: OpenNebulaParams) -> bool:
    given = params.nic_addresses.get(nic)
    has_prefix = given is not None and given.prefix is not None
    return has_prefix or nic in params.nic_masks or nic in params.nic_networks


def build_node_name(params: NodeParams, nic: NodeNic) -> str:
    """Return the node's name: as given, in lower case as RKE2 has it, else from its address."""
    given = params.rke2.node_name
    return given.lower() if given else f"oneke-ip-{str(nic.address.ip).replace('.', '-')}"
