"""Masters are taken out of etcd one at a time, whatever is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.errors import KubernetesUnavailable
from appliance.system.kubernetes import Access, Health, Node
from appliance.waiting import Failed, NotYet, Readiness, Ready
from roles.common.cleaner import GRACE_S
from roles.common.cleaning import Cleaning
from roles.common.departure import LONGEST_ANSWER_S
from roles.common.endpoints import ClusterEndpoint
from roles.common.etcdmembers import find_members
from roles.common.leaving import REMOVAL_S
from roles.common.removal import Hold, Remove
from roles.common.rke2config import VM_LABEL
from roles.common.serverdeparture import (
    CLEAN_EVERY_S,
    CLEANING_S,
    TELLING_S,
    WELL_ANSWER_S,
    ServerDeparture,
)
from roles.common.turn import DURATION_S, NAME
from tests.fakes import (
    FakeClock,
    FakeKubernetes,
    FakeLog,
    FakeOneGate,
    make_node,
    make_system,
)

SERVER = {"node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true"}
VIP = "10.2.11.86"
BALANCED = ClusterEndpoint(VIP, 6443)
OWN = "127.0.0.1"


def address(number: int) -> str:
    """Return the address of a master."""
    return f"172.20.0.{number}"


def server(number: int, **changes: object) -> Node:
    """Return a master's node that is well, VM 1 for m1 and so on."""
    labels = {**SERVER, VM_LABEL: str(number)}
    given = {"labels": labels, "voter": "True", "addresses": [address(number)], **changes}
    return make_node(f"m{number}", **given)


class Masters:
    """The masters of a cluster, as one of them after the other leaves it.

    Attributes:
        off: The numbers of those whose machine is off.
    """

    def __init__(self, count: int) -> None:
        self.clock, self.log = FakeClock(), FakeLog()
        self.off: set[int] = set()
        self.kubernetes = FakeKubernetes([server(number) for number in range(1, count + 1)])
        self.kubernetes.held = set(self.kubernetes.members)
        self.onegate = FakeOneGate(1, {"ROLE_NAME": "master"})
        for number in range(2, count + 1):
            self.onegate.add_vm(number, {"ROLE_NAME": "master"})

    def leave(self, number: int, endpoint: ClusterEndpoint | None = BALANCED) -> ServerDeparture:
        """Return one that leaves, begun anew."""
        system = make_system(kubernetes=self.kubernetes, clock=self.clock, onegate=self.onegate)
        name = f"m{number}"

        def cleaning(access: Access) -> Cleaning:
            self.onegate.own_id = number
            hurried = {"only_servers": True, "is_hurried": True}
            return Cleaning(system, access, name, number, 1, self.log, **hurried)

        return ServerDeparture(system, name, number, endpoint, cleaning, self.log)

    def die(self, number: int, *, since_s: float = 10 * GRACE_S) -> None:
        """Let a master be dead for some time, and its VM gone."""
        since = self.clock.now() - since_s
        gone = server(
            number,
            ready="Unknown",
            ready_since_s=since,
            voter="False",
            voter_reason="Unhealthy",
        )
        self.kubernetes.put(gone)
        self.cut(number)

    def cut(self, number: int) -> None:
        """Let the VM of a master be gone; the cluster does not know yet."""
        self.off.add(number)
        self.kubernetes.unreachable.add(address(number))
        self.onegate.forget(number)

    def let_go(self) -> None:
        """Let etcd let go of the members whose nodes are deleted; their API ends with that."""
        for name, node in list(self.kubernetes.members.items()):
            if node.is_going:
                del self.kubernetes.members[name]
                self.kubernetes.unreachable.update(node.addresses)

    def go_on(self, departure: ServerDeparture, looks: int = 60) -> Readiness:
        """Look until it is out or never will be; etcd lets go between the looks."""
        found: Readiness = NotYet("")
        for _ in range(looks):
            found = departure.look()
            if not isinstance(found, NotYet):
                break
            self.clock.pass_time(0.5)
            self.let_go()
        return found

    @property
    def names(self) -> list[str]:
        """The masters that the cluster knows."""
        return sorted(self.kubernetes.members)

    def has_quorum(self) -> bool:
        """Whether etcd works when it has let go of the members whose nodes are deleted.

        A removal that was asked for can not be taken back: who dies between that and its effect
        costs the majority, whatever a leaving master does.
        """
        staying = [node for node in self.kubernetes.members.values() if not node.is_going]
        return find_members(staying, {f"m{number}" for number in self.off}).has_quorum


