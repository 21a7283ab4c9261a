"""Which nodes are deleted: one that is dead for good in every respect, and none beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from appliance.system.kubernetes import Node
from appliance.system.onegate import Service, ServiceRole, Vm
from roles.common.cleaner import (
    APART_S,
    GRACE_S,
    SERVICE_LABEL,
    Cleaner,
    Finding,
    Look,
    Verdict,
    decide,
    needs_onegate,
)
from roles.common.election import BLOCKED_KEY
from roles.common.registration import NODE_NAME_KEY
from roles.common.rke2config import VM_LABEL
from tests.fakes import make_node

NOW = 1_000_000.0
LONG_AGO = NOW - 10 * GRACE_S
US = Cleaner("m1", vm_id=1, service_id=7, now_s=NOW)
SERVER = {"node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true"}


def vm(vm_id: int, *, state: int = 3, lcm_state: int = 3, **attributes: str) -> Vm:
    return Vm(vm_id, f"vm-{vm_id}", state, lcm_state, attributes, ())


def service(
    roles: Mapping[str, Iterable[Vm | int]] | None = None,
    *,
    cardinality: Mapping[str, int] | None = None,
    complete: bool = True,
    service_id: int = 7,
) -> Service:
    """Return a service; a VM that is only a number can not be read."""
    found = []
    for name, members in (roles or {"master": (vm(1),), "worker": (vm(4),)}).items():
        listed = tuple(members)
        ids = tuple(one if isinstance(one, int) else one.vm_id for one in listed)
        vms = tuple(one for one in listed if isinstance(one, Vm))
        wanted = (cardinality or {}).get(name, len(ids))
        found.append(ServiceRole(name, wanted, 2, ids, vms))
    return Service(service_id, "OneKE", 2, tuple(found), complete)


def unclear(role: str) -> Service:
    """Return a service that does not tell clearly which VMs one of its roles has."""
    sound = service()
    found = (replace(one, is_clear=one.name != role) for one in sound.roles)
    return replace(sound, roles=tuple(found))


def looks(first: Service | None = None, second: Service | None = None) -> tuple[Look, Look]:
    """Return two answers, of which the second is newer."""
    first = first or service()
    return (
        Look(first, "", 0.0, 1.0),
        Look(second or first, "", 1.0 + APART_S, 2.0 + APART_S),
    )


def server(name: str, vm_id: int, **changes: object) -> Node:
    """Return a server's node that is well."""
    labels = {**SERVER, VM_LABEL: str(vm_id)}
    return make_node(name, **{"labels": labels, "voter": "True", **changes})


def dead_server(name: str, vm_id: int, **changes: object) -> Node:
    """Return the node of a server that is gone; etcd's leader says that it is not well."""
    gone = {"ready": "Unknown", "ready_since_s": LONG_AGO, "voter": "False"}
    return server(name, vm_id, **{**gone, "voter_reason": "Unhealthy", **changes})


def dead(name: str = "w9", vm_id: object = 9, **changes: object) -> Node:
    """Return the node of a worker that is gone."""
    given = {"labels": {VM_LABEL: str(vm_id)}, "ready": "Unknown", "ready_since_s": LONG_AGO}
    return make_node(name, **{**given, **changes})


OWN = server("m1", 1)


def judge(
    *nodes: Node, seen: tuple[Look, ...] | None = None, us: Cleaner = US, own: Node = OWN
) -> dict[str, Finding]:
    """Decide about our own node and others, and return the findings by name."""
    found = decide((own, *nodes), looks() if seen is None else seen, us)
    assert [one.node.name for one in found] == sorted(node.name for node in (own, *nodes))
    assert all(one.reason for one in found)
    assert all(one.verdict is Verdict.KEEP for one in found if one.node is own)
    return {one.node.name: one for one in found}


def deleted(found: Mapping[str, Finding]) -> list[str]:
    return [name for name, one in found.items() if one.verdict is Verdict.DELETE]


# --- one node -------------------------------------------------------------------------------------


