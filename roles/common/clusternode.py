"""What every node of the cluster has in common, masters, workers and storage nodes alike."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from appliance.actions import BeginUnit, EnsureSecret, Publish, RemoveFile, WriteFile
from appliance.errors import ParameterProblems
from appliance.facts import Facts, FactsWanted
from appliance.networkactions import SetHostName
from appliance.plan import Action, GiveUp, Pause, Plan
from appliance.role import Findings, StatusLine
from appliance.secret import Secret
from appliance.service import Service
from appliance.system import System
from appliance.system.kubernetes import Access, Node
from appliance.system.supervisor import Answer
from appliance.waiting import Failed, NotYet, Readiness, Ready
from roles.common.clusterstate import (
    CLUSTER,
    CONFIG,
    NODE_PASSWORD,
    ClusterState,
    read_cluster_state,
    read_pinned_name,
)
from roles.common.components import Values
from roles.common.diagnosis import Diagnosis, diagnose
from roles.common.election import BLOCKED_KEY, Agents, Join
from roles.common.endpoints import SUPERVISOR_PORT, ClusterNode, build_node
from roles.common.nodenetwork import (
    NetworkParams,
    NodeDnsParams,
    await_gateway_link,
    check_node_network,
    node_network_facts,
    plan_node_network,
)
from roles.common.opennebula import OpenNebulaParams
from roles.common.prerequisites import await_addresses
from roles.common.probes import NodeSeen, OwnNode, SupervisorAnswers
from roles.common.registries import (
    HEADER,
    REGISTRIES,
    REGISTRY_CA,
    RegistryFiles,
    check_registries,
)
from roles.common.rke2check import check_rke2
from roles.common.rke2config import SENSITIVE_MARK, holds_secret, render_config
from roles.common.rke2extra import Config, keys_of_extra_config, parse_extra_config
from roles.common.rke2keys import KnownKeys
from roles.common.rke2params import (
    AirgapParams,
    BalancerParams,
    RegistryParams,
    Rke2Params,
    VipParams,
)

WORDS_S = 90.0
ONEGATE_TIMEOUT_S = 900.0
RKE2_UNITS = ("rke2-server.service", "rke2-agent.service")
_SUPERVISOR = "the cluster's supervisor to answer"
_TELLING = "OneGate, to tell the other VMs of this node"
_FINAL_TIMEOUT_S = 60.0
_NODE_PASSWORD_BYTES = 16
_UNINITIALIZED = "node.cloudprovider.kubernetes.io/uninitialized"
_WITHOUT_CNI = re.compile("NetworkPluginNotReady|cni plugin not initialized", re.IGNORECASE)
_ON_GATEWAYS = "oneke-agent status on a gateway tells"
_PODS = "if this stays: kubectl -n kube-system get pods -o wide, on a master"
_BY_ADDRESS = "server"


@dataclass(frozen=True)
class ClusterNodeParams:
    """Everything that a node of the cluster reads, whatever its role.

    Attributes:
        components: Component to field to value, as far as the role reads them.
    """

    opennebula: OpenNebulaParams
    keepalived: VipParams
    haproxy: BalancerParams
    dns: NodeDnsParams
    network: NetworkParams
    rke2: Rke2Params
    registries: RegistryParams
    airgap: AirgapParams
    components: Values

    @property
    def has_onegate(self) -> bool:
        """Whether the context names a OneGate."""
        return self.opennebula.onegate_endpoint is not None


# ---- what is looked at, and what others did before


@dataclass(frozen=True)
class PinnedNode:
    """The node of this machine, by the name that was pinned when it joined.

    Attributes:
        name: What it is called before that.
    """

    access: Access
    name: str

    def look(self, system: System) -> NodeSeen:
        """Look once."""
        return OwnNode(self.access, read_pinned_name(system) or self.name).look(system)


def wanted_of_cluster_node(params: ClusterNodeParams, own: FactsWanted) -> FactsWanted:
    """Add what every node looks at to what a role does."""
    network = node_network_facts(params)
    supervisor = supervisor_probe(params)
    return FactsWanted(
        units=(*own.units, *network.units),
        files=(CLUSTER, *own.files, *network.files),
        probes=(*own.probes, *network.probes),
        lasting=(*own.lasting, *network.lasting),
        # A resolver that came up after this node, as after a power cut of all, is taken then.
        outside=(*network.lasting, *((supervisor,) if supervisor else ())),
        siblings=own.siblings,
    )


def supervisor_probe(params: ClusterNodeParams) -> SupervisorAnswers | None:
    """Return the look at what the node would join by; None where that is not known beforehand."""
    endpoint = build_node(params).endpoints.supervisor
    return SupervisorAnswers(endpoint.host, endpoint.port) if endpoint else None


def supervisor_trouble(params: ClusterNodeParams, facts: Facts) -> str:
    """Say why the cluster can not be joined there; empty where it can, or nobody can tell."""
    probe = supervisor_probe(params)
    if probe is None:
        return ""
    if probe not in facts.seen:
        return "it is asked next"
    seen = facts.found(probe)
    if seen.serves or seen.answer is Answer.STARTING:
        return seen.reason
    return f"{seen.reason}; is a master READY, and do the gateways know it? {_ON_GATEWAYS}"


def find_entry(
    found: Join | Agents,
    params: ClusterNodeParams,
    node: ClusterNode,
    *,
    waits_for: str,
    trouble: str,
) -> str | Pause:
    """Return the address that RKE2 is to join by, or what is waited for before it can.

    Args:
        found: The token, and the master that published it.
        params: For how long a cluster is waited for.
        node: Whether there is a supervisor known beforehand.
        waits_for: What is waited for where no master says its address.
        trouble: Why the supervisor can not be joined; empty where it can, or makes no difference.
    """
    supervisor = node.endpoints.supervisor
    if supervisor is None and not found.master:
        said = f"VM {found.vm_id} publishes no address, and there is no virtual address"
        return Pause(waits_for, said, params.rke2.join_timeout)
    if trouble:
        return Pause(_SUPERVISOR, trouble, params.rke2.join_timeout)
    return str(supervisor) if supervisor else f"{found.master}:{SUPERVISOR_PORT}"


def node_prerequisites(params: ClusterNodeParams, facts: Facts) -> Readiness:
    """Wait for the links of the context, their addresses, and the gateway's network."""
    found = await_addresses(params.opennebula, facts)
    return found if not isinstance(found, Ready) else await_gateway_link(params, facts)


