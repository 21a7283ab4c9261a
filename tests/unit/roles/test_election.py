"""Who founds, who joins and when, and with what: case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.secret import Secret
from appliance.siblings import Siblings
from appliance.system.onegate import Service, ServiceRole, Vm
from roles.common.election import (
    AGENT_TOKEN_KEY,
    BLOCKED_KEY,
    CLUSTER_KEY,
    ERROR_KEY,
    FOUNDER_KEY,
    MASTER_KEY,
    STALLED_S,
    STATE_KEY,
    STEP_KEY,
    TOKEN_KEY,
    Agents,
    Announce,
    Found,
    Hold,
    Hopeless,
    Join,
    Retract,
    decide_agent,
    decide_server,
)

CA = "ab" * 32
OTHER_CA = "cd" * 32
TOKEN = f"K10{CA}::server:s3cr3t"
AGENT_TOKEN = f"K10{CA}::node:4g3nt"
SERVING = {CLUSTER_KEY: CA, MASTER_KEY: "172.20.0.101", TOKEN_KEY: TOKEN}
DOWN = "OneGate GET /service: no answer"


def master(vm_id: int, /, state: int | None = 3, lcm_state: int | None = 3, **said: str) -> Vm:
    return Vm(vm_id, f"master-{vm_id}", state, lcm_state, dict(said), ())


def serving(vm_id: int, /, lcm_state: int = 3, **said: str) -> Vm:
    address = {MASTER_KEY: f"172.20.0.{vm_id}"}
    return master(vm_id, 3, lcm_state, **{**SERVING, **address, **said})


def told(
    *vms: Vm,
    cardinality: int | None = None,
    unread: tuple[int, ...] = (),
    error: str = "",
    quiet: dict[int, float] | None = None,
) -> Siblings:
    """What OneGate answers: these masters, those it could not read, how many there should be."""
    vm_ids = tuple(sorted([vm.vm_id for vm in vms] + list(unread)))
    wanted = len(vm_ids) if cardinality is None else cardinality
    role = ServiceRole("master", wanted, 1, vm_ids, vms)
    complete = wanted <= len(vm_ids) == len(vms)
    return Siblings(Service(1, "OneKE", 1, (role,), complete), None, error, quiet or {})


# --- founding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own_id", "siblings", "decision"),
    [
        (10, told(master(10)), Announce()),
        (10, told(master(10, **{FOUNDER_KEY: "YES"})), Found()),
        (10, told(master(10), master(11), master(12)), Announce()),
        (10, told(master(12), master(11), master(10, **{FOUNDER_KEY: "YES"})), Found()),
        # Numbers, not texts, are compared.
        (9, told(master(10), master(9)), Announce()),
        # What an emptied key leaves behind is no announcement.
        (10, told(master(10), master(11, **{FOUNDER_KEY: ""})), Announce()),
        # A lower id that announced it too goes first; the lowest of several is named.
        (12, told(*(master(n, **{FOUNDER_KEY: "YES"}) for n in (10, 11, 12))), Retract(10)),
        # Whoever announced it without being the lowest is in the lowest one's way.
        (11, told(master(10), master(11, **{FOUNDER_KEY: "YES"})), Retract(10)),
    ],
)
def test_the_lowest_id_founds_and_says_so_before(
    own_id: int, siblings: Siblings, decision: object
) -> None:
    assert decide_server(own_id, siblings) == decision


@pytest.mark.parametrize(
    ("own_id", "siblings", "reason"),
    [
        (10, Siblings(error=DOWN), DOWN),
        (10, Siblings(), "no role master"),
        (10, Siblings(Service(1, "s", 1, (), complete=True)), "no role master"),
        (None, told(master(10)), "does not list this VM"),
        (11, told(master(10)), "does not list this VM"),
        # An answer that does not show all is no answer to this question.
        (10, told(master(10), cardinality=2), "1 of 2 masters"),
        (10, told(master(10), unread=(11,)), "VM 11"),
        (10, told(unread=(10,)), "VM 10"),
        (10, told(master(10), error=DOWN), DOWN),
        (10, told(master(10, **{FOUNDER_KEY: "YES"}), error=DOWN), DOWN),
        (10, told(master(10, **{FOUNDER_KEY: "YES"}), cardinality=2), "1 of 2 masters"),
        (10, told(master(10, **{FOUNDER_KEY: "YES"}), unread=(11,)), "VM 11"),
        # Nor is one of which a VM is about to vanish.
        (10, told(master(10), master(11, 3, 12)), "VM 11 is being removed"),
        (10, told(master(10), master(11, 3, 12), cardinality=1), "VM 11 is being removed"),
        (10, told(master(10), master(11), cardinality=1), "being removed"),
        (10, told(master(10, 3, 12), master(11)), "this VM is being removed"),
        (11, told(master(10, 3, 12), master(11), cardinality=1), "VM 10 is being removed"),
        # Another is before it.
        (11, told(master(10), master(11)), "VM 10, the master with the lowest id"),
        (10, told(master(10), master(11, **{FOUNDER_KEY: "YES"})), "VM 11 founds"),
        (11, told(master(10, **{FOUNDER_KEY: "YES"}), master(11)), "VM 10 founds"),
        (11, told(master(10, 8, 0, **{FOUNDER_KEY: "YES"}), master(11)), "VM 10 founds"),
        (11, told(master(10, 3, 12, **{FOUNDER_KEY: "YES"}), master(11)), "being removed"),
        # Both announced it: the lower one waits until the higher one has yielded.
        (10, told(*(master(n, **{FOUNDER_KEY: "YES"}) for n in (10, 11))), "has to yield"),
    ],
)  # fmt: skip
def test_nobody_founds_who_may_not_know_all_or_is_not_the_one(
    own_id: int | None, siblings: Siblings, reason: str
) -> None:
    decision = decide_server(own_id, siblings)
    assert isinstance(decision, Hold)
    assert reason in decision.reason


@pytest.mark.parametrize("said", [{CLUSTER_KEY: CA}, {MASTER_KEY: "172.20.0.11"}])
def test_who_finds_a_cluster_waits_for_its_token(said: dict[str, str]) -> None:
    decision = decide_server(10, told(master(10), master(11, **said)))
    assert isinstance(decision, Hold)
    assert "VM 11" in decision.reason
    assert "no join token" in decision.reason


@pytest.mark.parametrize("said", [{CLUSTER_KEY: CA}, {MASTER_KEY: "172.20.0.11"}])
def test_a_cluster_whose_only_data_is_lost_is_not_founded_again(said: dict[str, str]) -> None:
    decision = decide_server(10, told(master(10, **said), master(11)))
    assert isinstance(decision, Hopeless)
    assert "etcd data is gone" in decision.reason
    assert CLUSTER_KEY in decision.hint


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, Found),
        # Nobody can have joined before there was a token; after that its data may be elsewhere.
        ({MASTER_KEY: "172.20.0.10"}, Hopeless),
        ({TOKEN_KEY: f"K10{CA}::server:secret"}, Hopeless),
    ],
)
def test_a_founding_that_was_cut_before_there_was_data_goes_on(
    said: dict[str, str], expected: type
) -> None:
    begun = {FOUNDER_KEY: "YES", CLUSTER_KEY: CA, **said}
    siblings = told(master(10, **begun), master(11))
    assert isinstance(decide_server(10, siblings, has_begun=True), expected)
    assert not isinstance(decide_server(11, siblings), Found | Announce)


@pytest.mark.parametrize(
    "siblings",
    [
        told(master(10, **SERVING), cardinality=2),
        told(master(10, **SERVING), unread=(11,)),
        told(master(10, **SERVING), error=DOWN),
    ],
)
def test_that_nobody_else_has_the_cluster_is_not_said_before_all_are_known(
    siblings: Siblings,
) -> None:
    assert isinstance(decide_server(10, siblings), Hold)


def test_who_lost_its_data_joins_those_who_have_them() -> None:
    decision = decide_server(10, told(master(10, **SERVING), serving(11)))
    assert isinstance(decision, Join)
    assert decision.vm_id == 11


@given(
    st.lists(
        st.tuples(
            st.sampled_from([(1, 0), (3, 2), (3, 3), (3, 12), (8, 0), (None, None)]),
            st.sets(st.sampled_from([FOUNDER_KEY, CLUSTER_KEY, MASTER_KEY, TOKEN_KEY])),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 4),
    st.booleans(),
)
def test_without_a_sound_and_complete_answer_nothing_is_begun(
    masters: list[tuple[tuple[int | None, int | None], set[str]]], cardinality: int, fails: bool
) -> None:
    vms = [
        master(at, *state, **dict.fromkeys(keys, "YES"))
        for at, (state, keys) in enumerate(masters, start=10)
    ]
    error = DOWN if fails else ""
    siblings = told(*vms, cardinality=cardinality, error=error)
    decisions = [decide_server(vm.vm_id, siblings) for vm in vms]
    beginning = [one for one in decisions if isinstance(one, Announce | Found)]
    assert len(beginning) <= 1
    sound = not fails and len(vms) == cardinality and all(vm.lcm_state != 12 for vm in vms)
    if beginning:
        assert sound
        assert not any(vm.text(CLUSTER_KEY) or vm.text(MASTER_KEY) for vm in vms)


# --- joining --------------------------------------------------------------------------------------


def test_who_joins_is_told_token_and_address_and_neither_is_shown() -> None:
    siblings = told(serving(10, **{AGENT_TOKEN_KEY: AGENT_TOKEN}), master(11))
    decision = decide_server(11, siblings)
    assert decision == Join(Secret(TOKEN), Secret(AGENT_TOKEN), "172.20.0.10", 10)
    assert "s3cr3t" not in repr(decision)
    assert "4g3nt" not in repr(decision)


def test_an_older_master_publishes_no_cluster_and_no_token_for_agents() -> None:
    said = {MASTER_KEY: "172.20.0.10", TOKEN_KEY: "a-uuid"}
    decision = decide_server(11, told(master(10, **said), master(11)))
    assert decision == Join(Secret("a-uuid"), None, "172.20.0.10", 10)


@pytest.mark.parametrize(
    ("vms", "chosen"),
    [
        ((serving(10), serving(11)), 10),
        ((serving(11), serving(10)), 10),
        ((serving(10, 12), serving(11)), 11),
        ((serving(10, **{TOKEN_KEY: ""}), serving(11)), 11),
        ((serving(10, **{TOKEN_KEY: "two words"}), serving(11)), 11),
        ((serving(10, **{TOKEN_KEY: "x" * 500}), serving(11)), 11),
        ((serving(10, **{MASTER_KEY: ""}), serving(11)), 11),
        ((replace(serving(10), state=8, lcm_state=0), serving(11)), 11),
        # Better than none.
        ((serving(10, 12),), 10),
        ((serving(10, **{MASTER_KEY: ""}),), 10),
        ((replace(serving(10), state=8, lcm_state=0),), 10),
        # What is removed does not count where others stay, whatever it says.
        ((serving(10, 12, **{CLUSTER_KEY: OTHER_CA}), serving(11, **{MASTER_KEY: ""})), 11),
    ],
)
def test_the_token_is_that_of_a_master_that_serves_and_stays(
    vms: tuple[Vm, ...], chosen: int
) -> None:
    decision = decide_server(20, told(*vms, master(20)))
    assert isinstance(decision, Join)
    assert decision.vm_id == chosen


@pytest.mark.parametrize(
    "first",
    [
        serving(11),
        serving(11, **{MASTER_KEY: ""}),
        master(11, 8, 0),
        master(11, 3, 12),
        master(11, 1, 0),
        master(11, **{STATE_KEY: "FAILED"}),
        master(11, **{BLOCKED_KEY: "oneke-ip-172-20-0-11"}),
        master(13),
    ],
)
def test_who_can_not_join_or_has_joined_is_not_waited_for(first: Vm) -> None:
    decision = decide_server(12, told(serving(10), first, master(12)))
    assert isinstance(decision, Join)


@pytest.mark.parametrize(
    "first",
    [
        master(11),
        master(11, **{STATE_KEY: "WAITING"}),
        master(11, **{STATE_KEY: "CONFIGURING", BLOCKED_KEY: ""}),
        master(11, **{CLUSTER_KEY: ""}),
    ],
)
def test_masters_join_one_at_a_time_by_id(first: Vm) -> None:
    decision = decide_server(12, told(serving(10), first, master(12)))
    assert isinstance(decision, Hold)
    assert "VM 11 joins first" in decision.reason


def test_who_makes_no_progress_is_passed_over() -> None:
    vms = (serving(10), master(11), master(12))
    almost = told(*vms, quiet={11: STALLED_S - 1})
    assert isinstance(decide_server(12, almost), Hold)
    assert isinstance(decide_server(12, told(*vms, quiet={11: STALLED_S})), Join)


def test_joining_takes_no_complete_answer_nor_a_fresh_one() -> None:
    siblings = told(serving(10), master(12), cardinality=4, unread=(11,), error=DOWN)
    assert isinstance(decide_server(12, siblings), Join)


def test_who_is_being_removed_does_not_join_any_more() -> None:
    decision = decide_server(11, told(serving(10), master(11, 3, 12), cardinality=1))
    assert decision == Hold("this VM is being removed")


def test_two_clusters_are_named_and_left_to_a_person() -> None:
    vms = (serving(10), serving(11), serving(12, **{CLUSTER_KEY: OTHER_CA}), master(13))
    decision = decide_server(13, told(*vms))
    assert isinstance(decision, Hopeless)
    assert "VM 10 and VM 12" in decision.reason
    assert decision.hint
    assert "s3cr3t" not in decision.reason + decision.hint


# --- workers and storage nodes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vms", "token", "vm_id"),
    [
        ((serving(10, **{AGENT_TOKEN_KEY: AGENT_TOKEN}),), AGENT_TOKEN, 10),
        # An older master beside a newer one, and alone.
        ((serving(10), serving(11, **{AGENT_TOKEN_KEY: AGENT_TOKEN})), AGENT_TOKEN, 11),
        ((serving(10), serving(11)), TOKEN, 10),
        ((serving(10, **{AGENT_TOKEN_KEY: "not sound"}),), TOKEN, 10),
        # As early as possible: the founder that has published is not waited for until it serves.
        ((serving(10, **{MASTER_KEY: "", STATE_KEY: "WAITING"}), master(11)), TOKEN, 10),
    ],
)
def test_an_agent_gets_the_token_for_agents_where_there_is_one(
    vms: tuple[Vm, ...], token: str, vm_id: int
) -> None:
    decision = decide_agent(told(*vms, cardinality=5))
    assert isinstance(decision, Agents)
    assert (decision.token, decision.vm_id) == (Secret(token), vm_id)
    assert token not in repr(decision)


def test_an_agent_joins_with_what_it_knew_before_onegate_failed() -> None:
    assert isinstance(decide_agent(told(serving(10), error=DOWN)), Agents)


@pytest.mark.parametrize(
    ("siblings", "reason"),
    [
        (Siblings(error=DOWN), DOWN),
        (Siblings(), "no role master"),
        (told(master(10), error=DOWN), DOWN),
        (told(), "no master runs yet"),
        (told(master(10, **{TOKEN_KEY: TOKEN})), "no master has published a join token"),
        (told(master(10), master(11)), "VM 10: it has said nothing yet"),
        (told(master(10), master(11, **{FOUNDER_KEY: "YES", STEP_KEY: "etcd"})), "VM 11: etcd"),
        (told(master(10, **{STATE_KEY: "CONFIGURING"})), "VM 10: configuring"),
        (told(master(10, **{STATE_KEY: "FAILED", ERROR_KEY: "no disk"})), "it failed: no disk"),
        (told(master(10, **{STATE_KEY: "FAILED"})), "see its journal"),
        # Anybody may have written it, and it goes to consoles.
        (told(master(10, **{STEP_KEY: "a\x1b[2J\nb"})), "VM 10: a(2J b"),
        (told(master(10, **{STATE_KEY: "FAILED", ERROR_KEY: "\x1b]0;x\a"})), "it failed: )0;x"),
        (told(master(10, 1, 0)), "VM 10: it is about to boot"),
        (told(master(10, 3, 2)), "VM 10: it is about to boot"),
        (told(master(10, 8, 0)), "does not run (STATE 8, LCM_STATE 0)"),
        (told(master(10, 3, 12)), "it is being removed"),
    ],
)
def test_an_agent_waits_and_says_for_whom(siblings: Siblings, reason: str) -> None:
    decision = decide_agent(siblings)
    assert isinstance(decision, Hold)
    assert reason in decision.reason


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [["YES"], {"A": "B"}])
def test_what_is_no_text_counts_as_nothing(said: object) -> None:
    own = replace(master(10), attributes=dict.fromkeys((CLUSTER_KEY, MASTER_KEY), said))
    assert decide_server(10, told(own)) == Announce()
