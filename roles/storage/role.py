"""Decides what a storage node should be: network, its disk, and RKE2 agent once that is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.daemon import Cycle
from appliance.errors import UnknownRole
from appliance.facts import Facts, FactsWanted
from appliance.logs import Logger
from appliance.plan import Plan, Stage
from appliance.render import render
from appliance.report import Reporter
from appliance.role import Findings, StatusLine, Task
from appliance.service import Service
from appliance.system import System
from appliance.waiting import Readiness, Ready
from roles.common.agentnode import AgentBootstrap, build_agent, describe_agent, facts_wanted
from roles.common.clusternode import (
    check_cluster_node,
    first_unwell,
    node_prerequisites,
    plan_cluster_node,
    refuse_unknown_settings,
    wanted_of_cluster_node,
    with_network,
)
from roles.common.clusterstate import read_pinned_name
from roles.common.departure import AgentDeparture
from roles.common.disk import (
    check_disk,
    describe_disk,
    disk_pause,
    disk_probes,
    disk_readiness,
    plan_disk,
)
from roles.common.election import MASTER_ROLE
from roles.common.leaving import begin_leaving
from roles.common.supplies import Supplies
from roles.storage.params import StorageNodeParams

_READY_TIMEOUT_S = 900.0


class StorageRole:
    """Storage node: nothing but Longhorn's replicas runs here."""

    params_type = StorageNodeParams
    ready_timeout_s = _READY_TIMEOUT_S
    sibling_roles = (MASTER_ROLE, "storage")

    def __init__(self, services: Mapping[str, Service]) -> None:
        """Keep the drop-ins, whose templates are rendered."""
        self._services = services

    def check(self, params: StorageNodeParams) -> Findings:
        """Find what does not fit together."""
        node, disk = check_cluster_node(params), check_disk(params.storage)
        return Findings((*node.problems, *disk.problems), (*node.warnings, *disk.warnings))

    def facts_wanted(self, params: StorageNodeParams) -> FactsWanted:
        """Name what is looked at."""
        wanted = wanted_of_cluster_node(params, facts_wanted(params))
        return self._supplies(params).wanted(wanted.also(probes=disk_probes(params.storage)))

    def prerequisites(self, params: StorageNodeParams, facts: Facts) -> Readiness:
        """Wait for the links of the context and their addresses."""
        return node_prerequisites(params, facts)

    def plan(self, stage: Stage, params: StorageNodeParams, facts: Facts) -> Plan:
        """Put network and disk in order, then find the way into the cluster, round by round."""
        model = build_agent(params, facts, is_storage=True)
        refuse_unknown_settings(params, model.known)
        if stage is Stage.BOOTSTRAP:
            return with_network(AgentBootstrap(model, facts).plan(), params, facts, self._services)
        actions = (
            *plan_cluster_node(params, model.node, facts, self._services),
            *self._supplies(params).plan(facts),
            *plan_disk(params.storage, facts, self._render),
        )
        return Plan(stage, actions, disk_pause(params.storage, facts))

    def _render(self, template: str, model: Any) -> str:
        return render(self._services["storage"].folders, template, model)

    def readiness(self, params: StorageNodeParams, facts: Facts) -> Readiness:
        """Ready means: the disk mounted, own node Ready as the API server sees it."""
        disk = disk_readiness(params.storage, facts)
        return first_unwell(self.status(params, facts)) if isinstance(disk, Ready) else disk

    def status(self, params: StorageNodeParams, facts: Facts) -> tuple[StatusLine, ...]:
        """Describe network, disk, RKE2 and node."""
        model = build_agent(params, facts, is_storage=True)
        return (
            *describe_disk(params.storage, facts),
            *describe_agent(model, params, facts),
            *self._supplies(params).describe(facts),
        )

    def _supplies(self, params: StorageNodeParams) -> Supplies:
        return Supplies(params, self._services, "storage")

    def make_cycle(
        self,
        daemon: str,
        system: System,
        params: StorageNodeParams,
        reporter: Reporter,
        log: Logger,
    ) -> Cycle:
        """Refuse: a storage node has no daemon of the agent's."""
        raise UnknownRole(f"a storage node has no daemon {daemon!r}; backends runs on gateways")

    def make_task(
        self,
        name: str,
        system: System,
        params: StorageNodeParams,
        reporter: Reporter,
        log: Logger,
        argument: str = "",
    ) -> Task:
        """Return what a storage node does when it is asked to: leave, though it serves nobody."""
        if name != "leave":
            raise UnknownRole(f"a storage node has no task {name!r}; clean works on masters")
        name = read_pinned_name(system)
        departure = AgentDeparture(system, name, params.opennebula.vm_id) if name else None
        return begin_leaving(system, {}, departure, reporter, log)
