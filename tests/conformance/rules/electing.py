"""The rules of the area `detect_node`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.conformance.reference import dig
from tests.conformance.rules.base import Rule, whole
from tests.conformance.vectors import Inputs

_AREA = "detect_node"
_ROLES = ("master", "worker", "storage")
_TOKEN, _AGENT_TOKEN = "ONEGATE_K8S_TOKEN", "ONEGATE_K8S_AGENT_TOKEN"
_MASTER, _CLUSTER, _FOUNDER = "ONEGATE_K8S_MASTER", "ONEKE_CLUSTER_ID", "ONEKE_FOUNDER"
_RUNNING, _SHUTDOWN = (3, 3), 12


@dataclass(frozen=True)
class Way:
    """How a node comes in: init, join, again (it starts what it has), or none of it (idle)."""

    kind: str
    token: str | None = None


@dataclass(frozen=True)
class View:
    """What a vector shows.

    Attributes:
        ids: The masters as the service lists them.
        masters: Those that can be read: id to what they publish.
        states: Id to STATE and LCM_STATE.
        wanted: How many masters there should be.
    """

    own_id: int | None
    own: Mapping[str, Any]
    ids: tuple[int | None, ...]
    masters: Mapping[int | None, Mapping[str, Any]]
    states: Mapping[int | None, tuple[int | None, int | None]]
    wanted: int
    reachable: tuple[str, ...]

    @property
    def role(self) -> object:
        """The role this VM says it has."""
        return self.own.get("ROLE_NAME")

    @property
    def has_begun(self) -> bool:
        """Whether this VM reported READY, or published what only a running server has."""
        serves = any(_text(self.own, key) for key in (_MASTER, _TOKEN, _CLUSTER))
        return self.own.get("READY") == "YES" or (self.role == "master" and serves)

    @property
    def is_first(self) -> bool:
        """Whether the service lists this VM as its first master."""
        return bool(self.ids) and self.ids[0] == self.own_id


def _view(inputs: Inputs) -> View:
    roles = dig(inputs.onegate.get("service"), "SERVICE", "roles") or ()
    role = next((role for role in roles if role.get("name") == "master"), {})
    ids = tuple(whole(dig(node, "vm_info", "VM", "ID")) for node in role.get("nodes") or ())
    own = dig(inputs.onegate.get("vm"), "VM") or {}
    found = {whole(dig(vm, "VM", "ID")): vm["VM"] for vm in inputs.onegate.get("vms") or ()}
    masters = {one: found[one].get("USER_TEMPLATE") or {} for one in ids if one in found}
    states = {
        one: (whole(vm.get("STATE")), whole(vm.get("LCM_STATE"))) for one, vm in found.items()
    }
    return View(
        own_id=whole(own.get("ID")),
        own=own.get("USER_TEMPLATE") or {},
        ids=ids,
        masters=masters,
        states=states,
        wanted=whole(role.get("cardinality")) or 0,
        reachable=tuple(inputs.call.get("reachable_masters") or ()),
    )


def _theirs(view: View) -> Way | None:
    """Return the reference's way; None where it has no result."""
    if view.own_id is None or not view.ids or view.ids[0] not in view.masters:
        return None
    chosen: Mapping[str, Any] | None = view.masters[view.ids[0]]
    if not view.is_first:
        if len(view.masters) != len(set(view.ids)):
            return None
        ready = (view.masters[one] for one in view.ids if _is_usable(view, view.masters[one]))
        chosen = next(ready, None)
    if chosen is None:
        return None
    token = chosen.get(_TOKEN)
    if view.own.get("READY") == "YES":
        return Way("again", token)
    if view.role == "master" and view.is_first:
        return Way("again", token) if token is not None else Way("init")
    if view.role in _ROLES and not view.is_first and token is not None:
        return Way("join", token)
    return Way("idle", token)


def _is_usable(view: View, said: Mapping[str, Any]) -> bool:
    return said.get("READY") == "YES" and said.get(_MASTER) in view.reachable


def _ours(view: View) -> Way | None:
    """Return the agent's way; None where it waits without an end."""
    if view.own_id is None or view.role not in _ROLES:
        return None
    if view.has_begun:
        return Way("again", _text(view.own, _TOKEN) or _find(view, _AGENT_TOKEN, _TOKEN))
    token = _our_token(view)
    if token is not None:
        return Way("join", token) if view.reachable else None
    return Way("init") if view.role == "master" and _may_found(view) else None