def test_a_node_that_is_dead_in_every_respect_is_deleted() -> None:
    found = judge(dead())
    assert deleted(found) == ["w9"]
    assert found["w9"].reason == "not Ready for 600 s, and VM 9 is not in the service any more"


def test_a_vm_that_is_done_is_gone_although_it_is_listed_and_says_its_name() -> None:
    """OneFlow lists it until the others that leave with it are done as well."""
    done = vm(9, state=6, lcm_state=0, **{NODE_NAME_KEY: "w9"})
    there = service({"master": (vm(1),), "worker": (done, vm(4))}, cardinality={"worker": 1})
    assert deleted(judge(dead(), seen=looks(there))) == ["w9"]
    before = service({"master": (vm(1),), "worker": (vm(9), vm(4))}, cardinality={"worker": 1})
    assert deleted(judge(dead(), seen=looks(before, there))) == []
    short = service({"master": (vm(1),), "worker": (done, vm(4))}, cardinality={"worker": 2})
    assert deleted(judge(dead("w7", 7), seen=looks(short))) == []


def test_several_workers_go_at_once() -> None:
    assert deleted(judge(dead("w8", 8), dead("w9", 9))) == ["w8", "w9"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ready": "True"}, "is Ready"),
        ({"ready_since_s": NOW - GRACE_S + 1}, "since 59 s; it is given 60 s"),
        ({"ready_since_s": NOW + 100}, "it is given"),
        ({"ready_since_s": None}, "does not tell since when"),
        ({"ready": None, "created_s": NOW - 5}, "since 5 s"),
        ({"ready": None, "created_s": None}, "does not tell since when"),
        ({"is_going": True}, "is deleted already"),
        ({"labels": {VM_LABEL: "4"}}, "VM 4 runs"),
        ({"labels": {VM_LABEL: "1"}}, "VM 1 runs"),
        ({"labels": {VM_LABEL: "9", SERVICE_LABEL: "8"}}, "belongs to service 8"),
        ({"labels": {VM_LABEL: "9", SERVICE_LABEL: "none"}}, "its VM 9 is in no service"),
        ({"labels": {}}, "carries no label"),
        ({"labels": {VM_LABEL: ""}}, "carries no label"),
        ({"labels": {VM_LABEL: "nine"}}, "carries no label"),
        ({"labels": {VM_LABEL: "-9"}}, "carries no label"),
        ({"labels": {VM_LABEL: "9 "}}, "carries no label"),
        ({"labels": {VM_LABEL: "9" * 40}}, "carries no label"),
    ],
)
def test_a_node_is_kept_where_one_thing_speaks_for_it(
    changes: Mapping[str, object], words: str
) -> None:
    finding = judge(dead(**changes))["w9"]
    assert finding.verdict is Verdict.KEEP
    assert words in finding.reason


def test_a_node_that_never_was_ready_counts_from_its_registration() -> None:
    assert deleted(judge(dead(ready=None, created_s=LONG_AGO))) == ["w9"]


def test_the_label_of_the_own_service_speaks_for_nothing() -> None:
    assert deleted(judge(dead(labels={VM_LABEL: "9", SERVICE_LABEL: "7"}))) == ["w9"]


@pytest.mark.parametrize("service_id", [7, None])
def test_who_may_delete_the_node_of_a_vm_outside_of_services_is_told_how(
    service_id: int | None,
) -> None:
    """One that joined by hand is in no answer of OneGate, alive or dead."""
    by_hand = dead(labels={VM_LABEL: "9", SERVICE_LABEL: "none"})
    found = judge(by_hand, us=replace(US, service_id=service_id))
    assert deleted(found) == []
    assert found["w9"].hint == "if OpenNebula has no VM 9 any more: kubectl delete node w9"


def test_the_own_node_is_never_deleted() -> None:
    gone = dead_server("m1", 9)
    found = judge(own=gone)
    assert found["m1"].reason == "is this very node"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state": 8, "lcm_state": 0}, "is powered off"),
        ({"lcm_state": 12}, "is being shut down"),
        ({"state": 1, "lcm_state": 0}, "STATE 1, LCM_STATE 0"),
        ({"lcm_state": 36}, "LCM_STATE 36"),
    ],
)
def test_a_vm_that_is_there_keeps_its_node_in_whatever_state_it_is(
    state: dict[str, int], words: str
) -> None:
    there = service({"master": (vm(1),), "worker": (vm(9, **state),)})
    finding = judge(dead(), seen=looks(there))["w9"]
    assert finding.verdict is Verdict.KEEP
    assert words in finding.reason