def check_cluster_node(params: ClusterNodeParams) -> Findings:
    """Find what does not fit together."""
    network = check_node_network(params)
    problems, warnings = check_rke2(params, known=None)
    extra_keys = keys_of_extra_config(params.rke2.extra_config)
    wrong, doubts = check_registries(params.registries, extra_keys)
    return Findings((*network.problems, *problems, *wrong), (*network.warnings, *warnings, *doubts))


def refuse_unknown_settings(params: ClusterNodeParams, known: KnownKeys) -> None:
    """Judge the user's own settings by what the installed RKE2 says it knows.

    Raises:
        ParameterProblems: A key is near one that RKE2 knows, or is the agent's own.
    """
    problems, _ = check_rke2(params, known)
    if problems:
        raise ParameterProblems(problems)


# ---- the plan


def plan_cluster_node(
    params: ClusterNodeParams,
    node: ClusterNode,
    facts: Facts,
    services: Mapping[str, Service],
) -> tuple[Action, ...]:
    """Put gateway, resolver and host name in order."""
    said = params.opennebula
    is_given = bool(said.host_name) or said.host_name_from_dns
    host_name = () if is_given else (SetHostName(node.node_name),)
    return (*plan_node_network(params, facts, services), *host_name)


def with_network(
    plan: Plan, params: ClusterNodeParams, facts: Facts, services: Mapping[str, Service]
) -> Plan:
    """Keep gateway and resolver in order while the way into the cluster is found."""
    return replace(plan, actions=(*plan_node_network(params, facts, services), *plan.actions))


