"""An example for every rule about a node of the cluster that no vector of the data shows."""

from __future__ import annotations

from collections.abc import Mapping

from tests.conformance.rules import cluster
from tests.conformance.vectors import Inputs

_VIPS = {
    "ONEAPP_VROUTER_ETH0_VIP0": "198.51.100.200",
    "ONEAPP_VROUTER_ETH1_VIP0": "10.77.0.200",
}
_CHANGES: Mapping[str, Mapping[str, str]] = {
    "malformed-gateway-address": {"ONEAPP_VNF_HAPROXY_LB0_IP": "gateway"},
    "malformed-port": {"ONEAPP_VNF_HAPROXY_LB0_PORT": "70000"},
    "malformed-endpoint": {cluster.SUPERVISOR: "http://sup.example.org:9345"},
    "malformed-name": {cluster.SANS: "localhost,-"},
    "malformed-network": {cluster.PODS: "10.42.0.0"},
    "networks-overlap": {cluster.SERVICES: "10.42.128.0/20"},
    "unclear-node-switch": {cluster.MULTUS: "maybe"},
    "unknown-plug-in": {cluster.PLUGIN: "weave"},
    "malformed-proxy": {cluster.PROXIES[0]: "http://user:a b@proxy.example.org:3128"},
    "older-names": {cluster.OLDER_PORT: "7443"},
    "endpoint-address-text": {cluster.VIP: "198.51.100.200/24"},
    "endpoint-text": {cluster.SUPERVISOR: "198.51.100.200"},
    "endpoint-fallback": {
        cluster.VIP: "",
        cluster.CONTROL_PLANE: "198.51.100.9:6443",
        "ONEAPP_VNF_HAPROXY_LB0_IP": "198.51.100.9",
        "ONEAPP_VNF_HAPROXY_LB1_IP": "198.51.100.9",
    },
    "certificate-names": {cluster.SANS: "localhost,,a.example.org"},
    "supervisor-in-certificate": {cluster.SUPERVISOR: "sup.example.org:9345"},
    "network-text": {cluster.PODS: "10.142.0.0/255.255.0.0"},
    "node-switch-words": {cluster.MULTUS: "true"},
    "plug-in": {cluster.PLUGIN: "Canal"},
    "private-network-nic": {"ETH1_MASK": "255.255.0.0"},
    "server-port": {"ONEAPP_VNF_HAPROXY_LB0_PORT": "19345"},
    "own-balancer": {"ONEAPP_VNF_HAPROXY_LB0_IP": "198.51.100.61"},
}


def example_of_node(area: str, rule: str) -> Inputs | None:
    """Return a master that a rule concerns; a storage node where it is about whom to join."""
    if rule == "waits-for-a-master":
        return _node({cluster.VIP: ""}, "join_storage")
    if rule == "reference-gives-up":
        if area == "oneke_endpoints":
            return Inputs({**_VIPS, cluster.CONTROL_PLANE: " api.example.org:6443"})
        return _node({cluster.VIP: ""}, "init_master")
    if rule not in _CHANGES:
        return None
    context = {**_VIPS, **_CHANGES[rule]}
    return Inputs(context) if area == "oneke_endpoints" else _node(_CHANGES[rule], "init_master")


def _node(changes: Mapping[str, str], action: str) -> Inputs:
    """Return a node with a NIC in another network before the one in the private network."""
    nics = [
        {"IP": "198.51.100.61", "MAC": "02:00:c6:33:64:3d"},
        {"IP": "10.77.1.61", "MAC": "02:00:0a:4d:01:3d"},
    ]
    document = {"VM": {"ID": "61", "TEMPLATE": {"NIC": nics}}}
    token = None if action == "init_master" else "K10cafe::server:cafe"
    return Inputs({**_VIPS, **changes}, {"role": action, "token": token}, {"vm": document})
