"""Two founders never happen, and somebody founds: every run of a small service, state by state.

The model holds one to four masters and what is between them. A state of it is

- of each VM what OneGate tells (whether it is listed, leaves, what it published), what RKE2 was
  started for and has not done yet, the note that it began to found, and the etcd data on its disk,
  which name the cluster by its founder's id;
- of the agent on it the one thing it is about to do. It looks at OneGate, decides with
  `decide_server`, and carries the decision out in steps of their own: publish the intent, take it
  back, publish the cluster it is to join, start RKE2, publish its token. Between any two steps
  everything else may happen, so that it acts on what it saw however long ago. What it published
  itself it sees at its next look. While RKE2 runs to found, and once there is data, it does not ask
  again.

What else may happen, at any time and again and again: an agent or a whole VM stops anywhere and
begins anew with what its disk holds; RKE2 that was begun goes on without the agent and gets to its
data later; an agent gives up for a while; VMs are listed late, lower ids included; one is removed
(LCM_STATE 12, the cardinality lowered at once or at the end), then gone; one with a higher id
comes; OneGate does not answer, which is no step here, or takes an update and stores it at some
later time, although the agent was told that it failed; an answer is gathered VM by VM while things
go on.

How much of that is allowed is a `Scene`. Some are worse than OpenNebula was ever seen to be: with
`lying` the list lacks a VM and the cardinality lacks it as well, so that the answer looks complete.
That is what the announcements are good for: with honest lists the lowest id alone would do.

All states that can be reached are visited, breadth first. In each one founder at most exists, and
all VMs that hold data hold that of one cluster. From each, if nothing more goes wrong, the listed
masters all come to serve one cluster, unless the only VM that had it is gone. That the checker
finds what it looks for is proved on protocols that lack a part of ours.

A cluster's id is published before there is data of it: who joins does so before its RKE2 starts,
and who founds as soon as RKE2 has made it up. The token, without which nobody joins, follows when
a master serves. One that publishes nothing before makes two clusters possible, as a scene shows:
who was passed over may found when the founder is gone. The price is that the id of a cluster may
outlive the last of its data, and everybody waits for a person then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import pytest

from appliance.siblings import Siblings
from appliance.system.onegate import Service, ServiceRole, Vm
from roles.common import election
from roles.common.election import (
    Announce,
    Found,
    Hold,
    Hopeless,
    Join,
    Retract,
    ServerDecision,
    decide_server,
)

# What a VM is to OpenNebula.
SPARE, LATE, LISTED, LEAVING, DYING, GONE = range(6)
# What an agent is about to do; looking is what it does when there is nothing else.
LOOK, ANNOUNCE, RETRACT, FOUND, TELL, JOIN = range(6)


class Told(NamedTuple):
    """What one answer tells of one master."""

    vm_id: int
    leaves: bool
    failed: bool
    founder: bool
    cluster: int
    token: int


class View(NamedTuple):
    """What one answer tells; `told` grows while the answer is gathered VM by VM."""

    vm_ids: tuple[int, ...]
    cardinality: int
    told: tuple[Told, ...]


class Machine(NamedTuple):
    """A VM, its disk, and its agent.

    Attributes:
        life: What it is to OpenNebula; LEAVING is not counted any more, DYING still is.
        founder: Whether OneGate holds its intent to found.
        cluster: The cluster whose id OneGate holds for it; 0 for none.
        token: The cluster whose token OneGate holds for it, as it serves; 0 for none.
        begun: Whether its disk says that it began to found, while there is no data.
        runs: The cluster that RKE2 was started to found or join, without data yet; 0 for none.
        data: The cluster whose etcd data is on its disk; 0 for none.
        does: What the agent is about to do.
        joins: Which cluster, if it is to join.
        looks: The answer that is being gathered.
        late: What an update that was taken and not stored yet will set, and to what.
        failed: Whether its agent gave up, and said so.
    """

    life: int
    founder: bool = False
    cluster: int = 0
    token: int = 0
    begun: bool = False
    runs: int = 0
    data: int = 0
    does: int = LOOK
    joins: int = 0
    looks: View | None = None
    late: tuple[str, int] | None = None
    failed: bool = False


class World(NamedTuple):
    """All VMs, the lowest id first, and how often VMs may still be removed and added."""

    machines: tuple[Machine, ...]
    removals: int


Decide = Callable[[int, View, bool], ServerDecision]


@dataclass(frozen=True)
class Scene:
    """What may happen.

    Attributes:
        masters: How many there are to begin with.
        late: How many of them, the lowest ids first, are listed late.
        spares: How many may be added, with higher ids.
        removals: How many may be removed.
        lying: Whether the cardinality lacks what the list lacks.
        slow_updates: Whether an update that seems to have failed may be stored later.
        torn: Whether an answer is gathered VM by VM.
        failing: Whether agents may give up for a while; those behind them join first then.
        keeps: Whether an agent knows that RKE2 was started to found, and does not ask again.
        tells_first: Whether the id of a cluster is published before there is data of it.
    """

    masters: int
    late: int = 0
    spares: int = 0
    removals: int = 0
    lying: bool = False
    slow_updates: bool = False
    torn: bool = False
    failing: bool = False
    keeps: bool = True
    tells_first: bool = True

    def begin(self) -> World:
        lives = [LATE] * self.late + [LISTED] * (self.masters - self.late) + [SPARE] * self.spares
        return World(tuple(Machine(life) for life in lives), self.removals)


# --- what an answer looks like --------------------------------------------------------------------


@cache
def siblings_of(view: View) -> Siblings:
    """Say it as the agent is told."""
    vms = tuple(
        Vm(
            vm_id=told.vm_id,
            name=f"master-{told.vm_id}",
            state=3,
            lcm_state=12 if told.leaves else 3,
            attributes={
                election.FOUNDER_KEY: "YES" if told.founder else "",
                election.STATE_KEY: "FAILED" if told.failed else "WAITING",
                election.CLUSTER_KEY: f"{told.cluster:064x}" if told.cluster else "",
                election.MASTER_KEY: f"172.20.0.{told.vm_id}" if told.token else "",
                election.TOKEN_KEY: f"K10{told.token:064x}::server:secret" if told.token else "",
            },
            nics=(),
        )
        for told in view.told
    )
    role = ServiceRole(election.MASTER_ROLE, view.cardinality, 1, view.vm_ids, vms)
    complete = view.cardinality <= len(view.vm_ids) == len(vms)
    return Siblings(Service(1, "OneKE", 1, (role,), complete))


@cache
def ours(own_id: int, view: View, has_begun: bool) -> ServerDecision:
    """Decide as the agent does."""
    return decide_server(own_id, siblings_of(view), has_begun=has_begun)


def without_reading_back(own_id: int, view: View, has_begun: bool) -> ServerDecision:
    """Found as soon as nobody else seems to."""
    decision = ours(own_id, view, has_begun)
    return Found() if isinstance(decision, Announce) else decision


def blind_to_announcements(own_id: int, view: View, has_begun: bool) -> ServerDecision:
    """Announce for others to see, and look at nobody's announcement."""
    told = tuple(one if one.vm_id == own_id else one._replace(founder=False) for one in view.told)
    return ours(own_id, view._replace(told=told), has_begun)


