"""Clusters whose OneGate lies: what is so, what is told, and how it came to be told.

Times are seconds from the beginning of the run; what was before is negative. What is so is kept
apart from what the agent makes of it, so that the two can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.errors import OneGateError, OneGateMalformed, OneGateRefused, OneGateUnavailable
from appliance.system.kubernetes import Access, Node
from appliance.system.onegate import Lease, Service, Vm, encode_update, parse_service
from tests.fakes import FakeClock, FakeKubernetes, make_node

NOW = 1_700_000_000.0
SERVICE_ID = 7
OWN_VM, OWN_NODE = 1, "m1"
ROLES = ("vnf", "master", "worker", "storage")
LONG_AGO = -100_000.0
NEVER = 100_000.0

_VM_LABEL, _SERVICE_LABEL = "oneke.opennebula.io/vm-id", "oneke.opennebula.io/service-id"
_NAME_KEY, _BLOCKED_KEY = "ONEGATE_K8S_NODE_NAME", "ONEKE_BLOCKED_BY"
_SERVER = {"node-role.kubernetes.io/control-plane": "true", "node-role.kubernetes.io/etcd": "true"}
_STORAGE = {"node.longhorn.io/create-default-disk": "true"}
_LABELS_OF = {"master": _SERVER, "storage": _STORAGE, "worker": {}}


@dataclass(frozen=True)
class Machine:
    """A VM, and the node it has in the cluster.

    Attributes:
        born_s: When OneFlow lists it.
        leaves_s: When it is told to shut down, and not counted any more.
        done_s: When it is gone for good, although OneFlow may still list it.
        gone_s: When OneFlow lists it no more.
        registered_s: When its node comes.
        ready: Ready, as its node says until it recovers.
        since_s: Since when that is so.
        recovers_s: When its node becomes Ready.
        label: What its node's label says of its VM; None for no label.
        service: What its node's label says of its service; "none" where it is in none.
        publishes: The name that it publishes; None for none.
        blocked: The name that it says it waits for.
        member: Of a master: EtcdIsVoter, and why.
        is_going: Whether its node was deleted and is still held.
    """

    vm_id: int
    role: str
    born_s: float = LONG_AGO
    leaves_s: float = NEVER
    done_s: float = NEVER
    gone_s: float = NEVER
    registered_s: float = LONG_AGO
    ready: str | None = "True"
    since_s: float = LONG_AGO
    recovers_s: float = NEVER
    label: str | None = None
    service: str | None = None
    publishes: str | None = None
    blocked: str | None = None
    member: tuple[str, str] = ("True", "")
    is_going: bool = False

    @property
    def name(self) -> str:
        """The name of its node."""
        return f"{self.role[0]}{self.vm_id}"

    def is_listed(self, at_s: float) -> bool:
        """Say whether OneFlow has it then."""
        return self.service != "none" and self.born_s <= at_s < self.gone_s

    def is_there(self, at_s: float) -> bool:
        """Say whether it is a VM of the service then."""
        return self.is_listed(at_s) and at_s < self.done_s

    def is_alive(self, at_s: float) -> bool:
        """Say whether there is a VM then, in the service or, joined by hand, in none."""
        return self.service == "none" or self.is_there(at_s)

    def is_ready(self, at_s: float) -> bool:
        """Say whether its node is Ready then."""
        return self.ready == "True" or at_s >= self.recovers_s

    def is_voter(self) -> bool:
        """Say whether it counts in etcd's quorum."""
        return self.role == "master" and self.member[1] not in ("MemberIsLearner", "NotAMember")

    def node(self, at_s: float) -> Node:
        """Return its node as it is then."""
        labels = dict(_LABELS_OF[self.role])
        if self.label is not None:
            labels[_VM_LABEL] = self.label
        if self.service is not None:
            labels[_SERVICE_LABEL] = self.service
        has_recovered = at_s >= self.recovers_s
        is_member = self.role == "master"
        return make_node(
            self.name,
            labels=labels,
            ready="True" if has_recovered else self.ready,
            ready_since_s=NOW + (self.recovers_s if has_recovered else self.since_s),
            voter=self.member[0] if is_member else None,
            voter_reason=self.member[1] if is_member else "",
            created_s=NOW + self.registered_s,
            is_going=self.is_going,
        )

    def document(self, at_s: float, *, as_text: bool) -> dict[str, Any]:
        """Return what OneGate shows of it."""
        attributes = {"ROLE_NAME": self.role, "SERVICE_ID": str(SERVICE_ID)}
        if self.publishes is not None:
            attributes[_NAME_KEY] = self.publishes
        if self.blocked is not None:
            attributes[_BLOCKED_KEY] = self.blocked
        state, lcm_state = (3, 12) if at_s >= self.leaves_s else (3, 3)
        if at_s >= self.done_s:
            state, lcm_state = 6, 0
        vm = {"ID": str(self.vm_id), "STATE": str(state), "LCM_STATE": str(lcm_state)}
        vm_id: object = str(self.vm_id) if as_text else self.vm_id
        return {"deploy_id": vm_id, "vm_info": {"VM": {**vm, "USER_TEMPLATE": attributes}}}