# --- all well -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_master_goes_and_leaves_nothing_behind(count: int) -> None:
    masters = Masters(count)
    departure = masters.leave(1)
    assert masters.go_on(departure) == Ready()
    departure.end()
    assert masters.names == [f"m{number}" for number in range(2, count + 1)]
    assert masters.kubernetes.leases == {}


def test_another_master_is_asked_for_its_own_api_ends_with_its_member() -> None:
    masters = Masters(3)
    departure = masters.leave(1)
    departure.look()
    masters.kubernetes.unreachable.add(OWN)
    masters.kubernetes.hosts.clear()
    assert masters.go_on(departure) == Ready()
    assert set(masters.kubernetes.hosts) == {address(2)}


def test_its_own_certificates_are_shown_and_answers_are_not_waited_for_long() -> None:
    access = Masters(3).leave(1).access
    assert access.certificate.name == "client-admin.crt"
    assert access.longest_s == 5


def test_one_that_stays_is_asked_before_one_that_leaves_too() -> None:
    masters = Masters(3)
    masters.kubernetes.put(server(2, is_cordoned=True))
    departure = masters.leave(1)
    departure.look()
    assert masters.kubernetes.hosts[-1] == address(3)


def test_one_that_does_not_serve_is_not_asked() -> None:
    masters = Masters(4)
    masters.kubernetes.unreachable.add(address(2))
    departure = masters.leave(1)
    assert masters.go_on(departure) == Ready()
    assert masters.kubernetes.hosts[-1] == address(3)


def test_one_whose_own_api_is_gone_asks_where_the_cluster_is_reached() -> None:
    masters = Masters(3)
    masters.kubernetes.unreachable.add(OWN)
    assert masters.go_on(masters.leave(1)) == Ready()
    assert VIP in masters.kubernetes.hosts


def test_without_a_balanced_endpoint_others_are_asked_where_they_say_they_serve() -> None:
    masters = Masters(3)
    masters.kubernetes.unreachable.add(OWN)
    departure = masters.leave(1, endpoint=None)
    assert isinstance(departure.look(), NotYet)
    assert isinstance(masters.go_on(departure, looks=1), NotYet)
    masters.onegate.publish(1, ONEGATE_K8S_MASTER=OWN)
    masters.onegate.publish(2, ONEGATE_K8S_MASTER="not an address")
    masters.onegate.publish(3, ONEGATE_K8S_MASTER=address(3))
    masters.kubernetes.hosts.clear()
    departure.learn(masters.onegate.service())
    assert masters.go_on(departure) == Ready()
    assert masters.kubernetes.hosts[:2] == [OWN, address(3)]
    assert masters.names == ["m2", "m3"]


def test_one_that_stops_answering_in_the_middle_is_replaced() -> None:
    masters = Masters(3)
    departure = masters.leave(1)
    departure.look()
    masters.kubernetes.unreachable.add(address(2))
    assert masters.go_on(departure) == Ready()
    assert masters.kubernetes.hosts[-1] == address(3)


def test_a_node_that_changes_at_the_last_moment_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masters = Masters(3)
    honest = masters.kubernetes.delete_node

    def change_first(access: Access, node: Node) -> bool:
        monkeypatch.setattr(masters.kubernetes, "delete_node", honest)
        masters.kubernetes.put(node)
        return honest(access, node)

    monkeypatch.setattr(masters.kubernetes, "delete_node", change_first)
    departure = masters.leave(1)
    assert departure.look() == NotYet("its node changed while it was looked at")
    assert masters.go_on(departure) == Ready()


# --- several at once ------------------------------------------------------------------------------


def test_two_of_three_leave_one_after_the_other() -> None:
    masters = Masters(3)
    first, second = masters.leave(1), masters.leave(2)
    assert first.look() == NotYet("etcd lets go of its member")
    assert second.look() == NotYet(
        "m1 leaves the cluster just now, and masters leave one at a time"
    )
    assert masters.go_on(first) == Ready()
    first.end()
    assert masters.go_on(second) == Ready()
    second.end()
    assert masters.names == ["m3"]
    assert masters.kubernetes.leases == {}


def test_all_leave_and_the_last_one_stays() -> None:
    masters = Masters(3)
    for number in (1, 2):
        departure = masters.leave(number)
        assert masters.go_on(departure) == Ready()
        departure.end()
    last = masters.leave(3)
    found = masters.go_on(last)
    last.end()
    assert isinstance(found, Failed)
    assert "last member of etcd" in found.reason
    assert masters.names == ["m3"]


