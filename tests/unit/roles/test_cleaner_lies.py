"""No lie of OneGate's makes the cleaner delete the node of a VM that lives; the truth makes it.

Ten thousand clusters of masters, workers and storage nodes that live, fall silent, leave, come and
are gone, before and while the cleaner looks, and whose OneGate is down, or tells too little, too
much, something else or something old. What the cleaner deletes is held against what is so, by rules
that know nothing of how it decides.

Not every lie can be found out. It is taken for granted that

- a list that lacks a VM does not come with a count that lacks it too;
- where a node bears the label of another VM, its own still says who it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from roles.common.cleaner import GRACE_S, HURRIED_GRACE_S
from roles.common.cleaning import Cleaning
from roles.common.probes import ADMIN
from tests.fakes import FakeClock, FakeLog, make_system
from tests.unit.roles.liars import (
    DOWN,
    HARMLESS,
    KINDS,
    NEVER,
    NOW,
    OWN_NODE,
    OWN_VM,
    SERVICE_ID,
    Cluster,
    Lie,
    LyingOneGate,
    Machine,
    Nodes,
)

COUNT = 10_000
_REGISTERS_S = 20.0
_WORDS = ("forged words", "lost words")


@dataclass(frozen=True)
class Case:
    """A cluster, what is told of it, and who asks.

    Attributes:
        jump_s: By how much the clock of the machine that cleans is wrong.
        is_hurried: Whether it has the little time of a master that leaves.
        only_servers: Whether it looks at servers only, as that one does.
    """

    cluster: Cluster
    lies: tuple[Lie, Lie]
    jump_s: float
    vm_id: int | None
    service_id: int | None
    is_hurried: bool = False
    only_servers: bool = False

    @property
    def grace_s(self) -> float:
        """How long a node that fell silent is left alone."""
        return HURRIED_GRACE_S if self.is_hurried else GRACE_S

    @property
    def is_sound(self) -> bool:
        """Whether what is told is true, so that what is to be deleted is known."""
        knows = (self.vm_id, self.service_id) == (OWN_VM, SERVICE_ID)
        return knows and self.jump_s == 0 and all(lie.is_harmless for lie in self.lies)


# ---- making cases

STORIES = (
    "well",
    "silent",
    "never ready",
    "young",
    "recovers",
    "comes",
    "leaves",
    "gone",
    "gone",
    "goes",
    "done",
    "held",
    "no node",
)


def _machine(vm_id: int, role: str, story: str, a: int, b: int, member: int) -> Machine:
    """Return a machine with a story; the numbers say when things happened."""
    one = Machine(vm_id, role, label=str(vm_id), publishes=f"{role[0]}{vm_id}")
    silent = replace(
        one,
        ready=("Unknown", "False")[b % 2],
        since_s=-float(a),
        member=(("False", "Unhealthy"), ("False", "MemberIsLearner"), ("Unknown", ""))[member % 3],
    )
    if story in ("well", "silent"):
        return one if story == "well" else silent
    if story == "never ready":
        return replace(silent, ready=None, registered_s=-float(a))
    if story == "young":
        registered_s = _REGISTERS_S - a % 100
        return replace(
            silent, born_s=-float(a % 100), registered_s=registered_s, since_s=registered_s
        )
    if story == "recovers":
        return replace(silent, recovers_s=1.0 + b % 60)
    if story == "comes":
        registered_s = b % 60 + _REGISTERS_S
        return replace(
            silent, born_s=float(b % 60), registered_s=registered_s, since_s=registered_s
        )
    if story == "leaves":
        return replace(silent if b % 3 else one, leaves_s=float(b % 200 - 100))
    if story == "no node":
        return replace(one, registered_s=NEVER)
    if story == "goes":
        return replace(silent, gone_s=1.0 + b % 60)
    gone_s = min(0.0, 40.0 - a) - b % 50
    if story == "done":
        return replace(silent, done_s=gone_s)
    return replace(silent, gone_s=gone_s, is_going=story == "held")


def _heir(of: Machine, vm_id: int) -> Machine:
    """Return a new VM with the address of one that is gone, which waits for its name."""
    return Machine(
        vm_id, of.role, born_s=of.gone_s, registered_s=NEVER, publishes=of.name, blocked=of.name
    )


_MACHINE = st.tuples(
    st.sampled_from(("master", "worker", "storage")),
    st.sampled_from(STORIES),
    st.one_of(st.integers(0, 400), st.integers(0, 9)),
    st.integers(0, 199),
    st.integers(0, 2),
    st.sampled_from(("right",) * 7 + ("none", "other", "garbage")),
    st.sampled_from((None, None, None, str(SERVICE_ID), str(SERVICE_ID), "8", "none")),
    st.sampled_from((True, True, True, False)),
    st.booleans(),
)
# One that is easily taken for dead.
_VICTIM = st.tuples(
    st.sampled_from(("worker", "storage", "master")),
    st.sampled_from(("silent", "silent", "silent", "leaves", "well")),
    st.integers(60, 400),
    st.integers(0, 199),
    st.integers(0, 2),
    st.just("right"),
    st.sampled_from((None, str(SERVICE_ID))),
    st.booleans(),
    st.just(False),
)
# One that is dead in every respect.
_DEAD = st.tuples(
    st.sampled_from(("worker", "storage", "master")),
    st.sampled_from(("gone", "gone", "done")),
    st.integers(100, 400),
    st.integers(0, 199),
    st.integers(0, 2),
    st.just("right"),
    st.sampled_from((None, str(SERVICE_ID))),
    st.booleans(),
    st.booleans(),
)
_LIE = st.builds(
    Lie,
    st.sampled_from((*HARMLESS, *KINDS, *DOWN)),
    st.tuples(*[st.integers(0, 209)] * 3),
    st.sampled_from((0.0, 0.0, 0.0, 1.0, 30.0, 300.0)),
    st.sampled_from((0.0, 0.0, 1.0, 20.0, 59.0)),
)
_TRUTH = st.builds(
    Lie,
    st.sampled_from(HARMLESS),
    st.tuples(*[st.integers(0, 1)] * 3),
    st.just(0.0),
    st.sampled_from((0.0, 0.0, 20.0, 59.0)),
)
# The same lie twice is the one that is believed most easily.
_LIES = st.one_of(
    st.tuples(_TRUTH, _TRUTH),
    _LIE.map(lambda lie: (lie, lie)),
    st.tuples(_LIE, _LIE),
)

# As the CronJob cleans, twice as a master that leaves, and what no caller asks for yet.
_MANNERS = ((False, False), (True, True), (True, True), (True, False))


@st.composite
def cases(draw: Any) -> Case:
    """Make a case."""
    lies = draw(_LIES)
    said_falsely = any(lie.kind in _WORDS for lie in lies)
    drawn = [draw(_VICTIM), draw(_DEAD), *draw(st.lists(_MACHINE, max_size=3))]
    machines = [Machine(OWN_VM, "master", label=str(OWN_VM), publishes=OWN_NODE)]
    for number, (role, story, a, b, member, label, service, publishes, heir) in enumerate(drawn):
        one = _machine(number + 4, role, story, a, b, member)
        others = {
            "right": one.label,
            "none": None,
            "other": one.label if said_falsely else str(4 + a % 7),
            "garbage": ("", "x", "-4", "4 ")[a % 4],
        }
        is_named = publishes or others[label] != one.label
        one = replace(
            one,
            label=others[label],
            service=service,
            publishes=one.name if is_named else None,
        )
        machines.append(one)
        if heir and story == "gone":
            machines.append(_heir(one, number + 104))
    machines.append(Machine(2, "vnf", registered_s=NEVER))
    jump_s = draw(st.sampled_from((0.0, 0.0, 0.0, -3600.0, 3600.0, 30.0)))
    vm_id = draw(st.sampled_from((OWN_VM,) * 9 + (None,)))
    service_id = draw(st.sampled_from((SERVICE_ID,) * 9 + (None,)))
    manner = draw(st.sampled_from(_MANNERS))
    return Case(Cluster(tuple(machines)), lies, jump_s, vm_id, service_id, *manner)


# ---- running them


def clean(case: Case) -> Nodes:
    """Let the cleaner run, and return the nodes."""
    clock = FakeClock(now=NOW + case.jump_s)
    began_s = clock.monotonic()
    nodes = Nodes(case.cluster, clock, began_s)
    onegate = LyingOneGate(case.cluster, clock, began_s, case.lies)
    system = make_system(clock=clock, kubernetes=nodes, onegate=onegate)
    result = Cleaning(
        system,
        ADMIN,
        OWN_NODE,
        case.vm_id,
        case.service_id,
        FakeLog(),
        only_servers=case.only_servers,
        is_hurried=case.is_hurried,
    ).run(dry_run=False)
    told = {line.subject for line in result.lines if line.verdict == "deleted"}
    assert told == {name for name, _ in nodes.deleted}
    nodes.told_s = tuple(onegate.told_s)
    return nodes


# ---- what is right, told without the cleaner's help


def wrongs(case: Case, nodes: Nodes) -> list[str]:
    """Say which deletions were wrong."""
    found = []
    machines = {one.name: one for one in case.cluster.machines if one.registered_s < NEVER}
    for name, at_s in nodes.deleted:
        one = machines[name]
        if one.vm_id == OWN_VM:
            found.append("its own node")
        if one.is_alive(at_s) and at_s < one.leaves_s:
            found.append(f"{name}: its VM lives")
        if one.is_ready(at_s):
            found.append(f"{name}: is Ready")
        if one.label is None or not one.label.isdecimal():
            found.append(f"{name}: nobody knows whose it is")
        if one.service not in (None, str(SERVICE_ID)):
            found.append(f"{name}: is of another service")
        if one.is_going:
            found.append(f"{name}: goes already")
        if case.only_servers and one.role != "master":
            found.append(f"{name}: is no server")
    servers = [name for name, _ in nodes.deleted if machines[name].role == "master"]
    if len(servers) > 1:
        found.append(f"servers at once: {servers}")
    if servers and not _may_lose_a_server(case, nodes.deleted[0][1]):
        found.append(f"{servers}: etcd could not do without")
    return found


def _may_lose_a_server(case: Case, at_s: float) -> bool:
    masters = [
        one for one in case.cluster.machines if one.role == "master" and one.registered_s <= at_s
    ]
    voters = [one for one in masters if one.is_voter()]
    well = [one for one in voters if one.is_ready(at_s) and one.member[0] == "True"]
    return 2 * len(well) > len(voters) and not any(one.is_going for one in masters)


def expected(case: Case, nodes: Nodes) -> set[str]:
    """Return which nodes are to be deleted where all that is told is true."""
    end_s = nodes.read_s[-1]
    dead = [one for one in case.cluster.machines if _is_dead(one, case, nodes, end_s)]
    servers = [one for one in dead if one.role == "master"]
    first = min(servers, key=lambda one: (one.since_s, one.name), default=None)
    names = {one.name for one in dead if one.role != "master" and not case.only_servers}
    if first and _may_lose_a_server(case, end_s):
        names.add(first.name)
    return names


def _is_dead(one: Machine, case: Case, nodes: Nodes, end_s: float) -> bool:
    if one.registered_s > 0 or one.is_ready(end_s) or one.is_going or len(nodes.told_s) < 2:
        return False
    if one.label is None or not one.label.isdecimal() or one.service not in (None, str(SERVICE_ID)):
        return False
    silent_since_s = one.registered_s if one.ready is None else one.since_s
    # The grace is to be over before OneGate is asked, else nobody asks for this node's sake.
    if end_s - silent_since_s < case.grace_s:
        return False
    there = [
        other for other in case.cluster.machines for at_s in nodes.told_s if other.is_there(at_s)
    ]
    return not any(
        str(other.vm_id) == one.label or (other.publishes == one.name and other.blocked != one.name)
        for other in there
    )


# ---- the tests


def test_a_young_vm_keeps_its_node_where_onegate_is_slow_and_the_clock_is_wrong() -> None:
    young = _machine(4, "worker", "comes", 0, 6, 0)
    own = Machine(OWN_VM, "master", label=str(OWN_VM), publishes=OWN_NODE)
    gone = _machine(5, "worker", "gone", 400, 0, 0)
    cluster = Cluster((own, young, gone))
    nodes = clean(Case(cluster, (Lie(), Lie(slow_s=59.0)), 3600.0, OWN_VM, SERVICE_ID))
    assert young.registered_s < nodes.read_s[-1]
    assert [name for name, _ in nodes.deleted] == [gone.name]


def test_a_vm_that_is_younger_than_a_stale_answer_keeps_its_node() -> None:
    own = Machine(OWN_VM, "master", label=str(OWN_VM), publishes=OWN_NODE)
    young = replace(_machine(4, "worker", "silent", 100, 0, 0), born_s=-200.0)
    cluster = Cluster((own, young))
    for kind in HARMLESS:
        stale = Lie(kind, old_s=300.0)
        assert clean(Case(cluster, (stale, stale), 0.0, OWN_VM, SERVICE_ID)).deleted == []


_MET: Counter[str] = Counter()


@settings(
    max_examples=COUNT,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def _try(case: Case) -> None:
    nodes = clean(case)
    assert wrongs(case, nodes) == []
    deleted = {name for name, _ in nodes.deleted}
    if case.is_sound:
        assert deleted == expected(case, nodes)
    _MET["sound" if case.is_sound else "unsound"] += 1
    _MET["deleted, soundly" if case.is_sound else "deleted"] += bool(deleted)
    _MET["deleted, leaving"] += bool(deleted) and case.is_hurried and case.only_servers
    for lie in {lie.kind for lie in case.lies}:
        _MET[lie] += 1


def test_no_lie_makes_a_wrong_deletion_and_the_truth_makes_the_right_ones() -> None:
    _MET.clear()
    _try()
    assert _MET["sound"] + _MET["unsound"] >= COUNT
    # Cases in which nothing could go wrong, or nothing is to be done, would prove nothing.
    assert _MET["deleted, soundly"] > COUNT / 20
    assert _MET["deleted"] > COUNT / 50
    assert _MET["deleted, leaving"] > COUNT / 100
    assert all(_MET[kind] > COUNT / 100 for kind in (*KINDS, *DOWN))
