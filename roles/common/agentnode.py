"""A worker or storage node: how it comes into the cluster, and what it is right now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from appliance.facts import Facts, FactsWanted
from appliance.plan import Action, GiveUp, Pause, Plan, Stage
from appliance.role import StatusLine
from appliance.secret import Secret
from roles.common import clusterstate as kept
from roles.common.clusternode import (
    RKE2_UNITS,
    WORDS_S,
    ClusterNodeParams,
    PinnedNode,
    Rke2Settings,
    describe_membership,
    describe_node,
    describe_unit,
    diagnose_unit,
    digest_of_values,
    find_entry,
    is_up,
    pause_for_rke2,
    plan_blocked,
    plan_publication,
    plan_rke2,
    refuse_other_kind,
    secret_file,
    supervisor_trouble,
)
from roles.common.clusterstate import JOINED, ClusterState, password_of
from roles.common.diagnosis import Diagnosis
from roles.common.election import BLOCKED_KEY, Agents, Hold, decide_agent
from roles.common.endpoints import ClusterNode, build_node
from roles.common.localprobes import Rke2Installed, Rke2Program, WordsWhileDown
from roles.common.nodenetwork import describe_node_network
from roles.common.probes import KUBELET, NodeSeen
from roles.common.registration import registration_of_node, registration_of_worker
from roles.common.registries import build_files
from roles.common.rke2config import build_agent_config
from roles.common.rke2environment import build_environment, render_environment
from roles.common.rke2keys import KnownKeys
from roles.common.rke2params import pinned_token

UNIT = "rke2-agent.service"

_TOKEN = "a master to publish a join token"  # noqa: S105  # words, no token
_RKE2 = "this node to be Ready"

_WORDS = WordsWhileDown(UNIT, WORDS_S)

Decision = tuple[Iterable[Action], Pause | GiveUp | None]


def facts_wanted(params: ClusterNodeParams) -> FactsWanted:
    """Name what a worker or storage node looks at."""
    return FactsWanted(
        units=RKE2_UNITS,
        files=(kept.AGENT_TOKEN,),
        probes=(_WORDS, _own_node(params)),
        lasting=(_program(params),),
        siblings=True,
    )


def _program(params: ClusterNodeParams) -> Rke2Program:
    return Rke2Program(tells_version=False, tells_settings=bool(params.rke2.extra_config))


def _own_node(params: ClusterNodeParams) -> PinnedNode:
    return PinnedNode(KUBELET, build_node(params).node_name)


@dataclass(frozen=True)
class AgentModel:
    """A worker or storage node at one moment.

    Attributes:
        is_storage: Whether Longhorn keeps its data here.
        node: Its name, address and endpoints.
        state: What it kept about its cluster.
        seen: Its own node, as the API server shows it.
        supervisor_trouble: Why the cluster's supervisor can not be joined; empty where it can.
        words: What RKE2 said lately, as long as it is not up.
        program: What the installed RKE2 says of itself.
    """

    params: ClusterNodeParams
    is_storage: bool
    node: ClusterNode
    state: ClusterState
    seen: NodeSeen
    supervisor_trouble: str
    words: str
    program: Rke2Installed
    token: Secret

    @property
    def known(self) -> KnownKeys:
        """What the installed RKE2 understands."""
        return self.program.known

    def settings(self, *, server: str, password: Secret) -> Rke2Settings:
        """Return what RKE2 is to run with."""
        config = build_agent_config(
            self.params,
            self.node,
            server=server,
            is_storage=self.is_storage,
            known=self.known,
        )
        environment = render_environment(build_environment(self.params, self.node))
        files = build_files(self.params.registries)
        return Rke2Settings(UNIT, config, environment, password, files)

    def published_values(self) -> Mapping[str, str]:
        """Return what the service's other VMs need of a node that is Ready."""
        ingress = {} if self.is_storage else registration_of_worker(self.node)
        return {**registration_of_node(self.node), **ingress, BLOCKED_KEY: ""}