def test_a_lone_server_without_a_member_of_etcd_does_not_wait() -> None:
    masters = Masters(1)
    labels = {"node-role.kubernetes.io/control-plane": "true"}
    masters.kubernetes.put(make_node("m1", labels=labels, addresses=[address(1)]))
    departure = masters.leave(1)
    reason = "it is the last server; its node stays in the cluster"
    assert departure.look() == Failed(reason)
    assert departure.preview() == Hold(reason, is_final=True)
    assert masters.names == ["m1"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["look", "let go", "cut", "die", "vanish", "time"]), st.integers(1, 5)
    ),
    max_size=60,
)


@settings(max_examples=400)
@given(st.integers(2, 5), STEPS)
# The one that asks OneGate is not the first to leave.
@example(4, [("look", 1), ("let go", 1), ("look", 1), ("die", 4), ("look", 2)])
def test_whatever_is_cut_or_dies_leaving_never_costs_the_majority(
    count: int, steps: list[tuple[str, int]]
) -> None:
    """Masters that leave look in any order, are cut and begin again; some may die meanwhile."""
    masters = Masters(count)
    leaving = {number: masters.leave(number) for number in range(1, count)}
    for step, number in steps:
        before = masters.has_quorum()
        if step == "look" and number in leaving:
            look(masters, leaving, number)
        elif step == "let go":
            masters.let_go()
        elif step == "cut" and number in leaving:
            leaving[number] = masters.leave(number)
        elif step == "time":
            masters.clock.pass_time(number * 5)
        elif step == "die" and number == count and f"m{number}" in masters.kubernetes.members:
            masters.die(number)
            continue
        elif step == "vanish" and number == count and f"m{number}" in masters.kubernetes.members:
            masters.cut(number)
            continue
        assert masters.has_quorum() or not before, step
        going = [node for node in masters.kubernetes.members.values() if node.is_going]
        assert len(going) <= 1


def look(masters: Masters, leaving: dict[int, ServerDeparture], number: int) -> None:
    """Let one look, if its machine and node are still there, and end when it is out."""
    if isinstance(leaving[number].look(), Ready):
        leaving.pop(number).end()
        masters.onegate.forget(number)


@given(st.permutations([1, 2, 3, 4]), st.data())
def test_all_that_leave_are_out_in_the_end_and_one_is_left(
    order: list[int], data: st.DataObject
) -> None:
    masters = Masters(5)
    leaving = {number: masters.leave(number) for number in order}
    for _ in range(200):
        if not leaving:
            break
        number = data.draw(st.sampled_from(sorted(leaving)))
        look(masters, leaving, number)
        masters.clock.pass_time(0.5)
        masters.let_go()
    for number in sorted(leaving):
        assert masters.go_on(leaving[number]) == Ready()
        leaving[number].end()
    assert masters.names == ["m5"]
    assert masters.kubernetes.leases == {}


def test_the_turn_of_one_that_was_cut_passes_on() -> None:
    masters = Masters(3)
    masters.leave(1).look()
    masters.let_go()
    masters.onegate.forget(1)
    second = masters.leave(2)
    looks = int(DURATION_S / 0.5) + 5
    assert masters.go_on(second, looks) == Ready()
    second.end()
    assert masters.names == ["m3"]
    assert masters.kubernetes.leases == {}


def test_a_turn_lasts_longer_than_a_look_and_passes_on_in_the_time_that_others_have() -> None:
    assert CLEANING_S < DURATION_S < REMOVAL_S
    # From its renewal to the answer to the deletion that it was renewed for.
    assert 2 * LONGEST_ANSWER_S < DURATION_S


def pass_on(masters: Masters) -> None:
    """Let another master have the turn."""
    lease = masters.kubernetes.leases[NAME]
    masters.kubernetes.leases[NAME] = replace(lease, holder="m2", resource_version="99")