@pytest.mark.parametrize("which", [0, 1])
def test_a_vm_that_one_answer_shows_keeps_its_node(which: int) -> None:
    there = service({"master": (vm(1),), "worker": (vm(9),)})
    answers = (there, service()) if which == 0 else (service(), there)
    assert judge(dead(), seen=looks(*answers))["w9"].verdict is Verdict.KEEP


def test_a_vm_of_any_role_keeps_its_node() -> None:
    there = service({"master": (vm(1),), "vnf": (vm(9),)})
    assert deleted(judge(dead(), seen=looks(there))) == []


def test_a_vm_that_says_to_be_the_node_keeps_it_unless_it_waits_for_its_end() -> None:
    heir = vm(10, ONEGATE_K8S_NODE_NAME="w9")
    there = service({"master": (vm(1),), "worker": (heir,)})
    finding = judge(dead(), seen=looks(there))["w9"]
    assert (finding.verdict, finding.reason) == (
        Verdict.KEEP,
        "VM 10 says that it is this node",
    )
    waiting = replace(heir, attributes={**heir.attributes, BLOCKED_KEY: "w9"})
    there = service({"master": (vm(1),), "worker": (waiting,)})
    finding = judge(dead(), seen=looks(there))["w9"]
    assert finding.verdict is Verdict.DELETE
    assert finding.reason.endswith("; VM 10 waits for its name")


def test_a_vm_that_was_made_anew_under_its_own_id_is_left_to_a_person() -> None:
    there = service({"master": (vm(1),), "worker": (vm(9, **{BLOCKED_KEY: "w9"}),)})
    finding = judge(dead(), seen=looks(there))["w9"]
    assert finding.verdict is Verdict.KEEP
    assert finding.reason.endswith("; VM 9 waits for its name")
    assert finding.hint.endswith("kubectl delete node w9")


def test_a_node_without_label_is_not_deleted_for_its_name_and_the_command_is_told() -> None:
    waiting = vm(10, **{BLOCKED_KEY: "w9"})
    there = service({"master": (vm(1),), "worker": (waiting,)})
    finding = judge(dead(labels={}), seen=looks(there))["w9"]
    assert finding.verdict is Verdict.KEEP
    assert "VM 10 waits for its name" in finding.reason
    assert "kubectl delete node w9" in finding.hint
    assert "kubectl get node w9" in finding.hint


# --- doubts ---------------------------------------------------------------------------------------


def test_vms_that_leave_are_listed_on_top_and_that_is_no_doubt() -> None:
    """Source: recordings of OneFlow, which lowers the cardinality before it stops the VMs."""
    leaving = [vm(number, lcm_state=12) for number in (4, 5)]
    scaling = service({"master": (vm(1),), "worker": (*leaving, vm(6))}, cardinality={"worker": 1})
    found = judge(dead("w4", 4), dead("w9", 9), seen=looks(scaling))
    assert deleted(found) == ["w9"]
    assert "is being shut down" in found["w4"].reason


