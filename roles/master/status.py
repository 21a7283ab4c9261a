"""What a master is right now, line by line."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.facts import Facts
from appliance.role import StatusLine
from roles.common.clusternode import (
    ClusterNodeParams,
    describe_membership,
    describe_node,
    describe_unit,
)
from roles.common.clusterstate import cluster_id_of
from roles.common.nodenetwork import describe_node_network
from roles.master.model import UNIT, MasterModel
from roles.master.params import MasterParams


def describe_master(model: MasterModel, params: MasterParams, facts: Facts) -> Iterator[StatusLine]:
    """Describe a master: network, RKE2, API, node, etcd."""
    yield from describe_node_network(params, facts)
    yield describe_membership(model.state, cluster_id_of(model.node_token.reveal()))
    yield describe_unit(UNIT, facts, model.words)
    if model.api_trouble:
        yield StatusLine("api", model.api_trouble, is_well=False)
    else:
        yield StatusLine("api", "ready, and steadily so")
    yield from describe_own_node(model, params)


def describe_own_node(model: MasterModel, params: ClusterNodeParams) -> Iterator[StatusLine]:
    """Describe what the cluster says of this master."""
    yield describe_node(params, model.node.node_name, model.seen)
    yield _describe_etcd(model)


def _describe_etcd(model: MasterModel) -> StatusLine:
    node = model.seen.node
    condition = node.condition("EtcdIsVoter") if node else None
    if condition is None:
        return StatusLine("etcd", "not known to be a member yet", is_well=False)
    if condition.status == "True":
        return StatusLine("etcd", "a voter")
    said = condition.reason or "no voter"
    return StatusLine("etcd", f"no voter yet: {said}", is_well=False)