@pytest.mark.parametrize("is_dead", [False, True])
def test_who_lost_its_turn_while_it_looked_deletes_nothing(
    monkeypatch: pytest.MonkeyPatch, is_dead: bool
) -> None:
    masters = Masters(3)
    if is_dead:
        masters.die(3)
        masters.onegate.answered = lambda: pass_on(masters)
    honest = masters.kubernetes.health

    def answer_late(access: Access) -> Health:
        if NAME in masters.kubernetes.leases and not is_dead:
            pass_on(masters)
        return honest(access)

    monkeypatch.setattr(masters.kubernetes, "health", answer_late)
    departure = masters.leave(1)
    assert isinstance(departure.look(), NotYet)
    departure.end()
    assert not [one for one in masters.kubernetes.asked if one.startswith("delete")]
    assert masters.kubernetes.leases[NAME].holder == "m2"
    monkeypatch.undo()
    masters.onegate.answered = lambda: None
    del masters.kubernetes.leases[NAME]
    assert masters.go_on(masters.leave(1)) == Ready()


@pytest.mark.parametrize("steps", range(8))
def test_one_that_is_cut_at_any_step_goes_on_where_it_was(steps: int) -> None:
    masters = Masters(3)
    first = masters.leave(1)
    for number in range(steps):
        first.look()
        if number % 2:
            masters.let_go()
    again = masters.leave(1)
    assert masters.go_on(again) == Ready()
    again.end()
    assert masters.names == ["m2", "m3"]


def test_a_masters_node_that_names_another_vm_is_left_alone() -> None:
    masters = Masters(3)
    masters.kubernetes.put(server(1, labels={**SERVER, VM_LABEL: "9"}))
    departure = masters.leave(1)
    assert departure.look() == Ready()
    departure.end()
    assert departure.outcome == "its name is VM 9's now"
    assert masters.names == ["m1", "m2", "m3"]
    assert masters.kubernetes.leases == {}
    assert not any(node.is_going for node in masters.kubernetes.members.values())


# --- the dead -------------------------------------------------------------------------------------


def test_a_dead_master_whose_vm_is_gone_goes_first() -> None:
    masters = Masters(3)
    masters.die(3)
    departure = masters.leave(1)
    assert masters.go_on(departure) == Ready()
    departure.end()
    assert masters.names == ["m2"]
    assert [line["node"] for line in masters.log.find("node.deleted")] == ["m3"]


def test_a_master_that_died_just_now_goes_first_too() -> None:
    masters = Masters(3)
    masters.die(3, since_s=5)
    departure = masters.leave(1)
    assert masters.go_on(departure) == Ready()
    departure.end()
    assert masters.names == ["m2"]


def test_a_dead_master_whose_node_is_still_ready_is_not_counted_on() -> None:
    masters = Masters(3)
    masters.cut(3)
    departure = masters.leave(1)
    found = masters.go_on(departure)
    assert isinstance(found, NotYet)
    assert found.reason.startswith("etcd would lose its quorum without it")
    assert found.reason.endswith("not well: m3")
    assert departure.preview() == Hold(found.reason)
    assert masters.names == ["m1", "m2", "m3"]
    masters.die(3, since_s=0)
    assert masters.go_on(departure) == Ready()
    assert masters.names == ["m2"]


def test_a_member_is_asked_itself_and_given_little_time_before_another_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masters = Masters(3)
    given: dict[str, float | None] = {}
    honest = masters.kubernetes.health

    def note(access: Access) -> Health:
        given[access.server] = access.longest_s
        return honest(access)

    monkeypatch.setattr(masters.kubernetes, "health", note)
    masters.leave(1).look()
    servers = [f"https://{address(number)}:6443" for number in (2, 3)]
    assert given == dict.fromkeys(servers, WELL_ANSWER_S)


def test_dead_workers_are_none_of_its_business() -> None:
    masters = Masters(3)
    gone = {"ready": "Unknown", "ready_since_s": 0.0, "labels": {VM_LABEL: "99"}}
    masters.kubernetes.put(make_node("w9", **gone))
    assert masters.go_on(masters.leave(1)) == Ready()
    assert masters.names == ["m2", "m3", "w9"]
    assert masters.onegate.asked == 0


def test_a_master_that_is_down_with_its_vm_there_keeps_others_in() -> None:
    masters = Masters(3)
    masters.die(3)
    masters.onegate.add_vm(3, {"ROLE_NAME": "master"})
    departure = masters.leave(1)
    found = masters.go_on(departure)
    departure.end()
    assert isinstance(found, NotYet)
    assert "etcd would lose its quorum without it" in found.reason
    assert "m3" in found.reason
    assert masters.names == ["m1", "m2", "m3"]
    assert masters.kubernetes.leases == {}


