"""A member of etcd goes only where a majority is there before and after, and one at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.system.kubernetes import Node
from roles.common.removal import (
    Going,
    Gone,
    Hold,
    Remove,
    dead_servers,
    decide_removal,
    servers_to_ask,
)
from roles.common.rke2config import VM_LABEL
from tests.fakes import make_node

SERVER = {"node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true"}


def server(number: int, **changes: object) -> Node:
    """Return a master's node that is well."""
    given = {"labels": SERVER, "voter": "True", "addresses": [f"172.20.0.{number}"], **changes}
    return make_node(f"m{number}", **given)


def dead(number: int, **changes: object) -> Node:
    """Return the node of a master that is gone."""
    gone = {"ready": "Unknown", "voter": "False", "voter_reason": "Unhealthy"}
    return server(number, **{**gone, **changes})


def reason_of(*nodes: Node) -> str:
    """Return why m1 has to stay."""
    found = decide_removal(nodes, "m1", 1)
    assert isinstance(found, Hold)
    return found.reason


@pytest.mark.parametrize("well", [2, 3, 4, 5])
def test_a_member_goes_where_all_are_well(well: int) -> None:
    nodes = [server(number) for number in range(1, well + 1)]
    assert decide_removal(nodes, "m1", 1) == Remove(nodes[0])


@pytest.mark.parametrize(
    ("well", "gone", "goes"),
    [
        (1, 1, False),
        (1, 2, False),
        (2, 1, False),
        (3, 1, True),
        (3, 2, False),
        (4, 1, True),
        (4, 2, True),
        (5, 2, True),
        (4, 3, False),
    ],
)
def test_the_dead_count(well: int, gone: int, goes: bool) -> None:
    every = well + gone
    nodes = [*(server(number) for number in range(1, well + 1))]
    nodes += [dead(number) for number in range(well + 1, every + 1)]
    found = decide_removal(nodes, "m1", 1)
    assert isinstance(found, Remove) == goes
    assert goes == (well >= every // 2 + 1 and well - 1 >= (every - 1) // 2 + 1)


def test_without_a_majority_the_reason_has_the_numbers_and_who_is_missing() -> None:
    assert reason_of(server(1), server(2), dead(3)) == (
        "etcd would lose its quorum without it: 1 of 2 members are well, and 2 are needed then;"
        " not well: m3"
    )
    assert reason_of(server(1), dead(2), dead(3)) == (
        "etcd has no quorum to let a member go: 1 of 3 members are well, and 2 are needed; not"
        " well: m2, m3"
    )


def test_the_last_member_stays_and_waiting_is_of_no_use() -> None:
    found = decide_removal([server(1), make_node("w1")], "m1", 1)
    assert isinstance(found, Hold)
    assert found.is_final
    assert "last member" in found.reason


def test_members_go_one_at_a_time() -> None:
    nodes = [server(1), server(2, is_going=True), server(3)]
    assert reason_of(*nodes) == "members of etcd go one at a time, and m2 still does"
    workers = [server(1), server(2), make_node("w1", is_going=True)]
    assert isinstance(decide_removal(workers, "m1", 1), Remove)


def test_who_is_going_or_gone_is_not_deleted_again() -> None:
    assert decide_removal([server(1, is_going=True), server(2)], "m1", 1) == Going()
    assert decide_removal([server(2)], "m1", 1) == Gone()


def test_a_node_that_names_another_vm_is_not_ours() -> None:
    nodes = [server(1, labels={**SERVER, VM_LABEL: "9"}), server(2)]
    assert decide_removal(nodes, "m1", 1) == Gone("its name is VM 9's now")
    assert decide_removal(nodes, "m1", 9) == Remove(nodes[0])
    assert decide_removal(nodes, "m1", None) == Remove(nodes[0])


def test_a_learner_counts_neither_before_nor_after() -> None:
    learner = server(1, voter="False", voter_reason="MemberIsLearner")
    assert decide_removal([learner, server(2)], "m1", 1) == Remove(learner)
    other = server(2, voter="False", voter_reason="MemberIsLearner")
    assert isinstance(decide_removal([server(1), other], "m1", 1), Hold)


def test_a_member_that_is_not_well_itself_goes_where_the_others_have_a_majority() -> None:
    own = dead(1)
    assert decide_removal([own, server(2), server(3)], "m1", 1) == Remove(own)


def test_where_etcd_is_elsewhere_nothing_keeps_a_server() -> None:
    labels = {"node-role.kubernetes.io/control-plane": "true"}
    own, other = make_node("m1", labels=labels), make_node("m2", labels=labels)
    assert decide_removal([own, other], "m1", 1) == Remove(own)


def test_the_last_server_stays_wherever_etcd_is() -> None:
    labels = {"node-role.kubernetes.io/control-plane": "true"}
    nodes = [make_node("m1", labels=labels), make_node("w1")]
    last = Hold("it is the last server; its node stays in the cluster", is_final=True)
    assert decide_removal(nodes, "m1", 1) == last


SERVERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=7)


@given(SERVERS)
def test_whatever_there_is_a_majority_is_there_before_and_after(
    found: list[tuple[bool, bool]],
) -> None:
    """An oracle that counts for itself: (is it well, does it count)."""
    nodes = [
        (server if is_well else dead)(number, **({} if counts else LEARNER))
        for number, (is_well, counts) in enumerate(found, 1)
    ]
    removal = decide_removal(nodes, "m1", 1)
    every = [one for one in found if one[1]]
    rest = [one for one in found[1:] if one[1]]
    before = sum(one[0] for one in every) * 2 > len(every)
    after = sum(one[0] for one in rest) * 2 > len(rest)
    is_last = len(found) == 1
    assert isinstance(removal, Remove) == (not is_last and (not every or (before and after)))


LEARNER = {"voter": "False", "voter_reason": "MemberIsLearner"}


def test_dead_servers_are_those_that_are_not_well_and_not_going() -> None:
    unwell = server(4, voter="False", voter_reason="Unhealthy")
    learner = server(5, **LEARNER)
    going = dead(6, is_going=True)
    nodes = [dead(1), server(2), dead(3), unwell, learner, going, make_node("w1", ready="Unknown")]
    assert [node.name for node in dead_servers(nodes, "m1")] == ["m3", "m4"]


def test_who_stays_is_asked_before_who_leaves_too() -> None:
    nodes = [
        server(1),
        server(2, is_cordoned=True),
        server(3),
        dead(4),
        server(5, is_going=True),
        server(6, addresses=()),
        make_node("m7", labels={"node-role.kubernetes.io/etcd": "true"}, voter="True"),
    ]
    assert [node.name for node in servers_to_ask(nodes, "m1")] == ["m3", "m2"]