def build_agent(params: ClusterNodeParams, facts: Facts, *, is_storage: bool) -> AgentModel:
    """Put a worker or storage node together."""
    state = kept.read_cluster_state(facts)
    return AgentModel(
        params=params,
        is_storage=is_storage,
        node=build_node(params, node_name=state.node_name),
        state=state,
        seen=facts.found(_own_node(params)),
        supervisor_trouble=supervisor_trouble(params, facts),
        words=facts.found(_WORDS),
        program=facts.found(_program(params)),
        token=Secret(facts.files.get(kept.AGENT_TOKEN) or ""),
    )


@dataclass(frozen=True)
class AgentBootstrap:
    """Decides one round: what to do now, and what to wait for then."""

    model: AgentModel
    facts: Facts

    def plan(self) -> Plan:
        """Return the plan of this round."""
        refusal = refuse_other_kind(UNIT, _RKE2, self.facts)
        if refusal is not None:
            return Plan(Stage.BOOTSTRAP, (), refusal)
        is_started_again = self.model.state.is_member and self.model.token.reveal().strip()
        actions, then = self._run() if is_started_again else self._enter()
        return Plan(Stage.BOOTSTRAP, tuple(actions), then)

    def _enter(self) -> Decision:
        found = self._token()
        if isinstance(found, Hold):
            return (), Pause(_TOKEN, found.reason, self.model.params.rke2.join_timeout)
        server = find_entry(
            found,
            self.model.params,
            self.model.node,
            waits_for=_TOKEN,
            trouble="" if is_up(UNIT, self.facts) else self.model.supervisor_trouble,
        )
        if isinstance(server, Pause):
            return (), server
        node_name = self.model.node.node_name
        state = replace(self.model.state, node_name=node_name, kind=JOINED, server=server)
        password = Secret(password_of(found.token.reveal()))
        actions = (
            kept.keep_cluster_state(state),
            secret_file(kept.AGENT_TOKEN, found.token),
            *plan_rke2(self.model.settings(server=server, password=password)),
        )
        return self._until_ready(state, actions)

    def _token(self) -> Agents | Hold:
        rke2 = self.model.params.rke2
        by_hand = pinned_token(rke2, "node")
        if by_hand is not None:
            return Agents(by_hand, rke2.join_address or "", 0)
        if self.facts.siblings is None:
            return Hold("the context names no OneGate; ONEAPP_K8S_TOKEN gives a token by hand")
        return decide_agent(self.facts.siblings)

    def _run(self) -> Decision:
        """Start what this machine has; it finds its cluster by itself, without OneGate."""
        state = self.model.state
        password = Secret(password_of(self.model.token.reveal()))
        settings = self.model.settings(server=state.server, password=password)
        return self._until_ready(state, tuple(plan_rke2(settings)))

    def _until_ready(self, state: ClusterState, actions: tuple[Action, ...]) -> Decision:
        model, found = self.model, self._diagnosis()
        if not is_up(UNIT, self.facts):
            blocked = plan_blocked(model.node.node_name, found, self.facts)
            return (*actions, *blocked), pause_for_rke2(
                _RKE2, found, self.model.params.rke2.start_timeout
            )
        line = describe_node(model.params, model.node.node_name, model.seen)
        if not line.is_well:
            return actions, Pause(_RKE2, line.state, self.model.params.rke2.start_timeout)
        values = model.published_values()
        publish, pause = plan_publication(values, model.params, self.facts)
        published = state.published if pause else digest_of_values(values)
        member = replace(state, is_member=True, published=published)
        return (*actions, *publish, kept.keep_cluster_state(member)), pause

    def _diagnosis(self) -> Diagnosis:
        return diagnose_unit(UNIT, self.facts, self.model.words)


def describe_agent(
    model: AgentModel, params: ClusterNodeParams, facts: Facts
) -> Iterator[StatusLine]:
    """Describe a worker or storage node: network, RKE2, node."""
    yield from describe_node_network(params, facts)
    yield describe_membership(model.state)
    yield describe_unit(UNIT, facts, model.words)
    yield describe_node(params, model.node.node_name, model.seen)