def taking_a_part_for_the_whole(own_id: int, view: View, has_begun: bool) -> ServerDecision:
    """Ignore that VMs are missing, and what they announce."""
    whole = view._replace(cardinality=len(view.vm_ids))
    return blind_to_announcements(own_id, whole, has_begun)


def announcing_regardless(own_id: int, view: View, has_begun: bool) -> ServerDecision:
    """Keep an announcement for ever."""
    decision = ours(own_id, view, has_begun)
    return Hold("never yields") if isinstance(decision, Retract) else decision


def taking_an_id_for_data(own_id: int, view: View, has_begun: bool) -> ServerDecision:
    """Take whoever published an id and has no data for one that lost it."""
    return ours(own_id, view, False)


def waiting_for_tokens_only(own_id: int, view: View, has_begun: bool) -> ServerDecision:
    """Take only who serves for one that has a cluster."""
    told = tuple(one if one.token else one._replace(cluster=0) for one in view.told)
    return ours(own_id, view._replace(told=told), has_begun)


# --- what happens next ----------------------------------------------------------------------------


class Steps:
    """Everything that may happen next."""

    def __init__(self, scene: Scene, decide: Decide) -> None:
        self.scene = scene
        self.decide = decide

    def after(self, world: World) -> Iterator[tuple[str, World]]:
        for at, machine in enumerate(world.machines):
            vm_id = at + 1
            for what, changed in self._fate(world, vm_id, machine):
                removals = world.removals - (what == "is being removed")
                yield (
                    f"VM {vm_id} {what}",
                    _replaced(world, at, changed)._replace(removals=removals),
                )
            if machine.life in (LISTED, LEAVING, DYING, LATE):
                for what, changed in self._agent(world, vm_id, machine):
                    yield f"VM {vm_id} {what}", _replaced(world, at, changed)

    def _fate(self, world: World, vm_id: int, machine: Machine) -> Iterator[tuple[str, Machine]]:
        """Yield what OpenNebula, OneGate and RKE2 do to it."""
        if machine.life == SPARE:
            yield "is added", machine._replace(life=LATE)
        if machine.life == LATE:
            yield "is listed", machine._replace(life=LISTED)
        if machine.life == LISTED and world.removals:
            yield "is being removed", machine._replace(life=LEAVING)
            yield "is being removed", machine._replace(life=DYING)
        if machine.life in (LEAVING, DYING):
            yield "is gone", Machine(GONE)
        if self.scene.failing and machine.life == LISTED and not machine.failed:
            yield "gives up", machine._replace(does=LOOK, looks=None, failed=True)
        if machine.late:
            yield f"has its update stored at last {machine.late}", _stored(machine)
        if machine.runs and _is_there(world, vm_id, machine.runs):
            yield "has data now", _with_data(machine)
        if (machine.does, machine.looks) != (LOOK, None):
            yield "has its agent cut", machine._replace(does=LOOK, looks=None)
        if machine.runs or (machine.does, machine.looks) != (LOOK, None):
            yield "is rebooted", machine._replace(does=LOOK, looks=None, runs=0)

    def _agent(self, world: World, vm_id: int, machine: Machine) -> Iterator[tuple[str, Machine]]:
        """Yield the next step of its agent, in each way it may go."""
        idle = machine._replace(does=LOOK, looks=None)
        if machine.failed:
            yield "tries again", idle._replace(failed=False)
        elif machine.data:
            # A machine with etcd data never founds or joins again.
            if not machine.cluster == machine.token == machine.data:
                told = idle._replace(cluster=machine.data, token=machine.data, founder=False)
                yield f"serves cluster {machine.data}, and publishes its token", told
        elif machine.runs == vm_id and self.scene.keeps:
            if self.scene.tells_first and machine.cluster != vm_id:
                yield "publishes the id of its cluster", idle._replace(cluster=vm_id)
        elif machine.does == LOOK:
            yield from self._look(world, vm_id, machine)
        elif machine.does in (ANNOUNCE, RETRACT):
            value = machine.does == ANNOUNCE
            verb = "announces" if value else "takes its announcement back"
            yield verb, idle._replace(founder=value)
            if self.scene.slow_updates and not machine.late:
                yield f"{verb}, which seems to fail", idle._replace(late=("founder", value))
        elif machine.does == FOUND:
            yield "starts RKE2 to found", idle._replace(begun=True, runs=vm_id)
        elif machine.does == TELL:
            verb = f"publishes that it joins cluster {machine.joins}"
            yield verb, machine._replace(does=JOIN, cluster=machine.joins)
            if self.scene.slow_updates and not machine.late:
                failed = idle._replace(joins=0, late=("cluster", machine.joins))
                yield f"{verb}, which seems to fail", failed
        elif machine.does == JOIN:
            yield "starts RKE2 to join", idle._replace(begun=False, runs=machine.joins, joins=0)

    def _look(self, world: World, vm_id: int, machine: Machine) -> Iterator[tuple[str, Machine]]:
        view = machine.looks or self._list(world)
        if self.scene.torn and machine.looks is None:
            yield "asks who there is", machine._replace(looks=view)
            return
        unread = view.vm_ids[len(view.told) :]
        wanted = unread[:1] if self.scene.torn else unread
        told = tuple(one for other in wanted if (one := _tell(world, other)) is not None)
        if len(told) < len(wanted):
            # It was gone when it was to be read: the answer fails.
            yield "gets no answer", machine._replace(looks=None)
            return
        view = view._replace(told=view.told + told)
        if len(view.told) < len(view.vm_ids):
            yield f"reads VM {told[0].vm_id}", machine._replace(looks=view)
            return
        decision = self.decide(vm_id, view, machine.begun)
        yield f"looks and decides: {decision}", self._with_decision(machine, decision)

    def _list(self, world: World) -> View:
        known = [
            (at + 1, machine.life)
            for at, machine in enumerate(world.machines)
            if machine.life in (LISTED, LEAVING, DYING)
        ]
        counted = (LISTED, DYING) if self.scene.lying else (LISTED, DYING, LATE)
        cardinality = sum(machine.life in counted for machine in world.machines)
        return View(tuple(vm_id for vm_id, _ in known), cardinality, ())

    def _with_decision(self, machine: Machine, decision: ServerDecision) -> Machine:
        machine = machine._replace(looks=None)
        match decision:
            case Announce():
                return machine._replace(does=ANNOUNCE)
            case Retract():
                return machine._replace(does=RETRACT)
            case Found():
                return machine._replace(does=FOUND)
            case Join(token=token):
                cluster = int(token.reveal().removeprefix("K10").partition("::")[0], 16)
                is_told = machine.cluster == cluster or not self.scene.tells_first
                return machine._replace(does=JOIN if is_told else TELL, joins=cluster)
            case Hold() | Hopeless():
                # A run that gives up is begun again by the service manager.
                return machine