def test_a_look_that_the_end_of_its_time_cuts_tells_what_was_seen_before() -> None:
    masters = Masters(3)
    masters.die(3)
    masters.onegate.add_vm(3, {"ROLE_NAME": "master"})
    departure = masters.leave(1)
    departure.look(CLEANING_S)
    before = departure.look(5)
    assert isinstance(before, NotYet)
    assert "etcd would lose its quorum without it" in before.reason

    def come_too_late(access: Access) -> None:
        masters.clock.pass_time(1)
        raise KubernetesUnavailable("the answer does not come to its end in time")

    masters.kubernetes.answered = come_too_late
    assert departure.look(0.6) == before


def test_nobody_answering_for_moments_hides_not_what_keeps_it_and_for_long_does() -> None:
    masters = Masters(3)
    masters.die(3)
    masters.onegate.add_vm(3, {"ROLE_NAME": "master"})
    departure = masters.leave(1)
    departure.look(CLEANING_S)
    before = departure.look(CLEANING_S)
    assert isinstance(before, NotYet)
    assert "etcd would lose its quorum without it" in before.reason
    masters.kubernetes.fail(KubernetesUnavailable("the answer does not come"))
    masters.clock.pass_time(TELLING_S - 1)
    assert departure.look(CLEANING_S) == before
    masters.kubernetes.answered = refuse_to_answer
    masters.clock.pass_time(1)
    found = departure.look(CLEANING_S)
    assert isinstance(found, NotYet)
    assert "does not come" in found.reason


def refuse_to_answer(access: Access) -> NoReturn:
    raise KubernetesUnavailable("the answer does not come")


def test_the_dead_are_looked_at_not_more_often_than_is_good_for_onegate() -> None:
    masters = Masters(3)
    masters.die(3, since_s=0)
    masters.onegate.add_vm(3, {"ROLE_NAME": "master"})
    departure = masters.leave(1)
    started = masters.clock.monotonic()
    masters.go_on(departure)
    spent = masters.clock.monotonic() - started
    assert masters.onegate.asked <= 2 * (spent / CLEAN_EVERY_S + 1)


def test_the_dead_are_not_looked_at_where_no_time_is_left_for_that() -> None:
    masters = Masters(3)
    masters.die(3)
    departure = masters.leave(1)
    departure.look(CLEANING_S - 1)
    assert masters.onegate.asked == 0
    departure.look(CLEANING_S)
    assert masters.onegate.asked > 0


def test_looking_at_the_dead_takes_no_longer_than_it_may_with_a_slow_onegate() -> None:
    masters = Masters(3)
    masters.die(3)
    masters.onegate.answered = lambda: masters.clock.pass_time(4)
    started = masters.clock.monotonic()
    masters.leave(1).look()
    assert masters.names == ["m1", "m2", "m3"]
    assert masters.kubernetes.members["m3"].is_going
    assert masters.clock.monotonic() - started <= CLEANING_S


def test_onegate_that_does_not_answer_keeps_the_dead_and_the_others_in() -> None:
    masters = Masters(3)
    masters.die(3)
    masters.onegate.go_down(None)
    masters.onegate.forget(1)
    found = masters.go_on(masters.leave(1))
    assert isinstance(found, NotYet)
    assert masters.names == ["m1", "m2", "m3"]


def test_where_nobody_else_serves_it_waits() -> None:
    masters = Masters(2)
    masters.die(2)
    assert masters.go_on(masters.leave(1)) == NotYet("no other master serves")
    assert masters.names == ["m1", "m2"]


def test_where_nobody_at_all_answers_it_waits_and_what_is_refused_is_not_tried_again() -> None:
    masters = Masters(3)
    masters.kubernetes.go_down()
    assert isinstance(masters.leave(1).look(), NotYet)
    masters.kubernetes.go_down(None)
    masters.kubernetes.forbidden = {"lease"}
    found = masters.leave(1).look()
    assert isinstance(found, Failed)
    assert "403" in found.reason


def test_a_turn_that_can_not_be_given_back_ends_by_itself() -> None:
    masters = Masters(3)
    departure = masters.leave(1)
    masters.go_on(departure)
    masters.kubernetes.go_down()
    departure.end()
    assert masters.log.find("leaving.turn_not_given")
    assert masters.kubernetes.leases[NAME].holder == "m1"


# --- a look without touching ----------------------------------------------------------------------


def test_a_preview_changes_nothing() -> None:
    masters = Masters(3)
    assert masters.leave(1).preview() == Remove(server(1))
    assert isinstance(Masters(1).leave(1).preview(), Hold)
    assert masters.kubernetes.tape.changes == []
    assert masters.kubernetes.leases == {}
