"""What a master is and knows right now, put together from its parameters and facts."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.facts import Facts, FactsWanted
from appliance.secret import Secret
from roles.common import clusterstate as kept
from roles.common.clusternode import (
    RKE2_UNITS,
    WORDS_S,
    ClusterNodeParams,
    PinnedNode,
    Rke2Settings,
    supervisor_trouble,
)
from roles.common.clusterstate import ClusterState
from roles.common.election import (
    AGENT_TOKEN_KEY,
    BLOCKED_KEY,
    CLUSTER_KEY,
    FOUNDER_KEY,
    MASTER_KEY,
    TOKEN_KEY,
)
from roles.common.endpoints import ClusterNode, build_node
from roles.common.localprobes import IsThere, Rke2Installed, Rke2Program, WordsWhileDown
from roles.common.probes import ADMIN, ApiHealth, NodeSeen
from roles.common.registration import registration_of_node, registration_of_server
from roles.common.registries import build_files
from roles.common.rke2config import build_server_config, published_kubeconfig
from roles.common.rke2environment import build_environment, render_environment
from roles.common.rke2keys import KnownKeys
from roles.common.snapshots import snapshot_settings
from roles.master.params import MasterParams

UNIT = "rke2-server.service"
KUBECONFIG_KEY = "ONEKE_KUBECONFIG"

_DATA = IsThere(kept.ETCD_DATA)
_API = ApiHealth(ADMIN, times=3, apart_s=0.1, unit=UNIT)
_WORDS = WordsWhileDown(UNIT, WORDS_S)


def facts_wanted(params: ClusterNodeParams) -> FactsWanted:
    """Name what a master looks at."""
    kubeconfig = (kept.KUBECONFIG,) if params.rke2.publish_kubeconfig else ()
    return FactsWanted(
        units=RKE2_UNITS,
        files=(kept.CONFIG, *kept.TOKENS, *kubeconfig),
        probes=(_DATA, _API, _WORDS, _own_node(params)),
        lasting=(_program(params),),
        siblings=True,
    )


def _program(params: ClusterNodeParams) -> Rke2Program:
    return Rke2Program(tells_version=True, tells_settings=bool(params.rke2.extra_config))


def _own_node(params: ClusterNodeParams) -> PinnedNode:
    return PinnedNode(ADMIN, build_node(params).node_name)


@dataclass(frozen=True)
class MasterModel:
    """A master at one moment.

    Attributes:
        node: Its name, address and endpoints.
        state: What it kept about its cluster.
        has_data: Whether it holds etcd data.
        api_trouble: Why its own API server does not serve; empty where it does.
        seen: Its own node, as its API server shows it.
        supervisor_trouble: Why the cluster's supervisor can not be joined; empty where it can.
        words: What RKE2 said lately, as long as it is not up.
        program: What the installed RKE2 says of itself.
    """

    params: MasterParams
    node: ClusterNode
    state: ClusterState
    has_data: bool
    api_trouble: str
    seen: NodeSeen
    supervisor_trouble: str
    words: str
    program: Rke2Installed
    server_token: Secret
    agent_token: Secret
    node_token: Secret
    kubeconfig: str = field(repr=False)

    @property
    def known(self) -> KnownKeys:
        """What the installed RKE2 understands."""
        return self.program.known

    def settings(
        self, *, server: str, password: Secret | None, makes_tokens: bool = False
    ) -> Rke2Settings:
        """Return what RKE2 is to run with.

        Args:
            server: The supervisor it joins by, as host and port; empty for founding.
            password: See `Rke2Settings`.
            makes_tokens: Whether the files of the tokens are being made.
        """
        config = build_server_config(
            self.params,
            self.node,
            server=server,
            has_agent_token=makes_tokens or bool(self.agent_token.reveal()),
            version=self.program.version,
            more=snapshot_settings(self.params.snapshots),
        )
        environment = render_environment(build_environment(self.params, self.node))
        files = build_files(self.params.registries)
        return Rke2Settings(UNIT, config, environment, password, files)

    def published_values(self) -> Mapping[str, str]:
        """Return what the service's other VMs need of a master that serves."""
        token = self.node_token.reveal().strip()
        cluster_id = kept.cluster_id_of(token)
        agents = kept.password_of(self.agent_token.reveal())
        values = {
            **registration_of_node(self.node),
            **registration_of_server(self.node),
            MASTER_KEY: str(self.node.address),
            TOKEN_KEY: token,
            AGENT_TOKEN_KEY: f"K10{cluster_id}::node:{agents}" if agents and cluster_id else "",
            CLUSTER_KEY: cluster_id,
            FOUNDER_KEY: "",
            BLOCKED_KEY: "",
        }
        if not self.params.rke2.publish_kubeconfig:
            values[KUBECONFIG_KEY] = ""  # one that was published before is withdrawn
        elif self.kubeconfig:
            # Where there is no gateway: by this master itself.
            own = build_node(self.params, first_master=str(self.node.address))
            public = published_kubeconfig(self.kubeconfig, own)
            values[KUBECONFIG_KEY] = base64.b64encode(public.encode()).decode()
        return values


def build_master(params: MasterParams, facts: Facts) -> MasterModel:
    """Put a master together."""
    state = kept.read_cluster_state(facts)
    return MasterModel(
        params=params,
        node=build_node(params, node_name=state.node_name),
        state=state,
        has_data=facts.found(_DATA),
        api_trouble=facts.found(_API).reason,
        seen=facts.found(_own_node(params)),
        supervisor_trouble=supervisor_trouble(params, facts),
        words=facts.found(_WORDS),
        program=facts.found(_program(params)),
        server_token=kept.read_server_token(facts),
        agent_token=kept.read_agent_token(facts),
        node_token=Secret(facts.files.get(kept.NODE_TOKEN) or ""),
        kubeconfig=facts.files.get(kept.KUBECONFIG) or "",
    )
