"""What a node publishes in OneGate about itself and about the balancers it stands behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from roles.common.endpoints import (
    API,
    API_PORT,
    HTTP,
    HTTPS,
    SUPERVISOR,
    SUPERVISOR_PORT,
    ClusterNode,
)

NODE_NAME_KEY = "ONEGATE_K8S_NODE_NAME"

_STEM = "ONEGATE_HAPROXY_LB"
# Where a node serves: RKE2 listens on its own ports and the ingress on its node ports, whatever
# port the balancer in front has.
_SERVED_BY_SERVERS = ((SUPERVISOR, SUPERVISOR_PORT), (API, API_PORT))
_SERVED_BY_WORKERS = ((HTTPS, 32443), (HTTP, 32080))
# An address no balancer has: what names it stands behind none, for every gateway there is. One
# that leaves host or port empty would be a broken server to the reference appliance.
_NOBODY = "0.0.0.0"  # noqa: S104  # published, not bound


def registration_of_node(node: ClusterNode) -> dict[str, str]:
    """Return what every node publishes, to be told from the dead by the cluster's cleaner."""
    return {NODE_NAME_KEY: node.node_name}


def registration_of_server(node: ClusterNode) -> dict[str, str]:
    """Return what a master publishes to stand behind the supervisor's and the API's balancer."""
    return _registration(node, _SERVED_BY_SERVERS)


def registration_of_worker(node: ClusterNode) -> dict[str, str]:
    """Return what a worker publishes to stand behind the balancers of the ingress."""
    return _registration(node, _SERVED_BY_WORKERS)


def _registration(node: ClusterNode, served: Sequence[tuple[int, int]]) -> dict[str, str]:
    """Name balancer and server, for each balancer there is.

    The balancer is named as the gateway's own parameters name it, a placeholder included.
    """
    values: dict[str, str] = {}
    for number, port in served:
        balancer = node.endpoints.balancers[number]
        if balancer.address is None:
            continue
        values |= {
            f"{_STEM}{number}_IP": str(balancer.address),
            f"{_STEM}{number}_PORT": str(balancer.port),
            f"{_STEM}{number}_SERVER_HOST": str(node.address),
            f"{_STEM}{number}_SERVER_PORT": str(port),
        }
    return values


def withdrawn(registration: Mapping[str, str]) -> dict[str, str]:
    """Return what to publish over a registration so that no gateway takes it any more.

    Nothing is ever erased in OneGate: an erase rewrites everything a VM has published.
    """
    return {key: _NOBODY for key in registration if key.endswith("_IP")}