@dataclass(frozen=True)
class Rke2Settings:
    """What RKE2 is to run with.

    Attributes:
        unit: Its systemd unit.
        config: The settings of the configuration file.
        environment: The text of the unit's environment file; empty for no such file.
        password: The secret part of the token it joins with, to start it anew with another one;
            None where that makes no difference.
        registries: The files about registries, which it reads when it starts.
    """

    unit: str
    config: Config
    environment: str
    password: Secret | None
    registries: RegistryFiles

    @property
    def environment_file(self) -> PurePosixPath:
        """Where the unit reads its environment."""
        return PurePosixPath("/etc/default") / self.unit.removesuffix(".service")

    def digest(self) -> str:
        """Return what a running RKE2 has to have been started with.

        A founder's address to join by is left out: it gets one when it serves, and needs it only
        should it ever be taken out of etcd.
        """
        is_founder = self.password is None
        config = {k: v for k, v in self.config.items() if not (is_founder and k == _BY_ADDRESS)}
        password = self.password.reveal() if self.password else ""
        parts: list[object] = [config, self.environment, password]
        if self.registries.registries:
            parts += [self.registries.registries.reveal(), self.registries.ca]
        everything = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(everything.encode()).hexdigest()


def plan_rke2(settings: Rke2Settings) -> Iterator[Action]:
    """Write RKE2's files, and have it started.

    The node's password is made here, for what RKE2 makes itself it does not sync: after a power cut
    the file is there and empty, RKE2 presents that, and every request is refused (400) for ever.
    Source: k3s-io/k3s, pkg/agent/config/config.go (it takes the file that is there).
    """
    yield EnsureSecret(NODE_PASSWORD, _NODE_PASSWORD_BYTES)
    text, is_secret = render_config(settings.config), holds_secret(settings.config)
    yield WriteFile(CONFIG, text, mode=0o600, is_secret=is_secret, sensitive_mark=SENSITIVE_MARK)
    if settings.environment:
        yield WriteFile(settings.environment_file, settings.environment, mode=0o600, is_secret=True)
    else:
        yield RemoveFile(settings.environment_file, own_mark=HEADER)
    yield from _plan_registries(settings.registries)
    yield BeginUnit(settings.unit, settings.digest())


def _plan_registries(files: RegistryFiles) -> Iterator[Action]:
    """Write what RKE2 reads about registries; what an administrator wrote there by hand stays."""
    if files.ca:
        yield WriteFile(REGISTRY_CA, files.ca)
    if files.registries:
        yield WriteFile(REGISTRIES, files.registries.reveal(), mode=0o600, is_secret=True)
    else:
        yield RemoveFile(REGISTRIES, own_mark=HEADER)
    if not files.ca:
        yield RemoveFile(REGISTRY_CA, own_mark=HEADER)


def secret_file(path: PurePosixPath, token: Secret) -> WriteFile:
    """Return the action that keeps a token."""
    return WriteFile(path, f"{token.reveal().strip()}\n", mode=0o600, is_secret=True)


def pause_for_rke2(what: str, found: Diagnosis, timeout_s: float) -> Pause:
    """Wait for RKE2: long where it may come by itself, shortly where a person has to act."""
    if found.is_final:
        # A wait of its own, which begins when the cause shows.
        longest_s = min(timeout_s, _FINAL_TIMEOUT_S)
        return Pause(f"{what} in spite of what it says", _told(found), longest_s)
    return Pause(what, _told(found), timeout_s)


def refuse_other_kind(unit: str, what: str, facts: Facts) -> GiveUp | None:
    """Give up on a machine that is an RKE2 node of the other kind, before anything is written."""
    found = diagnose_unit(unit, facts, "")
    return GiveUp(what, _told(found)) if found.kind == "sibling-active" else None


def diagnose_unit(unit: str, facts: Facts, words: str) -> Diagnosis:
    """Say why RKE2 is not up; of no kind where it is."""
    others = [facts.units[one] for one in RKE2_UNITS if one != unit and one in facts.units]
    sibling_runs = any(one.is_active or one.is_coming_up for one in others)
    return diagnose(unit, facts.units.get(unit), words, sibling_runs=sibling_runs)


def _told(found: Diagnosis) -> str:
    return f"{found.reason}; {found.hint}" if found.hint else found.reason


def is_up(unit: str, facts: Facts) -> bool:
    """Say whether RKE2 told systemd that it is up."""
    state = facts.units.get(unit)
    return state is not None and state.is_active


# ---- what the other VMs are told


