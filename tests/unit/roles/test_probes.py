"""Looks at the cluster: results, whatever happens, and never an error."""

from __future__ import annotations

import pytest

from appliance.errors import KubernetesMalformed, KubernetesRefused
from appliance.system.kubernetes import Health
from appliance.system.supervisor import Answer
from roles.common.probes import (
    ADMIN,
    KUBELET,
    ApiHealth,
    ApiSeen,
    NodeSeen,
    OwnNode,
    SupervisorAnswers,
)
from tests.fakes import FakeClock, FakeKubernetes, FakeSupervisor, Serving, make_node, make_system

PLACE = ("172.20.0.5", 9345)


def test_a_node_that_is_there_is_seen() -> None:
    node = make_node("w1")
    system = make_system(kubernetes=FakeKubernetes([node]))
    assert OwnNode(KUBELET, "w1").look(system) == NodeSeen(node)


def test_a_node_that_is_not_there_is_told_from_nobody_who_knows() -> None:
    kubernetes = FakeKubernetes([make_node("w1")])
    system = make_system(kubernetes=kubernetes)
    assert OwnNode(KUBELET, "w2").look(system) == NodeSeen(None, "the cluster knows no node w2")
    kubernetes.go_down()
    seen = OwnNode(KUBELET, "w1").look(system)
    assert (seen.node, seen.is_answered) == (None, False)
    assert "Connection refused" in seen.reason


def test_an_api_server_is_steady_when_it_was_ready_several_times_in_a_row() -> None:
    kubernetes, clock = FakeKubernetes([make_node("m1")]), FakeClock()
    system = make_system(kubernetes=kubernetes, clock=clock)
    assert ApiHealth(ADMIN).look(system) == ApiSeen(is_steady=True)
    assert kubernetes.asked == ["health"] * 3
    assert clock.slept == [0.5, 0.5]


@pytest.mark.parametrize("error", [KubernetesRefused("no"), KubernetesMalformed("no")])
def test_an_api_server_that_goes_back_and_forth_is_not_steady(
    error: KubernetesRefused | KubernetesMalformed,
) -> None:
    kubernetes = FakeKubernetes([make_node("m1")])
    kubernetes.fail(None, error)
    seen = ApiHealth(ADMIN).look(make_system(kubernetes=kubernetes))
    assert seen == ApiSeen(is_steady=False, reason="no")
    assert kubernetes.asked == ["health"] * 2


def test_checks_that_fail_are_named() -> None:
    kubernetes = FakeKubernetes([make_node("m1")])
    kubernetes.says = Health(is_ok=False, failing=("informer-sync", "poststarthook/x"))
    seen = ApiHealth(ADMIN).look(make_system(kubernetes=kubernetes))
    assert seen.reason == "the API server is not ready: informer-sync, poststarthook/x"


@pytest.mark.parametrize("failing", [("etcd",), ("etcd-readiness", "informer-sync")])
def test_etcd_that_does_not_answer_is_said_to_need_a_majority(failing: tuple[str, ...]) -> None:
    kubernetes = FakeKubernetes([make_node("m1")])
    kubernetes.says = Health(is_ok=False, failing=failing)
    seen = ApiHealth(ADMIN).look(make_system(kubernetes=kubernetes))
    assert seen.reason == (
        f"the API server is not ready: {', '.join(failing)}; etcd answers only while a majority of"
        " the masters runs: bring back those that are down"
    )


@pytest.mark.parametrize(
    ("serving", "answer", "reason"),
    [
        (Serving(), Answer.PONG, ""),
        (Serving(is_starting=True), Answer.STARTING, "172.20.0.5:9345 is starting"),
        (None, Answer.NONE, "Connection refused"),
    ],
)
def test_a_supervisor_serves_starts_or_is_not_there(
    serving: Serving | None, answer: Answer, reason: str
) -> None:
    supervisor = FakeSupervisor({PLACE: serving} if serving else {})
    seen = SupervisorAnswers(*PLACE).look(make_system(supervisor=supervisor))
    assert (seen.answer, seen.serves) == (answer, answer is Answer.PONG)
    assert reason in seen.reason
    assert bool(seen.reason) is not seen.serves
