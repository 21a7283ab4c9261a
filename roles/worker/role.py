"""Decides what a worker should be: network, RKE2 agent, and its place behind the ingress."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.daemon import Cycle
from appliance.errors import UnknownRole
from appliance.facts import Facts, FactsWanted
from appliance.logs import Logger
from appliance.plan import Plan, Stage
from appliance.report import Reporter
from appliance.role import Findings, StatusLine, Task
from appliance.service import Service
from appliance.system import System
from appliance.waiting import Readiness
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
from roles.common.election import MASTER_ROLE
from roles.common.endpoints import build_node
from roles.common.leaving import begin_leaving
from roles.common.registration import registration_of_worker
from roles.common.supplies import Supplies
from roles.worker.params import WorkerParams

_READY_TIMEOUT_S = 900.0


class WorkerRole:
    """Worker: runs what users deploy."""

    params_type = WorkerParams
    ready_timeout_s = _READY_TIMEOUT_S
    sibling_roles = (MASTER_ROLE, "worker")

    def __init__(self, services: Mapping[str, Service]) -> None:
        """Keep the drop-ins, whose templates are rendered."""
        self._services = services

    def check(self, params: WorkerParams) -> Findings:
        """Find what does not fit together."""
        return check_cluster_node(params)

    def facts_wanted(self, params: WorkerParams) -> FactsWanted:
        """Name what is looked at."""
        return self._supplies(params).wanted(wanted_of_cluster_node(params, facts_wanted(params)))

    def prerequisites(self, params: WorkerParams, facts: Facts) -> Readiness:
        """Wait for the links of the context and their addresses."""
        return node_prerequisites(params, facts)

    def plan(self, stage: Stage, params: WorkerParams, facts: Facts) -> Plan:
        """Put the network in order, then find the way into the cluster, round by round."""
        model = build_agent(params, facts, is_storage=False)
        refuse_unknown_settings(params, model.known)
        if stage is Stage.BOOTSTRAP:
            return with_network(AgentBootstrap(model, facts).plan(), params, facts, self._services)
        node = plan_cluster_node(params, model.node, facts, self._services)
        return Plan(stage, (*node, *self._supplies(params).plan(facts)))

    def readiness(self, params: WorkerParams, facts: Facts) -> Readiness:
        """Ready means: own node Ready as the API server sees it."""
        return first_unwell(self.status(params, facts))

    def status(self, params: WorkerParams, facts: Facts) -> tuple[StatusLine, ...]:
        """Describe network, RKE2 and node."""
        model = build_agent(params, facts, is_storage=False)
        return (*describe_agent(model, params, facts), *self._supplies(params).describe(facts))

    def _supplies(self, params: WorkerParams) -> Supplies:
        return Supplies(params, self._services, "worker")

    def make_cycle(
        self, daemon: str, system: System, params: WorkerParams, reporter: Reporter, log: Logger
    ) -> Cycle:
        """Refuse: a worker has no daemon of the agent's."""
        raise UnknownRole(f"a worker has no daemon {daemon!r}; backends runs on gateways")

    def make_task(
        self,
        name: str,
        system: System,
        params: WorkerParams,
        reporter: Reporter,
        log: Logger,
        argument: str = "",
    ) -> Task:
        """Return what a worker does when it is asked to: leave."""
        if name != "leave":
            raise UnknownRole(f"a worker has no task {name!r}; clean works on masters")
        name = read_pinned_name(system)
        registration = registration_of_worker(build_node(params, node_name=name))
        departure = AgentDeparture(system, name, params.opennebula.vm_id) if name else None
        return begin_leaving(system, registration, departure, reporter, log)