DOUBTFUL = {
    "nobody-asked": ((), "not asked twice"),
    "asked-once": (looks()[:1], "not asked twice"),
    "the-same-answer": ((looks()[0], looks()[0]), "not newer"),
    "too-soon": ((Look(service(), "", 0, 1), Look(service(), "", 5, 6)), "not newer"),
    "overlapping": ((Look(service(), "", 0, 20), Look(service(), "", 7, 21)), "not newer"),
    "first-failed": ((Look(None, "status 404"), looks()[1]), "status 404"),
    "second-failed": ((looks()[0], Look(None, "", 7, 8)), "no answer"),
    "incomplete": (looks(service(complete=False)), "not complete"),
    "then-incomplete": (looks(service(), service(complete=False)), "not complete"),
    "other-service": (looks(service(service_id=8)), "tells of service 8, and this VM is in 7"),
    "without-us": (looks(service({"master": (vm(2),)})), "does not list this very VM"),
    "no-roles": (looks(service({"vnf": ()})), "does not list this very VM"),
    "too-few": (looks(service(cardinality={"worker": 2})), "lists 1 VMs of role worker"),
    "unclear": (looks(unclear("worker")), "does not tell clearly which VMs role worker has"),
    "twice": (looks(service({"master": (vm(1),), "worker": (vm(4), vm(4))})), "VM 4 twice"),
    "in-two-roles": (looks(service({"master": (vm(1),), "vnf": (vm(1),)})), "VM 1 twice"),
    "one-leaves-and-one-is-missing": (
        looks(
            service(
                {"master": (vm(1),), "worker": (vm(4), vm(5, lcm_state=12))},
                cardinality={"worker": 2},
            )
        ),
        "lists 1 VMs of role worker that are not being shut down",
    ),
    "unread": (looks(service({"master": (vm(1),), "storage": (5,)})), "does not show VM 5"),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_a_doubt_about_onegate_keeps_every_node_and_is_told(case: str) -> None:
    seen, words = DOUBTFUL[case]
    found = judge(dead(), dead("w8", 8), seen=seen)
    assert deleted(found) == []
    assert words in found["w9"].reason
    assert words in found["w8"].reason


def test_a_gateway_that_is_missing_matters_only_where_the_answer_is_not_whole() -> None:
    roles = {"master": (vm(1),), "worker": (), "vnf": (vm(2),)}
    short = service(roles, cardinality={"vnf": 2})
    assert deleted(judge(dead(), seen=looks(short))) == ["w9"]
    assert deleted(judge(dead(), seen=looks(replace(short, complete=False)))) == []


@pytest.mark.parametrize(
    ("labels", "role"),
    [
        ({}, "worker"),
        ({"node.longhorn.io/create-default-disk": "true"}, "storage"),
        ({"node-role.kubernetes.io/control-plane": "true"}, "master"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_node_whose_role_is_missing_from_an_answer_is_kept(
    labels: Mapping[str, str], role: str, which: int
) -> None:
    whole = service({"control": (vm(1),), "master": (), "worker": (), "storage": ()})
    gone = dead(labels={VM_LABEL: "9", **labels})
    assert deleted(judge(gone, seen=looks(whole))) == ["w9"]
    lacking = replace(whole, roles=tuple(one for one in whole.roles if one.name != role))
    answers = (lacking, whole) if which == 0 else (whole, lacking)
    finding = judge(gone, seen=looks(*answers))["w9"]
    assert finding.verdict is Verdict.KEEP
    assert finding.reason == f"may be a VM of role {role}, of which OneGate tells nothing"


def test_while_a_role_is_scaled_down_what_is_dead_is_deleted_all_the_same() -> None:
    leaving = service(
        {"master": (vm(1),), "worker": (vm(4), vm(5, lcm_state=12))}, cardinality={"worker": 1}
    )
    assert deleted(judge(dead(), seen=looks(leaving))) == ["w9"]


def test_a_node_that_came_while_onegate_was_asked_is_kept_however_old_it_claims_to_be() -> None:
    found = {one.node.name: one for one in decide((OWN, dead()), looks(), US, (OWN,))}
    assert found["w9"].verdict is Verdict.KEEP
    assert found["w9"].reason == "came while OneGate was asked"
    reborn = replace(dead(), uid="another")
    found = {one.node.name: one for one in decide((OWN, reborn), looks(), US, (OWN, dead()))}
    assert found["w9"].verdict is Verdict.KEEP


def test_who_does_not_know_itself_deletes_nothing() -> None:
    assert deleted(judge(dead(), us=replace(US, vm_id=None))) == []
    found = {one.node.name: one for one in decide((dead(),), looks(), US)}
    assert "own node m1 is not among the nodes" in found["w9"].reason
    found = judge(dead(), own=server("m1", 1, ready="False", ready_since_s=LONG_AGO))
    assert "own node m1 is not Ready" in found["w9"].reason


def test_a_service_that_is_not_known_by_its_number_is_no_doubt() -> None:
    assert deleted(judge(dead(), us=replace(US, service_id=None))) == ["w9"]


def test_onegate_is_asked_only_where_its_answer_matters() -> None:
    fresh = dead(ready_since_s=NOW - 1)
    assert not needs_onegate((OWN, make_node("w1"), fresh, dead(is_going=True)), US)
    assert needs_onegate((OWN, dead()), US)
    assert needs_onegate((OWN, dead(labels={})), US)
    found = decide((OWN, make_node("w1"), fresh), (), US)
    assert [one.verdict for one in found] == [Verdict.KEEP] * 3
    assert not any("OneGate" in one.reason for one in found)


# --- servers --------------------------------------------------------------------------------------


def test_a_dead_server_goes_where_the_others_are_a_majority() -> None:
    assert deleted(judge(server("m2", 2), dead_server("m3", 3))) == ["m3"]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ((dead_server("m3", 3),), "1 of 2 members are well, and 2 are needed"),
        ((dead_server("m2", 2), dead_server("m3", 3)), "1 of 3"),
        (
            (server("m2", 2), dead_server("m3", 3), dead_server("m4", 4), dead_server("m5", 5)),
            "2 of 5",
        ),
        ((server("m2", 2, voter="Unknown"), dead_server("m3", 3)), "1 of 3"),
        ((server("m2", 2, ready="False"), dead_server("m3", 3)), "1 of 3"),
        ((server("m2", 2, voter=None), dead_server("m3", 3)), "1 of 3"),
    ],
)
def test_no_server_goes_where_etcd_could_not_do_without_it(
    others: tuple[Node, ...], words: str
) -> None:
    found = judge(*others, seen=looks(service({"master": (vm(1),)})))
    assert deleted(found) == []
    assert words in found["m3"].reason


def test_a_learner_that_died_does_not_count_and_may_go() -> None:
    learner = dead_server("m2", 2, voter_reason="MemberIsLearner")
    assert deleted(judge(learner)) == ["m2"]


@pytest.mark.parametrize("reason", ["", "Unhealthy", "SomethingNew"])
def test_whoever_is_not_known_to_be_no_voter_counts(reason: str) -> None:
    assert deleted(judge(dead_server("m2", 2, voter_reason=reason))) == []


def test_servers_go_one_at_a_time_the_one_that_is_dead_longest_first() -> None:
    well = [server(f"m{number}", number) for number in (2, 3)]
    older = dead_server("m9", 9, ready_since_s=LONG_AGO - 100)
    found = judge(*well, dead_server("m8", 8), older, dead())
    assert deleted(found) == ["m9", "w9"]
    assert found["m8"].reason == "is dead, and servers go one at a time: m9 first"


def test_no_server_goes_while_another_is_being_removed() -> None:
    well = [server(f"m{number}", number) for number in (2, 3)]
    found = judge(*well, dead_server("m8", 8), dead_server("m9", 9, is_going=True), dead())
    assert deleted(found) == ["w9"]
    assert "m9 is still being removed" in found["m8"].reason


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {VM_LABEL: "3", "node-role.kubernetes.io/control-plane": "true"}},
        {"labels": {VM_LABEL: "3", "node-role.kubernetes.io/etcd": "true"}},
        {"labels": {VM_LABEL: "3"}, "annotations": {"etcd.rke2.cattle.io/node-name": "m3-1"}},
    ],
)
def test_a_server_is_known_by_any_of_its_marks(changes: Mapping[str, object]) -> None:
    dying = dead_server("m4", 4, is_going=True)
    one = dead_server("m3", 3, **changes)
    found = judge(server("m2", 2), server("m5", 5), dying, one)
    assert "servers go one at a time" in found["m3"].reason


def test_the_order_of_the_nodes_changes_nothing() -> None:
    nodes = (OWN, server("m2", 2), server("m3", 3), dead_server("m8", 8), dead_server("m9", 9))
    assert decide(nodes, looks(), US) == decide(tuple(reversed(nodes)), looks(), US)
