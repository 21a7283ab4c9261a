"""How a master comes into a cluster: founding it, joining it, or starting again what it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from appliance.actions import EnsureSecret, Publish
from appliance.facts import Facts
from appliance.plan import Action, GiveUp, Pause, Plan, Stage
from appliance.secret import Secret
from roles.common import clusterstate as kept
from roles.common.clusternode import (
    Rke2Settings,
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
)
from roles.common.clusterstate import FOUNDER, JOINED, ClusterState, cluster_id_of, password_of
from roles.common.diagnosis import Diagnosis
from roles.common.election import (
    CLUSTER_KEY,
    FOUNDER_KEY,
    Announce,
    Found,
    Hold,
    Hopeless,
    Join,
    Retract,
    ServerDecision,
    decide_server,
)
from roles.common.endpoints import SUPERVISOR_PORT
from roles.common.rke2params import pinned_token
from roles.master.model import UNIT, MasterModel
from roles.master.status import describe_own_node

_TURN = "this master's turn to found the cluster, or to join it"
_RKE2 = "RKE2 to serve the Kubernetes API"
_LOOK = "kubectl get --raw /readyz?verbose here, and /var/log/pods"
_NODE = "this node to be Ready, and a voter in etcd"

_LOST = Hopeless(
    "this machine was a part of a cluster, and its etcd data is gone",
    "bring /var/lib/rancher/rke2/server back from a backup; or, if the cluster is to begin anew,"
    f" remove {kept.CLUSTER}",
)

Decision = tuple[Iterable[Action], Pause | GiveUp | None]


@dataclass(frozen=True)
class Bootstrap:
    """Decides one round: what to do now, and what to wait for then."""

    model: MasterModel
    facts: Facts

    def plan(self) -> Plan:
        """Return the plan of this round."""
        refusal = refuse_other_kind(UNIT, _RKE2, self.facts)
        if refusal is not None:
            return Plan(Stage.BOOTSTRAP, (), refusal)
        actions, then = self._run() if self._is_committed() else self._enter()
        return Plan(Stage.BOOTSTRAP, tuple(actions), then)

    def _is_committed(self) -> bool:
        """Say whether nothing is left to decide: it has its data, or is about to get it.

        One that lost its data asks again, even if it was a member.
        """
        model = self.model
        if model.has_data:
            return True
        unit = self.facts.units.get(UNIT)
        is_begun = unit is not None and (unit.is_active or unit.is_coming_up)
        return model.state.kind == FOUNDER and is_begun

    # ---- the way in

    def _enter(self) -> Decision:
        decision = self._server_decision()
        if isinstance(decision, Announce):
            said = "announced in OneGate that this VM founds the cluster; reading it back"
            return (Publish(((FOUNDER_KEY, "YES"),)),), Pause(
                _TURN, said, self.model.params.rke2.join_timeout
            )
        if isinstance(decision, Retract):
            said = f"VM {decision.other} goes first in founding the cluster"
            return (Publish(((FOUNDER_KEY, ""),)),), Pause(
                _TURN, said, self.model.params.rke2.join_timeout
            )
        if isinstance(decision, Hold):
            return (), Pause(_TURN, decision.reason, self.model.params.rke2.join_timeout)
        if isinstance(decision, Hopeless):
            return (), GiveUp(_TURN, f"{decision.reason}; {decision.hint}")
        return self._found() if isinstance(decision, Found) else self._join(decision)

    def _server_decision(self) -> ServerDecision:
        params = self.model.params
        by_hand = pinned_token(params.rke2, "server")
        if by_hand is not None:
            return Join(by_hand, None, params.rke2.join_address or "", 0)
        if not params.has_onegate:
            return _LOST if self.model.state.is_member else Found()
        if self.facts.siblings is None:
            return Hold("OneGate was not asked yet")
        state = self.model.state
        has_begun = state.kind == FOUNDER and not state.is_member
        return decide_server(params.opennebula.vm_id, self.facts.siblings, has_begun=has_begun)

    def _found(self) -> Decision:
        state = self._state(FOUNDER, "")
        tokens: tuple[Action, ...] = (
            EnsureSecret(kept.SERVER_TOKEN),
            EnsureSecret(kept.AGENT_TOKEN),
        )
        if self.model.server_token.reveal() and self.model.agent_token.reveal():
            tokens = tuple(self._token_files(self.model.server_token))
        settings = self.model.settings(server="", password=None, makes_tokens=True)
        # RKE2's settings name the files of the tokens, so these come first.
        actions = (*tokens, *plan_rke2(settings))
        return (kept.keep_cluster_state(state), *actions), self._pause_for_rke2()

    def _join(self, join: Join) -> Decision:
        server = find_entry(
            join,
            self.model.params,
            self.model.node,
            waits_for=_TURN,
            trouble=self.model.supervisor_trouble,
        )
        if isinstance(server, Pause):
            return (), server
        tokens: list[Action] = [secret_file(kept.SERVER_TOKEN, join.token)]
        model = self.model
        if join.agent_token is not None:
            agents = Secret(password_of(join.agent_token.reveal()))
            tokens.append(secret_file(kept.AGENT_TOKEN, agents))
            model = replace(model, agent_token=agents)
        password = Secret(password_of(join.token.reveal()))
        settings = model.settings(server=server, password=password)
        # Before there is any data: whoever looks at OneGate from now on knows of the cluster. What
        # somebody typed may name another one, and would keep the other masters out.
        is_typed = pinned_token(model.params.rke2, "server") is not None
        cluster_id = "" if is_typed else cluster_id_of(join.token.reveal())
        actions = (
            *self._publish_cluster(cluster_id),
            kept.keep_cluster_state(self._state(JOINED, server)),
            *tokens,
            *plan_rke2(settings),
            *plan_blocked(model.node.node_name, self._diagnosis(), self.facts),
        )
        return actions, self._pause_for_rke2()

    def _state(self, kind: str, server: str) -> ClusterState:
        name = self.model.node.node_name
        return replace(self.model.state, node_name=name, kind=kind, server=server)

    # ---- running

    def _run(self) -> Decision:
        """Start what this machine has, and tell the others once it serves."""
        model, state = self.model, self.model.state
        actions = (*self._token_files(model.server_token), *plan_rke2(self._settings(state)))
        if not is_up(UNIT, self.facts):
            blocked = plan_blocked(model.node.node_name, self._diagnosis(), self.facts)
            known = self._publish_cluster(cluster_id_of(model.node_token.reveal()))
            return (*actions, *known, *blocked), self._pause_for_rke2()
        if model.api_trouble:
            said = f"its own API server: {model.api_trouble}; if this stays: {_LOOK}"
            return actions, self._pause(said)
        if not model.node_token.reveal():
            return actions, self._pause(f"{kept.NODE_TOKEN} is not there yet")
        return self._tell_others(state)

    def _publish_cluster(self, cluster_id: str) -> tuple[Action, ...]:
        own = self.facts.siblings.own if self.facts.siblings else None
        if own is None or not cluster_id or own.text(CLUSTER_KEY) == cluster_id:
            return ()
        return (Publish(((CLUSTER_KEY, cluster_id),)),)

    def _tell_others(self, state: ClusterState) -> Decision:
        model = self.model
        values = model.published_values()
        publish, pause = plan_publication(values, model.params, self.facts)
        supervisor = model.node.endpoints.supervisor or f"{model.node.address}:{SUPERVISOR_PORT}"
        member = replace(
            state,
            node_name=model.node.node_name,
            kind=state.kind or JOINED,
            # From now on the settings name the supervisor, so that this master can join anew
            # should it ever be taken out of etcd.
            server=state.server or str(supervisor),
            is_member=True,
            published=state.published if pause else digest_of_values(values),
        )
        actions = (
            *publish,
            *self._token_files(model.node_token),
            kept.keep_cluster_state(member),
            *plan_rke2(self._settings(member)),
        )
        return actions, pause or self._until_ready()

    def _until_ready(self) -> Pause | None:
        lines = describe_own_node(self.model, self.model.params)
        unwell = next((line.state for line in lines if not line.is_well), None)
        return Pause(_NODE, unwell, self.model.params.rke2.start_timeout) if unwell else None

    def _settings(self, state: ClusterState) -> Rke2Settings:
        is_founder = state.kind == FOUNDER
        password = Secret(password_of(self.model.server_token.reveal()))
        return self.model.settings(server=state.server, password=None if is_founder else password)

    # ---- shared

    def _token_files(self, server_token: Secret) -> Iterator[Action]:
        """Keep the tokens where RKE2's settings name them; without them it would not start."""
        tokens = {kept.SERVER_TOKEN: server_token, kept.AGENT_TOKEN: self.model.agent_token}
        for path, token in tokens.items():
            if token.reveal().strip():
                yield secret_file(path, token)

    def _diagnosis(self) -> Diagnosis:
        return diagnose_unit(UNIT, self.facts, self.model.words)

    def _pause_for_rke2(self) -> Pause:
        return pause_for_rke2(_RKE2, self._diagnosis(), self.model.params.rke2.start_timeout)

    def _pause(self, reason: str) -> Pause:
        return Pause(_RKE2, reason, self.model.params.rke2.start_timeout)