def _stored(machine: Machine) -> Machine:
    """Return it with the update that was taken before."""
    if machine.late is None:
        return machine
    key, value = machine.late
    kept = machine._replace(late=None)
    return kept._replace(cluster=value) if key == "cluster" else kept._replace(founder=bool(value))


def _with_data(machine: Machine) -> Machine:
    return machine._replace(runs=0, begun=False, data=machine.runs)


def _is_there(world: World, vm_id: int, cluster: int) -> bool:
    """Say whether there is anybody to join; who founds needs nobody."""
    return cluster == vm_id or any(machine.data == cluster for machine in world.machines)


def _tell(world: World, vm_id: int) -> Told | None:
    machine = world.machines[vm_id - 1]
    if machine.life == GONE:
        return None
    leaves = machine.life in (LEAVING, DYING)
    return Told(vm_id, leaves, machine.failed, machine.founder, machine.cluster, machine.token)


def _replaced(world: World, at: int, machine: Machine) -> World:
    return world._replace(machines=(*world.machines[:at], machine, *world.machines[at + 1 :]))


# --- what must hold -------------------------------------------------------------------------------


def wrong_in(world: World) -> str:
    """Say what is wrong in a state; empty for nothing."""
    founders = [
        at + 1
        for at, machine in enumerate(world.machines)
        if at + 1 in (machine.runs, machine.data)
    ]
    if len(founders) > 1:
        return f"VMs {founders} found a cluster each"
    clusters = {machine.data for machine in world.machines if machine.data}
    return f"there are the clusters {sorted(clusters)}" if len(clusters) > 1 else ""


