"""Workers and storage nodes take themselves out of the cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.errors import KubernetesConflict, KubernetesUnavailable
from appliance.system.kubernetes import Access, Node
from appliance.waiting import Failed, NotYet, Ready
from roles.common.departure import AgentDeparture
from roles.common.drain import SILENT_S
from roles.common.removal import Going, Gone
from roles.common.rke2config import VM_LABEL
from tests.fakes import FakeClock, FakeKubernetes, make_node, make_system


class Worker:
    """A worker that leaves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.kubernetes = FakeKubernetes([make_node("w1"), make_node("w2")])
        system = make_system(kubernetes=self.kubernetes, clock=self.clock)
        self.departure = AgentDeparture(system, "w1", 11)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_a_worker_deletes_its_own_node_with_its_own_certificate(worker: Worker) -> None:
    assert worker.departure.access.certificate.name == "client-kubelet.crt"
    assert worker.departure.look() == NotYet("its node is being deleted")
    assert worker.departure.look() == Ready()
    assert list(worker.kubernetes.members) == ["w2"]


@pytest.mark.parametrize("vm_id", ["11", "12"])
def test_a_workers_node_is_left_alone_where_it_names_another_vm(worker: Worker, vm_id: str) -> None:
    worker.kubernetes.put(make_node("w1", labels={VM_LABEL: vm_id}))
    found = worker.departure.look()
    is_taken = vm_id != "11"
    assert (found == Ready()) == is_taken
    assert worker.departure.preview() == Gone("its name is VM 12's now" if is_taken else "")
    assert ("delete w1" in worker.kubernetes.asked) != is_taken
    if is_taken:
        assert worker.departure.outcome == "its name is VM 12's now"


def test_a_worker_that_may_not_leaves_it_to_the_cleaner(worker: Worker) -> None:
    worker.kubernetes.forbidden = {"delete"}
    found = worker.departure.look()
    assert found == Failed("its node may not delete itself; the masters' cleaner does it")
    assert "oneke-agent clean" in worker.departure.hint


def test_a_workers_node_that_changes_is_looked_at_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conflict(access: Access, node: Node) -> bool:
        raise KubernetesConflict("status 409", status=409)

    with monkeypatch.context() as changed:
        changed.setattr(worker.kubernetes, "delete_node", conflict)
        assert worker.departure.look() == NotYet("its node changed while it was looked at")
    worker.departure.look()
    assert worker.departure.look() == Ready()


def test_a_worker_waits_for_a_silent_api_only_so_long(worker: Worker) -> None:
    worker.kubernetes.go_down(KubernetesUnavailable("no answer in time"))
    assert worker.departure.look() == NotYet("no answer in time")
    worker.clock.pass_time(SILENT_S)
    assert worker.departure.look() == Failed("no answer in time")


def test_a_workers_node_that_something_holds_is_waited_for(worker: Worker) -> None:
    worker.kubernetes.put(replace(make_node("w1"), is_going=True))
    assert worker.departure.look() == NotYet("its node is being deleted")
    assert worker.departure.preview() == Going()
    assert "delete w1" not in worker.kubernetes.asked