def plan_publication(
    values: Mapping[str, str], params: ClusterNodeParams, facts: Facts
) -> tuple[tuple[Action, ...], Pause | None]:
    """Publish what siblings need, unless OneGate holds it already.

    A node that published the same before does not need OneGate to do its job.
    """
    if not params.has_onegate:
        return (), None
    if facts.siblings is None:
        return (), Pause(_TELLING, "it is asked next", ONEGATE_TIMEOUT_S)
    own = facts.siblings.own
    if own is not None:
        wanted = {key: value for key, value in values.items() if (own.text(key) or "") != value}
        return ((Publish(tuple(sorted(wanted.items()))),) if wanted else ()), None
    if read_cluster_state(facts).published == digest_of_values(values):
        return (), None
    reason = facts.siblings.error or "it does not show this VM yet"
    return (), Pause(_TELLING, reason, ONEGATE_TIMEOUT_S)


def digest_of_values(values: Mapping[str, str]) -> str:
    """Return one digest of what is published."""
    return hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()


def plan_blocked(node_name: str, found: Diagnosis, facts: Facts) -> tuple[Action, ...]:
    """Tell the masters that a dead node bears this node's name."""
    own = facts.siblings.own if facts.siblings else None
    if found.kind not in ("node-password", "duplicate-member") or own is None:
        return ()
    if own.text(BLOCKED_KEY) == node_name:
        return ()
    return (Publish(((BLOCKED_KEY, node_name),)),)


# ---- for people


def first_unwell(lines: Sequence[StatusLine]) -> Readiness:
    """Say how ready a node is from the lines that describe it."""
    for line in lines:
        if line.is_vital and not line.is_well:
            said = f"{line.subject}: {line.state}"
            return Failed(said) if line.state.startswith("failed") else NotYet(said)
    return Ready()


def describe_unit(unit: str, facts: Facts, words: str) -> StatusLine:
    """Describe RKE2's unit."""
    state = facts.units.get(unit)
    if state is not None and state.is_active:
        restarts = "" if state.restarts in ("", "0") else f", restarted {state.restarts} times"
        return StatusLine("rke2", f"{unit} runs{restarts}")
    return StatusLine("rke2", _told(diagnose_unit(unit, facts, words)), is_well=False)


def describe_membership(state: ClusterState, cluster_id: str = "") -> StatusLine:
    """Describe what the node is to its cluster."""
    if not state.kind:
        return StatusLine("cluster", "belongs to none yet", is_vital=False)
    verb = "founded" if state.kind == "founder" else "joined"
    verb = verb if state.is_member else {"founded": "founds", "joined": "joins"}[verb]
    shown = f" {cluster_id[:12]}" if cluster_id else ""
    by = f" by {state.server}" if state.server else ""
    return StatusLine("cluster", f"{verb} it{shown}{by}", is_vital=False)


def describe_node(params: ClusterNodeParams, name: str, seen: NodeSeen) -> StatusLine:
    """Describe the node as the API server sees it."""
    node = seen.node
    if node is None:
        return StatusLine("kubernetes", seen.reason, is_well=False)
    # A new cluster's scheduler waits for the cloud controller, and the network plug-in for both.
    if _is_uninitialised(params, node) and (node.is_ready or _lacks_cni(node)):
        said = f"the cloud controller has not initialised {name}, so no pods come to it; {_PODS}"
        return StatusLine("kubernetes", said, is_well=False)
    if not node.is_ready:
        return StatusLine("kubernetes", f"{name} is not Ready: {_why_not(node)}", is_well=False)
    return StatusLine("kubernetes", f"{name} is Ready")


def _why_not(node: Node) -> str:
    condition = node.condition("Ready")
    if condition is None:
        return "it has said nothing yet"
    if _lacks_cni(node):
        return f"its network plug-in (CNI) is not up; {_PODS}"
    return condition.message or condition.reason


def _lacks_cni(node: Node) -> bool:
    condition = node.condition("Ready")
    return condition is not None and bool(
        _WITHOUT_CNI.search(f"{condition.reason} {condition.message}")
    )


def _is_uninitialised(params: ClusterNodeParams, node: Node) -> bool:
    return _has_cloud_controller(params) and any(one.key == _UNINITIALIZED for one in node.taints)


def _has_cloud_controller(params: ClusterNodeParams) -> bool:
    """Say whether RKE2's own is to initialise nodes; another one may come when it likes."""
    extra = parse_extra_config(params.rke2.extra_config or "")
    return params.rke2.cloud_controller_enabled and not any(
        key.rstrip("+") == "cloud-provider-name" for key in extra
    )