def calmed(world: World) -> World:
    """Let everything that is under way outside the agents come to its end."""

    def calm(at: int, machine: Machine) -> Machine:
        if machine.life in (LEAVING, DYING):
            return Machine(GONE)
        machine = _stored(machine)
        if machine.runs and _is_there(world, at + 1, machine.runs):
            machine = _with_data(machine)
        return machine._replace(life=LISTED) if machine.life == LATE else machine

    return World(tuple(calm(*one) for one in enumerate(world.machines)), 0)


def is_settled(world: World) -> bool:
    listed = [machine for machine in world.machines if machine.life == LISTED]
    return len({machine.data for machine in listed}) <= 1 and all(
        machine.data and machine.cluster == machine.token == machine.data for machine in listed
    )


def is_lost(world: World) -> bool:
    """Say whether the id of a cluster is all that is left of it: its founder and all data are gone.

    A person has to tell that from data that may come back.
    """
    data = {machine.data for machine in world.machines}
    ids = {machine.cluster for machine in world.machines if machine.cluster}
    return any(one not in data and world.machines[one - 1].life == GONE for one in ids) and (
        data == {0}
    )


class Settling:
    """Goes on without faults, every agent in turn, until all serve one cluster or it is lost."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._known: set[World] = set()

    def ends_well(self, world: World) -> bool:
        passed: set[World] = set()
        world = calmed(world)
        while world not in self._known and not (is_settled(world) or is_lost(world)):
            if world in passed:
                return False
            passed.add(world)
            world = self._round(world)
        self._known.update(passed, (world,))
        return True

    def _round(self, world: World) -> World:
        for at in range(len(world.machines)):
            if world.machines[at].life == LISTED:
                # The first way is the one in which nothing fails.
                ways = self._steps._agent(world, at + 1, world.machines[at])
                _, machine = next(ways, ("", world.machines[at]))
                world = calmed(_replaced(world, at, machine))
        return world


class Fault(Exception):
    """A state in which something is wrong, and how it is reached."""


def visit(scene: Scene, decide: Decide = ours) -> int:
    """Visit every state that can be reached and return how many there are.

    Raises:
        Fault: In one of them something is wrong.
    """
    steps = Steps(scene, decide)
    settling = Settling(steps)
    first = scene.begin()
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    waiting = deque([first])
    stuck: World | None = None
    while waiting:
        world = waiting.popleft()
        wrong = wrong_in(world)
        if wrong:
            raise Fault(_told_from_the_start(came_from, world, wrong))
        if stuck is None and not settling.ends_well(world):
            stuck = world
        for what, following in steps.after(world):
            if following not in came_from:
                came_from[following] = world, what
                waiting.append(following)
    if stuck is not None:
        raise Fault(_told_from_the_start(came_from, stuck, "from here it never comes to an end"))
    return len(came_from)


def _told_from_the_start(
    came_from: dict[World, tuple[World, str] | None], world: World, wrong: str
) -> str:
    lines = [wrong]
    while (before := came_from[world]) is not None:
        world, what = before
        lines.append(what)
    return "\n".join(["", *reversed(lines)])


# --- the tests ------------------------------------------------------------------------------------

SCENES = {
    "one master": Scene(1),
    "two masters, one late": Scene(2, late=1),
    "one that goes and two that come": Scene(1, spares=2, removals=1),
    "two, replaced one after the other": Scene(2, spares=2, removals=2),
    "one, replaced, answers torn": Scene(1, spares=1, removals=1, torn=True),
    "three, one late, one removed, answers torn": Scene(3, late=1, removals=1, torn=True),
    "three, one late, updates slow, answers torn": Scene(3, late=1, slow_updates=True, torn=True),
    "three that give up at times, one removed": Scene(3, removals=1, failing=True),
    "four, one removed": Scene(4, removals=1),
    "a lower id that nobody knew of": Scene(2, late=1, lying=True),
    "the same with torn answers": Scene(2, late=1, lying=True, torn=True),
    "three that come in turn, slow": Scene(3, late=2, lying=True, slow_updates=True),
    "three that come in turn, one removed": Scene(3, late=2, removals=1, lying=True),
    "four that come in turn": Scene(4, late=3, lying=True),
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=list(SCENES))
def test_there_is_one_founder_at_most_and_all_come_to_serve_its_cluster(scene: Scene) -> None:
    assert visit(scene) >= 7


@pytest.mark.parametrize(
    ("decide", "scene", "words"),
    [
        (without_reading_back, Scene(2, late=1, lying=True), "found a cluster each"),
        (blind_to_announcements, Scene(2, late=1, lying=True), "found a cluster each"),
        (taking_a_part_for_the_whole, Scene(2, late=1), "found a cluster each"),
        (announcing_regardless, Scene(2, late=1, lying=True), "never comes to an end"),
        (ours, Scene(2, late=1, lying=True, keeps=False), "found a cluster each"),
        (ours, Scene(3, removals=1, failing=True, tells_first=False), "there are the clusters"),
        (waiting_for_tokens_only, Scene(3, removals=1, failing=True), "there are the clusters"),
        (taking_an_id_for_data, Scene(1), "never comes to an end"),
    ],
    ids=[
        "who does not read back",
        "who is blind to announcements",
        "who takes a part for the whole",
        "who never yields",
        "who forgets that it has begun",
        "who joins silently",
        "who founds although another has an id",
        "who takes its own id for data that it lost",
    ],
)
def test_the_checker_finds_what_a_protocol_that_lacks_a_part_leads_to(
    decide: Decide, scene: Scene, words: str
) -> None:
    with pytest.raises(Fault, match=words):
        visit(scene, decide)


def test_every_decision_but_a_persons_is_made_somewhere() -> None:
    made = set()

    def noting(own_id: int, view: View, has_begun: bool) -> ServerDecision:
        decision = ours(own_id, view, has_begun)
        made.add(type(decision))
        return decision

    visit(Scene(2, late=1, lying=True), noting)
    assert made == {Announce, Retract, Found, Join, Hold}
