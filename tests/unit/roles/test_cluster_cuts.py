"""A founder that dies at any step of founding comes back and founds once; its siblings wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.errors import KubernetesUnavailable, NotReady
from roles.common.clusterstate import ETCD_DATA, NODE_TOKEN, password_of
from tests.fakes import PowerCut
from tests.unit.roles.cluster import CA_HASH, CONFIG, SERVER, Cloud, Machine

BOOKKEEPING = ("files.write /run/", "files.append /var/lib/oneke/journal.jsonl")
REFUSED = KubernetesUnavailable("https://127.0.0.1:6443: Connection refused")
SOON = {"ONEAPP_RKE2_JOIN_TIMEOUT": "10", "ONEAPP_RKE2_START_TIMEOUT": "10"}
TOKEN = "/var/lib/oneke/server-token"


class Pair:
    """Two masters of a service; the first is to found."""

    def __init__(self, cut_before: int | None = None) -> None:
        self.cloud = Cloud()
        self.first = Machine(self.cloud, "master", 101, **SOON)
        self.second = Machine(self.cloud, "master", 102, **SOON)
        for machine in (self.first, self.second):
            machine.onegate.tape = machine.tape
        self.first.tape.cut_before = cut_before

    def die(self, *, power: bool) -> None:
        """Run the first until it is cut; with its power, RKE2 is gone as well."""
        with pytest.raises(PowerCut):
            self.first.run()
        self.first.tape.cut_before = None
        self.first.files.locked.clear()
        if power:
            self.first.restart()
            self.cloud.kubernetes.go_down(REFUSED)
            self.cloud.supervisor.serving.clear()

    def let_the_second_try(self) -> None:
        """Run the second, which may join what there is, but never found."""
        try:
            self.second.run()
        except NotReady:
            assert not self.second.units.show(SERVER).is_active
        config = self.second.files.texts().get(CONFIG, "server:")
        assert "server:" in config
        assert self.second.published("ONEKE_FOUNDER") == ""

    def assert_one_cluster(self, when: str) -> None:
        assert self.cloud.founded == 1, when
        for machine in (self.first, self.second):
            assert machine.published("READY") == "YES", when
            assert machine.published("ONEKE_CLUSTER_ID") == CA_HASH, when
            assert machine.published("ONEKE_FOUNDER") == "", when
        secrets = {password_of(one.files.text(TOKEN)) for one in (self.first, self.second)}
        assert len(secrets) == 1, when
        assert password_of(self.first.published("ONEGATE_K8S_TOKEN")) in secrets, when


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
def test_a_founder_cut_before_any_of_its_changes_founds_once_in_the_end(power: bool) -> None:
    whole = Pair()
    whole.first.run()
    changes = list(whole.first.tape.changes)
    assert f"units.start {SERVER}" in changes
    announced = changes.index(next(each for each in changes if "ONEKE_FOUNDER" in each))
    for cut_before, change in list(enumerate(changes))[announced:]:
        if change.startswith(BOOKKEEPING):
            continue
        pair = Pair(cut_before)
        pair.die(power=power)
        pair.let_the_second_try()
        pair.first.run()
        pair.second.run()
        pair.assert_one_cluster(f"cut before {change}")


def leave_nothing(machine: Machine) -> None:
    """RKE2 has only just begun."""


def leave_tokens(machine: Machine) -> None:
    """RKE2 has made its CA and token files, which come before etcd."""
    secret = password_of(machine.files.text(TOKEN))
    machine.files.put(NODE_TOKEN, f"K10{CA_HASH}::server:{secret}\n", mode=0o600)


def leave_data(machine: Machine) -> None:
    """etcd runs, and nothing serves yet."""
    leave_tokens(machine)
    machine.files.put(ETCD_DATA, "")
    machine.cloud.founded += 1


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
@pytest.mark.parametrize("leave", [leave_nothing, leave_tokens, leave_data])
def test_a_founder_that_dies_while_rke2_starts_founds_once_in_the_end(
    leave: Callable[[Machine], None], power: bool
) -> None:
    pair = Pair()
    first = pair.first

    def die() -> None:
        raise PowerCut("while RKE2 starts")

    def starting() -> None:
        leave(first)
        first.clock.after(5, die)

    first.while_starting = starting
    pair.die(power=power)
    pair.let_the_second_try()
    first.while_starting = None
    if not power:
        first.restart()
    first.run()
    pair.second.run()
    pair.assert_one_cluster(leave.__name__)
