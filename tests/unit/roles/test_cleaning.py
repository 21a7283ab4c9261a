"""The task `clean`: looks twice, deletes what is still as it was, tells what it did."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.errors import KubernetesRefused, KubernetesUnavailable, OneGateRefused
from appliance.errors import OneGateUnavailable as NoAnswer
from appliance.role import TaskResult
from appliance.system.kubernetes import Health
from roles.common.cleaner import APART_S, GRACE_S
from roles.common.cleaning import Cleaning
from roles.common.probes import ADMIN
from roles.common.rke2config import VM_LABEL
from tests.fakes import (
    FakeClock,
    FakeKubernetes,
    FakeLog,
    FakeOneGate,
    Tape,
    make_node,
    make_system,
)

NOW = 1_700_000_000.0
LONG_AGO = NOW - 10 * GRACE_S
SERVER = {"node-role.kubernetes.io/etcd": "true"}


class Master:
    """A serving master, VM 1, with a worker that lives, VM 4, and two that are gone."""

    def __init__(self) -> None:
        self.tape, self.clock, self.log = Tape(), FakeClock(now=NOW), FakeLog()
        self.onegate = FakeOneGate(1, {"ROLE_NAME": "master"}, tape=self.tape)
        self.onegate.add_vm(4, {"ROLE_NAME": "worker"})
        own = make_node("m1", labels={VM_LABEL: "1", **SERVER}, voter="True")
        gone = [self.gone(f"w{vm_id}", vm_id) for vm_id in (8, 9)]
        lives = make_node("w4", labels={VM_LABEL: "4"})
        self.kubernetes = FakeKubernetes([own, lives, *gone], tape=self.tape)

    @staticmethod
    def gone(name: str, vm_id: int) -> object:
        return make_node(
            name, labels={VM_LABEL: str(vm_id)}, ready="Unknown", ready_since_s=LONG_AGO
        )

    def clean(self, *, dry_run: bool = False, with_onegate: bool = True) -> TaskResult:
        """Run the task."""
        system = make_system(
            tape=self.tape,
            clock=self.clock,
            kubernetes=self.kubernetes,
            onegate=self.onegate if with_onegate else None,
        )
        return Cleaning(system, ADMIN, "m1", 1, 1, self.log).run(dry_run=dry_run)

    def verdicts(self, result: TaskResult) -> dict[str, str]:
        """Return node to verdict."""
        return {line.subject: line.verdict for line in result.lines}


@pytest.fixture
def master() -> Master:
    return Master()


def test_nodes_whose_vms_are_gone_are_deleted_and_the_others_kept(master: Master) -> None:
    result = master.clean()
    assert master.verdicts(result) == {"m1": "kept", "w4": "kept", "w8": "deleted", "w9": "deleted"}
    assert result.trouble == ""
    assert sorted(master.kubernetes.members) == ["m1", "w4"]
    assert [line["node"] for line in master.log.find("node.deleted")] == ["w8", "w9"]
    again = master.clean()
    assert master.verdicts(again) == {"m1": "kept", "w4": "kept"}


def test_a_dry_run_tells_the_same_and_deletes_nothing(master: Master) -> None:
    result = master.clean(dry_run=True)
    assert master.verdicts(result) == {
        "m1": "kept",
        "w4": "kept",
        "w8": "to delete",
        "w9": "to delete",
    }
    assert master.tape.changes == []


def test_onegate_is_asked_twice_with_a_pause_between(master: Master) -> None:
    master.clean()
    assert master.onegate.asked == 3
    assert [list(values) for values in master.onegate.updates] == [["ONEKE_CLEANER_MARK"]]
    assert master.clock.slept == [APART_S]


def test_onegate_is_asked_once_where_every_silent_node_has_its_vm(master: Master) -> None:
    for vm_id in (8, 9):
        master.onegate.add_vm(vm_id, {"ROLE_NAME": "worker"})
    result = master.clean()
    assert set(master.verdicts(result).values()) == {"kept"}
    assert result.trouble == ""
    assert (master.onegate.asked, master.clock.slept) == (1, [])


def test_an_answer_that_is_older_than_its_question_keeps_every_node_and_is_trouble(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master.onegate, "update", lambda values: None)
    result = master.clean()
    assert set(master.verdicts(result).values()) == {"kept"}
    assert result.trouble == "OneGate's second answer is older than its question"
    assert master.verdicts(master.clean(dry_run=True))["w8"] == "to delete"


def test_a_slow_onegate_is_left_alone_for_several_times_as_long(master: Master) -> None:
    master.onegate.answered = lambda: master.clock.pass_time(4)
    master.clean()
    assert master.clock.slept == [12.0]


def test_onegate_is_not_asked_where_every_node_is_ready(master: Master) -> None:
    for name in ("w8", "w9"):
        del master.kubernetes.members[name]
    assert master.verdicts(master.clean()) == {"m1": "kept", "w4": "kept"}
    assert master.onegate.asked == 0


def test_a_vm_that_comes_back_between_the_looks_keeps_its_node(master: Master) -> None:
    master.clock.after(APART_S / 2, lambda: master.onegate.add_vm(8, {"ROLE_NAME": "worker"}))
    assert master.verdicts(master.clean())["w8"] == "kept"


def test_a_node_that_becomes_ready_between_the_looks_is_kept(master: Master) -> None:
    back = make_node("w8", labels={VM_LABEL: "8"}, ready_since_s=NOW)
    master.clock.after(APART_S / 2, lambda: master.kubernetes.put(back))
    result = master.clean()
    assert master.verdicts(result) == {"m1": "kept", "w4": "kept", "w8": "kept", "w9": "deleted"}


def test_a_node_that_changes_at_the_last_moment_is_kept(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = master.kubernetes.delete_node

    def change_first(access: object, node: object) -> bool:
        back = replace(master.kubernetes.members["w8"], uid="another")
        master.kubernetes.put(back)
        return honest(access, node)

    monkeypatch.setattr(master.kubernetes, "delete_node", change_first)
    result = master.clean()
    assert master.verdicts(result)["w8"] == "kept"
    assert "changed while it was looked at" in next(
        line.reason for line in result.lines if line.subject == "w8"
    )
    assert "w8" in master.kubernetes.members


def test_a_node_that_somebody_else_deleted_is_deleted(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = master.kubernetes.delete_node

    def too_late(access: object, node: object) -> bool:
        master.kubernetes.members.pop("w8", None)
        return honest(access, node)

    monkeypatch.setattr(master.kubernetes, "delete_node", too_late)
    assert master.verdicts(master.clean())["w8"] == "deleted"
    assert [line["node"] for line in master.log.find("node.deleted")] == ["w9"]


def test_one_deletion_that_fails_does_not_stop_the_next_and_is_trouble(master: Master) -> None:
    refused = KubernetesRefused("status 403: forbidden", status=403)
    master.kubernetes.fail(None, None, None, refused)  # after health, nodes and nodes
    result = master.clean()
    assert master.verdicts(result)["w8"] == "failed"
    assert master.verdicts(result)["w9"] == "deleted"
    assert result.trouble == "w8: status 403: forbidden"


def test_a_server_that_etcd_still_holds_goes_alone(master: Master) -> None:
    for number in (2, 3):
        name = f"m{number}"
        well = make_node(name, labels={VM_LABEL: str(number), **SERVER}, voter="True")
        master.kubernetes.put(well)
        master.onegate.add_vm(number, {"ROLE_NAME": "master"})
    for number in (6, 7):
        labels = {VM_LABEL: str(number), **SERVER}
        gone = make_node(
            f"m{number}", labels=labels, ready="Unknown", ready_since_s=LONG_AGO, voter="False"
        )
        master.kubernetes.put(gone)
        master.kubernetes.held.add(gone.name)
    assert master.verdicts(master.clean())["m6"] == "deleted"
    second = master.clean()
    assert (master.verdicts(second)["m6"], master.verdicts(second)["m7"]) == ("kept", "kept")
    del master.kubernetes.members["m6"]
    assert master.verdicts(master.clean())["m7"] == "deleted"


# --- where it can not be done ---------------------------------------------------------------------


def test_a_master_that_does_not_serve_says_so(master: Master) -> None:
    master.kubernetes.go_down()
    with pytest.raises(KubernetesUnavailable, match="this master does not serve") as caught:
        master.clean()
    assert "on a master that serves" in str(caught.value.hint)
    master.kubernetes.go_down(None)
    master.kubernetes.says = Health(is_ok=False, failing=("etcd",))
    with pytest.raises(KubernetesUnavailable, match="not ready: etcd"):
        master.clean()
    assert master.tape.changes == []


def test_onegate_that_does_not_answer_keeps_every_node_and_is_trouble(master: Master) -> None:
    master.onegate.go_down(NoAnswer("OneGate GET /service: Connection refused"))
    result = master.clean()
    assert set(master.verdicts(result).values()) == {"kept"}
    assert "Connection refused" in result.trouble
    assert "Connection refused" in next(
        line.reason for line in result.lines if line.subject == "w8"
    )
    assert master.tape.changes == []


def test_an_answer_that_is_not_whole_keeps_every_node_and_is_trouble(master: Master) -> None:
    master.onegate.forget(1)
    result = master.clean()
    assert set(master.verdicts(result).values()) == {"kept"}
    assert "does not list this very VM" in result.trouble
    assert master.tape.changes == []


def test_onegate_that_fails_for_a_moment_is_asked_again(master: Master) -> None:
    master.onegate.fail(NoAnswer("x"), None, NoAnswer("x"))
    result = master.clean()
    assert master.verdicts(result)["w8"] == "deleted"
    assert result.trouble == ""


def test_onegate_that_refuses_is_not_asked_again(master: Master) -> None:
    master.onegate.go_down(OneGateRefused("status 400: no service", status=400))
    assert set(master.verdicts(master.clean()).values()) == {"kept"}
    assert master.onegate.asked == 1


def test_without_onegate_every_node_is_kept(master: Master) -> None:
    result = master.clean(with_onegate=False)
    assert set(master.verdicts(result).values()) == {"kept"}
    assert "names no OneGate" in result.trouble