def _our_token(view: View) -> str | None:
    if view.role != "master":
        return _find(view, _AGENT_TOKEN, _TOKEN)
    is_leaving = view.states.get(view.own_id, (None, None))[1] == _SHUTDOWN
    if view.own_id not in view.ids or is_leaving or len(_clusters(view)) > 1:
        return None
    return _find(view, _TOKEN)


def _clusters(view: View) -> set[str]:
    serving = _serving(view)
    staying = [one for one in serving if view.states[one][1] != _SHUTDOWN] or serving
    return {cluster for one in staying if (cluster := _text(view.masters[one], _CLUSTER))}


def _serving(view: View) -> list[int | None]:
    """Return the masters, other than this VM where it is one, that have a cluster."""
    return [
        one
        for one, said in view.masters.items()
        if (_text(said, _MASTER) or _text(said, _CLUSTER))
        and not (view.role == "master" and one == view.own_id)
    ]


def _find(view: View, *keys: str) -> str | None:
    serving = _serving(view)
    if view.role == "master":
        serving = [one for one in serving if view.states[one][1] != _SHUTDOWN] or serving
    for key in keys:
        usable = [
            (not _text(said, _MASTER), view.states[one] != _RUNNING, one or 0, said[key])
            for one in serving
            if re.fullmatch(r"[!-~]{1,400}", _text(said := view.masters[one], key))
        ]
        if usable:
            return str(min(usable)[3])
    return None


def _may_found(view: View) -> bool:
    """Say whether this VM founds the cluster: alone to, with the lowest id of all, all known."""
    if _serving(view) or view.own_id not in view.masters:
        return False
    others = [said for one, said in view.masters.items() if one != view.own_id]
    is_whole = len(view.ids) == view.wanted == len(view.masters)
    is_leaving = any(view.states[one][1] == _SHUTDOWN for one in view.masters)
    is_announced = any(_text(said, _FOUNDER) for said in others)
    is_lowest = view.own_id == min(one for one in view.ids if one is not None)
    return is_whole and is_lowest and not is_leaving and not is_announced


def _text(said: Mapping[str, Any], key: str) -> str:
    value = said.get(key)
    return value if isinstance(value, str) else ""


def _ways(inputs: Inputs) -> tuple[View, Way | None, Way | None]:
    view = _view(inputs)
    return view, _theirs(view), _ours(view)


def _unknown_role(inputs: Inputs) -> bool:
    view, theirs, ours = _ways(inputs)
    return view.role not in _ROLES and theirs is not None and ours is None


def _starts_again(inputs: Inputs) -> bool:
    view, theirs, ours = _ways(inputs)
    return view.role in _ROLES and view.has_begun and theirs != ours


def _enters(inputs: Inputs) -> tuple[View, Way | None, Way | None] | None:
    """Return the ways of a node of the cluster that was never in it, where they differ."""
    view, theirs, ours = _ways(inputs)
    is_new = view.role in _ROLES and not view.has_begun
    return (view, theirs, ours) if is_new and theirs != ours else None


def _kinds(inputs: Inputs) -> tuple[str, str]:
    """Return what reference and agent do where they differ; empty texts where they do not."""
    found = _enters(inputs)
    if found is None:
        return "", ""
    _, theirs, ours = found
    return theirs.kind if theirs else "nothing", ours.kind if ours else "nothing"


def _is_unread(inputs: Inputs) -> bool:
    view = _view(inputs)
    return len(view.masters) != len(set(view.ids))


