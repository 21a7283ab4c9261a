"""Lives the recorded services again and compares states, in order, and answers.

Times are not compared but for the order they impose: the front-ends of the recordings were slowed
down to different degrees. VM ids are those of the recordings, so that whole answers compare.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import threading
from collections.abc import Sequence

import pytest

from tests.lab.oneflow.template import ServiceTemplate
from tests.lab.onegate.messages import Answer, Request
from tests.lab.onegate.state import FlowState, LcmState
from tests.lab.onegate.template import Version
from tests.unit.lab import recordings
from tests.unit.lab.oneflow_world import STEP_S, Timeline, World, oneke, read_timeline
from tests.unit.lab.recordings import CutBody, Recording

OBSERVER = 4
LEFT_AT_270 = (363, 364)


def read_text(name: str, version: str = "7.4") -> str:
    [path] = (recordings.RECORDINGS / version).glob(f"{name}-*.txt")
    return path.read_text(encoding="utf-8")


def find(name: str, version: str = "7.4") -> Recording:
    return next(found for found in recordings.load(version) if found.name.startswith(f"{name}-"))


def replay(world: World, name: str, version: str = "7.4") -> Answer:
    """Send a recorded request and compare the answer, by its checksum where it was cut."""
    recording = find(name, version)
    assert recording.vm_id in world.cloud.vms
    sender = int(recording.header("X-ONEGATE-VMID"))
    headers = {key.lower(): value for key, value in recording.headers}
    headers["x-onegate-token"] = world.cloud.vms[sender].token
    path, _, query = recording.request_line.split(" ")[1].partition("?")
    answer = world.gate.answer(Request(recording.method, path, query, headers, recording.body))
    assert answer.status == recording.status, name
    if "extended" in query:
        compare_vm_states(name, answer)
    elif isinstance(recording.answer, CutBody):
        assert recording.answer.is_cut_from(answer.body), answer.body
    else:
        assert answer.body == recording.answer
    return answer


def compare_vm_states(name: str, answer: Answer) -> None:
    """Compare the states of the VMs of an extended answer; all else of it 030 to 070 prove."""
    text = read_text(name)
    if "indented for reading" in text:
        recorded = json.loads(text[text.index("\n{\n") :])
        assert list_vm_states(recorded) == list_vm_states(json.loads(answer.body))


def list_vm_states(
    document: dict[str, dict[str, list[dict[str, list[dict[str, dict[str, dict[str, str]]]]]]]],
) -> list[tuple[str, str, str]]:
    nodes = [node for role in document["SERVICE"]["roles"] for node in role["nodes"]]
    vms = [node["vm_info"]["VM"] for node in nodes]
    return [(vm["ID"], vm["STATE"], vm["LCM_STATE"]) for vm in vms]


def compare_columns(
    recorded: Sequence[tuple[str, ...]], seen: Sequence[tuple[str, ...]], *, is_whole: bool = True
) -> None:
    """Compare a timeline column by column: what the service went through, then each VM.

    The recorder looked about once a second and asked one thing after the other. So it may have
    missed a short state of a VM, but a service never went through other states than here.
    """
    columns = zip(zip(*recorded, strict=True), zip(*seen, strict=True), strict=True)
    for index, column in enumerate(columns):
        theirs, ours = (squeeze(states) for states in column)
        if index == 0 and is_whole:
            assert ours == theirs
        else:
            rest = iter(ours)
            assert all(state in rest for state in theirs), (theirs, ours)


def squeeze(states: Sequence[str]) -> list[str]:
    return [state for index, state in enumerate(states) if index == 0 or states[index - 1] != state]


def recorded_template() -> ServiceTemplate:
    """The recorded service, with what its VMs have in their user templates."""
    shown = json.loads(replace_cut(find("026")))["VM"]["USER_TEMPLATE"]
    kept = {key: shown[key] for key in shown if key not in ("ROLE_NAME", "SERVICE_ID", "READY")}
    template = oneke()
    roles = tuple(
        dataclasses.replace(role, vm=dataclasses.replace(role.vm, attributes=kept))
        for role in template.roles
    )
    return dataclasses.replace(template, roles=roles)


def replace_cut(recording: Recording) -> bytes:
    assert isinstance(recording.answer, bytes)
    return recording.answer


@pytest.fixture
def world() -> World:
    """Service 2 of the recordings: vnf 2 and 3, master 4 to 6, worker 7 and 8, storage 9."""
    world = World()
    world.pace.react_s = 0.5
    world.cloud.add_service("OneKE/1", [])
    world.use_up_ids(2)
    assert world.bring_up(recorded_template()) == 2
    assert world.cloud.services[2].vm_ids() == list(range(2, 10))
    return world


# --- coming up ----------------------------------------------------------------------------------


def test_029_a_service_comes_up_role_by_role() -> None:
    text = read_text("029")
    recorded = read_timeline(text)
    reports = [
        (int(hours) * 3600 + int(minutes) * 60 + int(seconds), int(vm_id))
        for hours, minutes, seconds, vm_id in re.findall(
            r"(\d\d):(\d\d):(\d\d) EVENT VM (\d+) PUT READY=YES -> 200", text
        )
    ]
    world = World()
    world.use_up_ids(365)
    world.now = recorded[0][0]
    world.driver.boot_s = 2
    world.flow.instantiate(oneke())
    timeline = Timeline(world, 365)
    for at, vm_id in reports:
        world.advance(at - world.now)
        world.report_ready([vm_id])
    world.advance(5)
    assert timeline.lines == [line for _, line in recorded]


def test_252_a_lower_case_report_is_found_by_looking_only() -> None:
    before, after = (
        ast.literal_eval(found)
        for found in re.findall(r": (\(\d, \[.*\]\))$", read_text("252"), re.MULTILINE)
    )
    world = World()
    service_id = world.flow.instantiate(oneke(name="OneKE/1")).service_id
    world.advance(12)

    def states() -> tuple[int, list[tuple[str, int]]]:
        service = world.cloud.services[service_id]
        return service.state, [(role.name, role.state) for role in service.roles]

    assert states() == before
    replay(world, "250")
    replay(world, "251")
    world.advance(10)
    assert states() == before
    world.advance(25)
    assert states() == after


def test_260_what_a_restarted_oneflow_deploys_belongs_to_serveradmin() -> None:
    world = World()
    service_id = world.flow.instantiate(oneke(name="OneKE/1")).service_id
    world.use_up_ids(12)
    world.advance(12)
    world.flow.set_down(True)
    world.report_ready([0, 1])
    world.advance(60)
    assert world.role_vms(service_id, "master") == []
    world.flow.set_down(False)
    world.advance(12)
    replay(world, "260")
    replay(world, "261")
    replay(world, "262")
    assert world.get(12, "/vm")["VM"]["NAME"] == "master_0_(service_1)"
    replay(world, "264")


# --- scaling ------------------------------------------------------------------------------------


def test_300_to_345_and_270_the_life_of_a_service(world: World) -> None:
    for name in ("300", "301", "302", "303", "304"):
        replay(world, name)
    scale_to_none_by_mistake(world)
    scale_up_and_down(world)
    lose_vms(world)
    scale_far(world)
    take_down(world)


def scale_to_none_by_mistake(world: World) -> None:
    replay(world, "305")
    timeline = Timeline(world, OBSERVER, [7, 8])
    world.advance_until(FlowState.RUNNING, 2)
    # The recorder began to look when the VMs were gone.
    recorded = [line for _, line in read_timeline(read_text("305b"))]
    compare_columns(recorded, timeline.lines, is_whole=False)
    assert timeline.lines[-1] == recorded[-1]
    world.watchers.clear()


def scale_up_and_down(world: World) -> None:
    world.use_up_ids(18)
    private = world.cloud.find_network("Private")
    assert private is not None
    private.ranges[0].next_index = 18
    replay(world, "310")
    timeline = Timeline(world, OBSERVER, [18, 19, 20])
    replay(world, "312")
    world.advance(12)
    replay(world, "313")
    world.report_ready([18, 19, 20])
    world.advance_until(FlowState.COOLDOWN, 2)
    replay(world, "314")
    world.advance_until(FlowState.RUNNING, 2)
    compare_columns([line for _, line in read_timeline(read_text("311"))], timeline.lines)
    world.watchers.clear()

    replay(world, "320")
    timeline = Timeline(world, OBSERVER, [18, 19, 20])
    world.advance(3)
    for name in ("321", "322", "323", "324", "325"):
        replay(world, name)
    world.advance_until(FlowState.RUNNING, 2)
    compare_columns([line for _, line in read_timeline(read_text("326"))], timeline.lines)
    world.watchers.clear()
    for name in ("327", "328", "329"):
        replay(world, name)


def lose_vms(world: World) -> None:
    timeline = Timeline(world, OBSERVER, [6])
    world.machines.power_off(6)
    world.advance(30)
    world.machines.resume(6)
    world.advance(20)
    compare_columns([line for _, line in read_timeline(read_text("330"))], timeline.lines)
    world.watchers.clear()

    timeline = Timeline(world, OBSERVER, [20])
    world.machines.terminate(20)
    world.advance(20)
    compare_columns([line for _, line in read_timeline(read_text("331"))], timeline.lines)
    world.watchers.clear()
    replay(world, "332")
    replay(world, "333")


def scale_far(world: World) -> None:
    assert world.flow.scale(2, "worker", 44)
    settle(world)
    scale_longer_than_onegate_waits(world)
    replay(world, "341")
    settle(world)
    assert world.role_vms(2, "worker") == [213, 214]

    pictures: list[Answer] = []

    def look_on_the_way() -> None:
        if not pictures and 250 in world.cloud.vms:
            pictures.append(replay(world, "343"))

    world.watchers.append(look_on_the_way)
    replay(world, "342")
    assert len(pictures) == 1
    world.watchers.clear()
    replay(world, "344")
    replay(world, "345")
    settle(world)


def scale_longer_than_onegate_waits(world: World) -> None:
    """As in 340: the answer is a failure, but the work goes on to its end."""
    assert "HTTP 400, body: Error performing action on service 2 role worker" in read_text("340")
    let_go = threading.Event()
    world.pace.answer_limit_s = 0.05
    world.watchers.append(lambda: None if let_go.wait(10) else pytest.fail("never let go"))
    answer = world.ask(OBSERVER, "PUT", "/service/role/worker", '{"cardinality": 194}')
    assert (answer.status, answer.body) == (
        400,
        b"Error performing action on service 2 role worker",
    )
    assert world.cloud.services[2].state == FlowState.RUNNING
    assert not world.flow.scale(2, "storage", 2)
    let_go.set()
    for thread in threading.enumerate():
        if thread.name.startswith("scaling"):
            thread.join()
    world.watchers.clear()
    world.pace.answer_limit_s = 30
    assert len(world.role_vms(2, "worker")) == 194
    settle(world)


def take_down(world: World) -> None:
    assert world.flow.scale(2, "worker", 2)
    settle(world)
    assert tuple(world.role_vms(2, "worker")) == LEFT_AT_270
    # The recorded front-end shut one VM down after the other.
    order = (4, 5, 6, *LEFT_AT_270, 9)
    world.driver.shutdown_of = {vm_id: 4.0 * (index + 1) for index, vm_id in enumerate(order)}
    timeline = Timeline(world, 2)
    world.flow.undeploy(2)
    answers: dict[str, Answer] = {}
    while 2 in world.cloud.services:
        world.advance(STEP_S)
        answers[timeline.lines[-1][0]] = world.ask(2, "GET", "/service")
    recorded = [line for _, line in read_timeline(read_text("270"))]
    compare_columns(recorded, timeline.lines, is_whole=False)
    assert timeline.lines[-1] == recorded[-1]
    for body in re.findall(r"^(\{\"SERVICE.*)$", read_text("270"), re.MULTILINE):
        assert body.encode() in [answer.body for answer in answers.values()]


def settle(world: World) -> None:
    """Let time pass until the service runs; new VMs report as soon as they run."""
    while world.cloud.services[2].state != FlowState.RUNNING:
        world.advance(5)
        world.report_ready(
            [
                vm_id
                for vm_id in world.role_vms(2, "worker")
                if world.cloud.vms[vm_id].lcm_state == LcmState.RUNNING
                and world.cloud.vms[vm_id].ready_at is None
            ]
        )


@pytest.mark.parametrize("name", ["306", "307", "308"])
def test_odd_cardinalities_are_read_as_recorded(name: str) -> None:
    world = World()
    for number in (1, 2):
        world.cloud.add_service(f"OneKE/{number}", [])
    world.use_up_ids(365)
    service_id = world.bring_up(oneke(worker=0 if name == "308" else 2, name="OneKE/3"))
    replay(world, name)
    world.advance(2)
    told = re.search(
        r"2 s later: service state (\d+), worker cardinality (\d+), (\d+) nodes", read_text(name)
    )
    assert told
    service = world.cloud.services[service_id]
    worker = service.find_role("worker")
    found = [service.state, worker.cardinality, len(worker.nodes)]
    assert found == [int(number) for number in told.groups()]


def test_the_older_release_scales_in_the_same_states() -> None:
    world = World(Version.V6_4)
    world.pace.react_s = 0.5
    world.cloud.add_service("OneKE/1", [])
    world.use_up_ids(2)
    world.bring_up(recorded_template())
    for name in ("300", "301", "302", "303", "305"):
        replay(world, name, "6.4")
    world.advance_until(FlowState.RUNNING, 2)
    world.use_up_ids(11)
    world.driver.boot_of = {11: 6.0, 12: 12.0, 13: 18.0}
    replay(world, "310", "6.4")
    timeline = Timeline(world, OBSERVER, [11, 12, 13])
    replay(world, "312", "6.4")
    world.advance(25)
    world.report_ready([11, 12, 13])
    world.advance_until(FlowState.COOLDOWN, 2)
    replay(world, "314", "6.4")
    world.advance_until(FlowState.RUNNING, 2)
    compare_columns([line for _, line in read_timeline(read_text("311", "6.4"))], timeline.lines)
    world.watchers.clear()

    world.driver.shutdown_of = {11: 12.0, 12: 24.0}
    replay(world, "320", "6.4")
    timeline = Timeline(world, OBSERVER, [11, 12, 13])
    replay(world, "321", "6.4")
    world.advance_until(FlowState.RUNNING, 2)
    compare_columns([line for _, line in read_timeline(read_text("326", "6.4"))], timeline.lines)