@dataclass
class Cluster:
    """All that is so."""

    machines: tuple[Machine, ...]

    def listed(self, role: str, at_s: float) -> list[Machine]:
        """Return the VMs of a role as OneFlow has them."""
        return [one for one in self.machines if one.role == role and one.is_listed(at_s)]

    def service(self, at_s: float, *, as_text: bool = False) -> dict[str, Any]:
        """Return the whole truth as OneGate tells it."""
        roles = []
        for role in ROLES:
            listed = self.listed(role, at_s)
            count = sum(at_s < min(one.leaves_s, one.done_s) for one in listed)
            roles.append(
                {
                    "name": role,
                    "cardinality": str(count) if as_text else count,
                    "state": 2,
                    "nodes": [one.document(at_s, as_text=as_text) for one in listed],
                }
            )
        service_id: object = str(SERVICE_ID) if as_text else SERVICE_ID
        return {"SERVICE": {"id": service_id, "name": "OneKE", "state": 2, "roles": roles}}


# ---- lies


@dataclass(frozen=True)
class Lie:
    """What is wrong with an answer.

    Attributes:
        kind: Which lie; see `KINDS` and `HARMLESS`.
        which: Numbers that choose what it is about.
        old_s: How old the answer is when it is asked for.
        slow_s: How long it takes.
    """

    kind: str = "none"
    which: tuple[int, ...] = (0, 0, 0)
    old_s: float = 0.0
    slow_s: float = 0.0

    @property
    def is_harmless(self) -> bool:
        """Whether the answer is the truth, however it is told."""
        return self.kind in HARMLESS and self.old_s == 0


HARMLESS = ("none", "ids as text", "strange words")
DOWN = {
    "down": OneGateUnavailable("OneGate GET /service: Connection refused"),
    "refused": OneGateRefused("OneGate GET /service: status 400: no service", status=400),
    "no json": OneGateMalformed("OneGate GET /service: the answer is not JSON"),
}