def electing_rules() -> Iterator[Rule]:
    """Yield the rules."""
    yield Rule(
        _AREA,
        "unknown-role",
        "starts the agent of RKE2 without any configuration on a VM whose role it does not know",
        "refuse a role that there is no handler for, and name those there are",
        "RKE2 without configuration never comes up, and says nothing that helps.",
        _unknown_role,
    )
    yield Rule(
        _AREA,
        "starts-what-it-has",
        "looks for a ready master before a node that was in the cluster starts again, and joins"
        " one anew that was cut before it reported READY",
        "start what the machine has, with the token it keeps, whatever OneGate shows",
        "After a power cut of the whole cluster nobody is ready before the others; OneGate may be"
        " down as well.",
        _starts_again,
    )
    yield Rule(
        _AREA,
        "joins-on-a-token",
        "waits until a master has reported READY, in capital letters, and published its address",
        "join as soon as a master of a cluster has published a token and the supervisor answers",
        "A worker costs a server nothing while it is not ready to take it, and the minutes until"
        " the founder is READY are saved.",
        lambda inputs: _kinds(inputs) == ("nothing", "join") and not _is_unread(inputs),
    )
    yield Rule(
        _AREA,
        "unread-master",
        "ends the attempt where one of the masters can not be read",
        "join with the token of another that can; only founding needs to know all of them",
        "One VM of another owner would keep every node out of the cluster.",
        lambda inputs: _kinds(inputs) == ("nothing", "join") and _is_unread(inputs),
    )
    yield Rule(
        _AREA,
        "token-of-any-master",
        "takes what the first ready master publishes, no token at all included: RKE2 then starts"
        " without configuration",
        "take a token from whichever master publishes one that can be used; agents get the one"
        " that is for agents",
        "All of them are of the same cluster, and the servers' token opens more than a worker"
        " needs.",
        lambda inputs: _kinds(inputs) in (("join", "join"), ("idle", "join")),
    )
    yield Rule(
        _AREA,
        "one-founder",
        "has the first master of the list found a cluster, whatever the others have",
        "found none where another master has one or says that it founds one, or where not all"
        " masters are known, or another one has a lower id; join what is there, else wait",
        "Two clusters can not be merged again. The list begins with another VM after every"
        " scale-down.",
        lambda inputs: _kinds(inputs)[0] == "init",
    )
    yield Rule(
        _AREA,
        "lowest-id-founds",
        "has only the first master of the list found the cluster",
        "have the one with the lowest VM id do so",
        "The ids are an order that every master sees alike, at any time.",
        lambda inputs: _kinds(inputs) == ("nothing", "init"),
    )
    yield Rule(
        _AREA,
        "empty-token",
        "takes an empty token that the first master publishes for one of its own, and starts what"
        " is not there",
        "take it for none: withdrawn values are overwritten, not erased",
        "A VM that publishes no token has no server that runs.",
        lambda inputs: _kinds(inputs)[0] == "again",
    )
    yield Rule(
        _AREA,
        "does-not-join",
        "joins, or starts RKE2 without configuration, with what the first ready master publishes",
        "wait, and say why, where masters publish different clusters, the only token can not be"
        " one, or this VM is being removed or not listed among the masters",
        "Each of these would be a node in the wrong cluster, or one that RKE2 waits for without"
        " an end.",
        lambda inputs: _kinds(inputs) in (("join", "nothing"), ("idle", "nothing")),
    )


def _vm(vm_id: int, **said: str) -> dict[str, Any]:
    attributes = {"ROLE_NAME": "master", **said}
    return {"VM": {"ID": str(vm_id), "STATE": "3", "LCM_STATE": "3", "USER_TEMPLATE": attributes}}


def _example(own: int, *vms: dict[str, Any]) -> Inputs:
    """Return a service of two or three masters, and who of them asks."""
    ids = [vm["VM"]["ID"] for vm in vms]
    nodes = [{"deploy_id": int(one), "vm_info": {"VM": {"ID": one}}} for one in ids]
    role = {"name": "master", "cardinality": len(nodes), "nodes": nodes}
    asking = next(vm for vm in vms if vm["VM"]["ID"] == str(own))
    documents = {"service": {"SERVICE": {"id": "7", "roles": [role]}}, "vms": list(vms)}
    return Inputs(
        call={"reachable_masters": ["10.77.1.61", "10.77.1.62"]},
        onegate={**documents, "vm": asking},
    )


def _serving_vm(vm_id: int, **said: str) -> dict[str, Any]:
    given = {_MASTER: f"10.77.1.{vm_id}", _TOKEN: "K10beef::server:beef", "READY": "YES"}
    return _vm(vm_id, **{**given, **said})


EXAMPLES: Mapping[str, Inputs] = {
    "starts-what-it-has": _example(62, _vm(61), _serving_vm(62, READY="NO")),
    "one-founder": _example(61, _vm(61), _serving_vm(62)),
    "lowest-id-founds": _example(61, _vm(62), _vm(61)),
    "empty-token": _example(61, _vm(61, **{_TOKEN: ""}), _serving_vm(62)),
    "does-not-join": _example(
        63,
        _serving_vm(61, **{_CLUSTER: "beef"}),
        _serving_vm(62, **{_CLUSTER: "cafe"}),
        _vm(63),
    ),
}
