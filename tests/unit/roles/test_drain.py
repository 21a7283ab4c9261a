"""Pods of a node that leaves: which have to go, and what keeps them."""

from __future__ import annotations

import pytest

from appliance.errors import KubernetesError, KubernetesRefused, KubernetesUnavailable
from appliance.system.kubernetes import Access, Pod
from appliance.waiting import Deadline, Failed, NotYet, Readiness, Ready
from roles.common.drain import SILENT_S, Drain, pods_to_move, shown
from roles.common.probes import KUBELET
from roles.common.rke2config import VM_LABEL
from tests.fakes import FakeClock, FakeKubernetes, FakeLog, make_node, make_pod, make_system

BUSY = KubernetesUnavailable("Kubernetes GET /api/v1/pods: status 503: busy", status=503)


class Node:
    """A node with pods."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kubernetes = FakeKubernetes([make_node("w1"), make_node("w2")])
        self.log = FakeLog()
        system = make_system(kubernetes=self.kubernetes, clock=self.clock)
        self.drain = Drain(system, KUBELET, "w1", 11, self.log)

    def look(self, left_s: float = 40) -> Readiness:
        return self.drain.look(Deadline.after(self.clock, left_s))


@pytest.fixture
def node() -> Node:
    return Node()


def test_what_belongs_to_the_node_or_has_ended_stays() -> None:
    pods = [
        make_pod("web"),
        make_pod("alone", controller=""),
        make_pod("db", controller="StatefulSet"),
        make_pod("starting", phase="Pending"),
        make_pod("ending", is_going=True),
        make_pod("agent", controller="DaemonSet"),
        make_pod("etcd", controller="Node"),
        make_pod("apiserver", is_mirror=True, controller=""),
        make_pod("done", phase="Succeeded", controller="Job"),
        make_pod("broken", phase="Failed"),
    ]
    moved = [pod.name for pod in pods_to_move(pods)]
    assert moved == ["web", "alone", "db", "starting", "ending"]


def test_a_node_is_cordoned_before_its_pods_go(node: Node) -> None:
    node.kubernetes.place("w1", make_pod("a"), make_pod("b"), make_pod("x", controller="DaemonSet"))
    assert node.look() == Ready()
    assert node.kubernetes.tape.changes == [
        "kubernetes.cordon w1",
        "kubernetes.evict a",
        "kubernetes.evict b",
    ]
    assert list(node.kubernetes.pods_of["w1"]) == ["x"]
    assert node.drain.moved == {"default/a", "default/b"}


def test_pods_that_end_slowly_are_waited_for_and_not_evicted_again(node: Node) -> None:
    node.kubernetes.place("w1", make_pod("slow"))
    node.kubernetes.lingering = {"slow"}
    assert [node.look(), node.look()] == [NotYet("its pods are ending")] * 2
    assert node.kubernetes.asked.count("evict slow") == 1
    node.kubernetes.end("slow")
    assert node.look() == Ready()


def test_a_budget_is_asked_again_until_it_lets_go(node: Node) -> None:
    node.kubernetes.place("w1", make_pod("guarded"), make_pod("free"))
    node.kubernetes.guarded = {"guarded"}
    for _ in range(3):
        assert node.look() == NotYet("a budget for disruptions does not let go of default/guarded")
    assert "free" not in node.kubernetes.pods_of["w1"]
    assert [pod.name for pod in node.drain.left] == ["guarded"]
    node.kubernetes.guarded = set()
    assert node.look() == Ready()


@pytest.mark.parametrize(
    "refusal",
    [
        KubernetesUnavailable("status 500: found more than one budget", status=500),
        KubernetesRefused("status 403: admission webhook denied the request", status=403),
        KubernetesRefused("status 404: no such path", status=404),
    ],
)
def test_a_pod_that_can_not_be_evicted_does_not_keep_others(
    node: Node, monkeypatch: pytest.MonkeyPatch, refusal: KubernetesError
) -> None:
    node.kubernetes.place("w1", make_pod("odd"), make_pod("free"), make_pod("guarded"))
    node.kubernetes.guarded = {"guarded"}
    honest = node.kubernetes.evict

    def refuse(access: Access, pod: Pod) -> bool:
        if pod.name == "odd":
            raise refusal
        return honest(access, pod)

    monkeypatch.setattr(node.kubernetes, "evict", refuse)
    why = f"default/odd held back, because {refusal}"
    for _ in range(2):
        assert node.look() == NotYet(
            f"a budget for disruptions does not let go of default/guarded; {why}"
        )
        node.clock.pass_time(SILENT_S)
    assert sorted(node.kubernetes.pods_of["w1"]) == ["guarded", "odd"]
    assert node.drain.tell_left("too late") == (
        f"default/odd could not be moved: {refusal}; default/guarded could not be moved: a budget"
        " for disruptions does not let go of it; they end with the VM"
    )


def test_what_is_left_is_told_with_what_keeps_it(node: Node) -> None:
    pods = [make_pod(f"p{number}") for number in range(3)]
    node.kubernetes.place("w1", make_pod("slow"), *pods)
    node.kubernetes.lingering = {"slow"}
    node.kubernetes.guarded = {"p0", "p1"}
    node.kubernetes.fail(*[None] * 6, KubernetesUnavailable("no answer in time"))
    assert node.look() == NotYet("no answer in time")
    assert node.drain.tell_left("no answer in time") == (
        "default/p0, default/p1 could not be moved: a budget for disruptions does not let go of"
        " them; default/p2 could not be moved: no answer in time; default/slow is ending; they end"
        " with the VM"
    )


def test_why_a_pod_was_held_back_is_still_known_where_the_last_look_is_cut(node: Node) -> None:
    node.kubernetes.place("w1", make_pod("guarded"))
    node.kubernetes.guarded = {"guarded"}
    node.look()
    node.kubernetes.fail(None, KubernetesUnavailable("no answer in time"))
    assert node.look() == NotYet("no answer in time")
    assert "a budget for disruptions does not let go of it" in node.drain.tell_left("too late")


def test_pods_of_other_nodes_are_left_alone(node: Node) -> None:
    node.kubernetes.place("w2", make_pod("elsewhere"))
    assert node.look() == Ready()
    assert list(node.kubernetes.pods_of["w2"]) == ["elsewhere"]


def test_pods_that_are_gone_or_new_by_the_time_are_no_trouble(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.kubernetes.place("w1", make_pod("gone"), make_pod("new"))
    honest = node.kubernetes.evict

    def change_first(access: object, pod: object) -> object:
        node.kubernetes.end("gone")
        node.kubernetes.end("new")
        return honest(access, pod)

    monkeypatch.setattr(node.kubernetes, "evict", change_first)
    assert node.look() == Ready()


def test_a_node_that_the_cluster_does_not_know_has_no_pods(node: Node) -> None:
    del node.kubernetes.members["w1"]
    assert node.look() == Ready()


def test_a_node_of_that_name_that_names_another_vm_is_left_alone(node: Node) -> None:
    node.kubernetes.put(make_node("w1", labels={VM_LABEL: "12"}))
    node.kubernetes.place("w1", make_pod("a"))
    assert node.look() == Ready()
    assert node.kubernetes.tape.changes == []
    node.kubernetes.put(make_node("w1", labels={VM_LABEL: "11"}))
    node.look()
    assert node.drain.moved == {"default/a"}


def test_what_a_node_may_not_do_it_does_not_try_again(node: Node) -> None:
    node.kubernetes.forbidden = {"pods"}
    found = node.look()
    assert isinstance(found, Failed)
    assert "403" in found.reason


def test_silence_is_waited_for_only_so_long_and_an_answer_ends_it(node: Node) -> None:
    node.kubernetes.place("w1", make_pod("guarded"))
    node.kubernetes.guarded = {"guarded"}
    node.kubernetes.fail(BUSY)
    assert node.look() == NotYet(str(BUSY))
    node.clock.pass_time(SILENT_S)
    assert isinstance(node.look(), NotYet)
    node.kubernetes.go_down(BUSY)
    assert node.look() == NotYet(str(BUSY))
    node.clock.pass_time(SILENT_S - 1)
    assert node.look() == NotYet(str(BUSY))
    node.clock.pass_time(1)
    assert node.look() == Failed(str(BUSY))


def test_no_pod_is_asked_to_go_when_the_time_is_over(node: Node) -> None:
    node.kubernetes.place("w1", make_pod("a"))
    node.look(left_s=0)
    assert "evict a" not in node.kubernetes.asked
    assert node.drain.tell_left("its pods are ending") == (
        "default/a could not be moved: no time is left to ask; it ends with the VM"
    )


def test_many_pods_are_not_all_named() -> None:
    assert shown([make_pod(f"p{number}") for number in range(7)]) == (
        "default/p0, default/p1, default/p2, default/p3, default/p4 and 2 more"
    )
    assert shown([]) == ""