def _nodes(service: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    return [(role, place) for role in service["roles"] for place in range(len(role["nodes"]))]


def _choose(items: list[Any], number: int) -> Any:
    return items[number % len(items)]


def _others(service: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """Return where the VMs but our own are listed."""
    found = _nodes(service)
    return [
        (role, place)
        for role, place in found
        if role["nodes"][place]["vm_info"]["VM"]["ID"] != str(OWN_VM)
    ]


def _drop_nodes(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Leave VMs out of the roles' lists."""
    for number in which:
        found = _others(service)
        if found:
            role, place = _choose(found, number)
            del role["nodes"][place]


def _drop_role(service: dict[str, Any], which: tuple[int, ...]) -> None:
    others = [role for role in service["roles"] if role["name"] != "master"]
    service["roles"].remove(_choose(others, which[0]))


def _null_nodes(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Tell of a role neither its VMs nor how many there should be."""
    role = _choose(service["roles"], which[0])
    role["nodes"] = None
    if which[1] % 2:
        del role["cardinality"]


def _garble_nodes(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Put something that is no VM in the place of one."""
    found = _others(service)
    if found:
        role, place = _choose(found, which[0])
        wrong = [None, "x", {}, {"deploy_id": None}, {"deploy_id": "1e3"}, [1]]
        role["nodes"][place] = _choose(wrong, which[1])
        if which[2] % 2:
            role["cardinality"] = None


def _hide_vm(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Show of a VM no more than that it is there."""
    found = _others(service)
    if found:
        role, place = _choose(found, which[0])
        shown = [None, {}, {"VM": {}}, {"VM": {"ID": role["nodes"][place]["deploy_id"]}}]
        role["nodes"][place]["vm_info"] = _choose(shown, which[1])


def _double_vm(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Show a VM in the place of another as well."""
    found = _nodes(service)
    source, at = _choose(found, which[0])
    target, place = _choose(_others(service) or found, which[1])
    copied = json.loads(json.dumps(source["nodes"][at]))
    if which[2] % 2:
        copied["deploy_id"] = target["nodes"][place]["deploy_id"]
    target["nodes"][place] = copied


def _swap_vms(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Show two VMs in each other's place, wholly or by what is shown of them."""
    found = _nodes(service)
    (one, at), (other, place) = _choose(found, which[0]), _choose(found, which[1])
    for key in ("vm_info", "deploy_id")[: 1 + which[2] % 2]:
        first, second = one["nodes"][at][key], other["nodes"][place][key]
        one["nodes"][at][key], other["nodes"][place][key] = second, first


def _rename_vm(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Show a VM under a number that nobody has."""
    found = _others(service)
    if found:
        role, place = _choose(found, which[0])
        node = role["nodes"][place]
        node["vm_info"]["VM"]["ID"] = _choose(["999", "", None, "-1", "4 "], which[1])


def _forge_words(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Change what a VM says of itself, as any of its siblings can."""
    found = _nodes(service)
    for number in which:
        role, place = _choose(found, number)
        other, at = _choose(found, number // 7)
        name = f"{other['name'][0]}{other['nodes'][at]['vm_info']['VM']['ID']}"
        said = role["nodes"][place]["vm_info"]["VM"]["USER_TEMPLATE"]
        said[_choose([_NAME_KEY, _BLOCKED_KEY, "ROLE_NAME"], number // 3)] = _choose(
            [name, "", ["x", "y"], None], number // 5
        )


def _lose_words(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Leave out what VMs say of themselves."""
    for role, place in _nodes(service):
        said = role["nodes"][place]["vm_info"]["VM"]["USER_TEMPLATE"]
        for key in (_NAME_KEY, _BLOCKED_KEY):
            said.pop(key, None)


def _empty(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Tell of no VMs at all, in one way or another."""
    way = which[0] % 5
    if way == 0:
        service.clear()
    elif way == 1:
        service["roles"] = _choose([[], None, {}, "x"], which[1])
    for role in service.get("roles") or [] if way >= 2 else []:
        role["nodes"] = _choose([[], None, {}], which[1])
        if way == 3:
            role["cardinality"] = 0
        elif way == 4:
            del role["cardinality"]


def _other_service(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Tell of another service, with or without our own VM among its own."""
    service["id"] = SERVICE_ID + 1
    if which[0] % 2:
        _drop_nodes(service, which)


def _strange_words(service: dict[str, Any], which: tuple[int, ...]) -> None:
    """Tell the truth in the other shapes that OneGate has for it."""
    for role in service["roles"]:
        if len(role["nodes"]) == 1 and which[0] % 2:
            role["nodes"] = role["nodes"][0]
        elif not role["nodes"] and which[1] % 2:
            role["nodes"] = None


KINDS = {
    "partial": _drop_nodes,
    "role missing": _drop_role,
    "role untold": _null_nodes,
    "garbled": _garble_nodes,
    "hidden": _hide_vm,
    "doubled": _double_vm,
    "swapped": _swap_vms,
    "renumbered": _rename_vm,
    "forged words": _forge_words,
    "lost words": _lose_words,
    "empty": _empty,
    "other service": _other_service,
    "strange words": _strange_words,
}


@dataclass
class LyingOneGate:
    """OneGate, of which every answer may be a lie; the answers are read as the real ones are.

    Attributes:
        lies: The first look's and the second's.
        told_s: When what was told was so, look by look.
        published: What our own VM published, and when.
    """

    cluster: Cluster
    clock: FakeClock
    began_s: float
    lies: tuple[Lie, Lie]
    told_s: list[float] = field(default_factory=list)
    published: list[tuple[float, Mapping[str, str]]] = field(default_factory=list)

    def service(self, roles: Iterable[str] = ()) -> Service:
        """Answer, and lie."""
        lie = self.lies[len(self.told_s)]
        if lie.kind in DOWN:
            self.clock.pass_time(lie.slow_s)
            raise DOWN[lie.kind]
        at_s = self.clock.monotonic() - self.began_s - lie.old_s
        document = self.cluster.service(at_s, as_text=lie.kind == "ids as text")
        for role, place in _nodes(document["SERVICE"]):
            vm = role["nodes"][place]["vm_info"]["VM"]
            for then_s, values in self.published if vm["ID"] == str(OWN_VM) else ():
                vm["USER_TEMPLATE"] |= values if then_s <= at_s else {}
        if lie.kind in KINDS:
            KINDS[lie.kind](document["SERVICE"], lie.which)
        self.clock.pass_time(lie.slow_s)
        answer = parse_service(json.loads(json.dumps(document)))
        self.told_s.append(at_s)
        return answer

    def own_vm(self) -> Vm:
        """Refuse: nobody asks."""
        raise self._unasked()

    def vm(self, vm_id: int) -> Vm:
        """Refuse: nobody asks."""
        raise self._unasked()

    def leases(self) -> tuple[Lease, ...]:
        """Refuse: nobody asks."""
        raise self._unasked()

    def update(self, values: Mapping[str, str]) -> None:
        """Store what our own VM publishes, where OneGate is there at all."""
        lie = self.lies[len(self.told_s)]
        if lie.kind in DOWN:
            raise DOWN[lie.kind]
        encode_update(values)
        self.published.append((self.clock.monotonic() - self.began_s, values))

    def _unasked(self) -> OneGateError:
        raise AssertionError("nothing but the service is asked for")


class Nodes(FakeKubernetes):
    """The cluster's nodes as time passes, and when they were read and deleted.

    Attributes:
        read_s: When the nodes were read, each time.
        deleted: What was deleted, and when.
        told_s: When what OneGate told was so, look by look.
    """

    def __init__(self, cluster: Cluster, clock: FakeClock, began_s: float) -> None:
        """Begin with the nodes that are there."""
        super().__init__(one.node(0.0) for one in cluster.machines if one.registered_s <= 0)
        self._clock, self._began_s = clock, began_s
        self.read_s: list[float] = []
        self.deleted: list[tuple[str, float]] = []
        self.told_s: tuple[float, ...] = ()
        for one in cluster.machines:
            for at_s in (one.registered_s, one.recovers_s):
                if 0 < at_s < NEVER:
                    clock.after(at_s, lambda one=one: self.put(one.node(self._now_s)))

    @property
    def _now_s(self) -> float:
        return self._clock.monotonic() - self._began_s

    def nodes(self, access: Access) -> tuple[Node, ...]:
        """Return all nodes."""
        self.read_s.append(self._now_s)
        return super().nodes(access)

    def delete_node(self, access: Access, node: Node) -> bool:
        """Delete a node, and remember that."""
        was_there = super().delete_node(access, node)
        self.deleted.append((node.name, self._now_s))
        return was_there
