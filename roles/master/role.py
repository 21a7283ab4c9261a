"""Decides what a master should be: network, RKE2 server, and its place in the cluster."""

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
from appliance.system.kubernetes import Access
from appliance.waiting import Readiness
from roles.common.cleaning import Cleaning
from roles.common.clusternode import (
    check_cluster_node,
    first_unwell,
    node_prerequisites,
    plan_cluster_node,
    refuse_unknown_settings,
    wanted_of_cluster_node,
    with_network,
)
from roles.common.clusterstate import CONFIG, read_pinned_name
from roles.common.componentcheck import check_components
from roles.common.components import plan_components
from roles.common.endpoints import ClusterNode, build_node
from roles.common.leaving import Leaving, begin_leaving
from roles.common.opennebula import OpenNebulaParams
from roles.common.outside import way_to_images
from roles.common.probes import ADMIN
from roles.common.registration import registration_of_server
from roles.common.rke2extra import keys_of_extra_config
from roles.common.serverdeparture import ServerDeparture
from roles.common.snapshots import check_snapshots, doubts_about_snapshots
from roles.common.snapshotting import ON_DEMAND, SnapshotListing, SnapshotTaking
from roles.common.supplies import Supplies
from roles.common.upgrading import UpgradePlanning
from roles.master.bootstrap import Bootstrap
from roles.master.model import build_master, facts_wanted
from roles.master.params import MasterParams
from roles.master.status import describe_master
from roles.master.unchangeable import refuse_changed

_READY_TIMEOUT_S = 900.0
_SNAPSHOT, _LIST, _UPGRADE = "etcd-snapshot", "etcd-list", "upgrade-plan"


class MasterRole:
    """Control plane: serves the Kubernetes API and keeps etcd."""

    params_type = MasterParams
    ready_timeout_s = _READY_TIMEOUT_S
    sibling_roles = ("master",)

    def __init__(self, services: Mapping[str, Service]) -> None:
        """Keep the drop-ins, whose templates are rendered."""
        self._services = services

    def check(self, params: MasterParams) -> Findings:
        """Find what does not fit together."""
        node, components = check_cluster_node(params), check_components(params, self._services)
        extra_keys = keys_of_extra_config(params.rke2.extra_config)
        doubts = doubts_about_snapshots(params.snapshots, extra_keys)
        return Findings(
            (*node.problems, *components.problems, *check_snapshots(params.snapshots)),
            (*node.warnings, *components.warnings, *doubts),
        )

    def facts_wanted(self, params: MasterParams) -> FactsWanted:
        """Name what is looked at."""
        return self._supplies(params).wanted(wanted_of_cluster_node(params, facts_wanted(params)))

    def prerequisites(self, params: MasterParams, facts: Facts) -> Readiness:
        """Wait for the links of the context and their addresses."""
        return node_prerequisites(params, facts)

    def plan(self, stage: Stage, params: MasterParams, facts: Facts) -> Plan:
        """Put network and manifests in order, then come into the cluster, round by round."""
        model = build_master(params, facts)
        refuse_unknown_settings(params, model.known)
        if model.has_data:
            wanted = model.settings(server="", password=None).config
            refuse_changed(facts.files.get(CONFIG), wanted)
        if stage is Stage.BOOTSTRAP:
            return with_network(Bootstrap(model, facts).plan(), params, facts, self._services)
        supplies = self._supplies(params)
        node = plan_cluster_node(params, model.node, facts, self._services)
        # The network plug-in's settings have to be there when RKE2 starts for the first time.
        manifests = plan_components(params, self._services, supplies.charts(facts))
        return Plan(stage, (*node, *supplies.plan(facts), *manifests))

    def readiness(self, params: MasterParams, facts: Facts) -> Readiness:
        """Ready means: own API steady, own node Ready, a voter in etcd."""
        return first_unwell(self.status(params, facts))

    def status(self, params: MasterParams, facts: Facts) -> tuple[StatusLine, ...]:
        """Describe network, RKE2, API, node and etcd."""
        own = describe_master(build_master(params, facts), params, facts)
        return (*own, *self._supplies(params).describe(facts))

    def _supplies(self, params: MasterParams) -> Supplies:
        return Supplies(params, self._services, "master")

    def make_cycle(
        self, daemon: str, system: System, params: MasterParams, reporter: Reporter, log: Logger
    ) -> Cycle:
        """Refuse: a master has no daemon of the agent's."""
        raise UnknownRole(f"a master has no daemon {daemon!r}; backends runs on gateways")

    def make_task(
        self,
        name: str,
        system: System,
        params: MasterParams,
        reporter: Reporter,
        log: Logger,
        argument: str = "",
    ) -> Task:
        """Return what a master does when it is asked to, for its cluster or by itself."""
        opennebula = params.opennebula
        node = build_node(params, node_name=read_pinned_name(system))
        if name == "clean":
            vm_id, service_id = opennebula.vm_id, opennebula.service_id
            return Cleaning(system, ADMIN, node.node_name, vm_id, service_id, log)
        if name == "leave":
            return self._leaving(system, node, opennebula, reporter, log)
        if name == _UPGRADE:
            registry = params.registries.system_default
            rke2 = self._services["rke2"]
            can_fetch = not params.airgap.enabled or way_to_images(params, rke2.image)[1]
            return UpgradePlanning(system, ADMIN, argument, registry, can_fetch, rke2.folders)
        if name == _SNAPSHOT:
            return SnapshotTaking(system, ADMIN, node.node_name, argument or ON_DEMAND, log)
        if name == _LIST:
            return SnapshotListing(system, ADMIN)
        tasks = f"clean and leave, {_SNAPSHOT} and {_LIST}, {_UPGRADE}"
        raise UnknownRole(f"a master has no task {name!r}; it has {tasks}")

    def _leaving(
        self,
        system: System,
        node: ClusterNode,
        opennebula: OpenNebulaParams,
        reporter: Reporter,
        log: Logger,
    ) -> Leaving:
        def clean_servers(access: Access) -> Cleaning:
            return Cleaning(
                system,
                access,
                node.node_name,
                opennebula.vm_id,
                opennebula.service_id,
                log,
                only_servers=True,
                is_hurried=True,
            )

        endpoint = node.endpoints.control_plane
        departure = ServerDeparture(
            system, node.node_name, opennebula.vm_id, endpoint, clean_servers, log
        )
        has_joined = bool(read_pinned_name(system))
        registration = registration_of_server(node)
        return begin_leaving(system, registration, departure if has_joined else None, reporter, log)
