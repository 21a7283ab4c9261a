"""A founder that dies at any step of founding comes back and founds once; its sibling waits.

Each case is a service of two masters of its own behind the same gateway. Some run side by side.
Every change of the agent's is cut in tests/unit/roles/test_cluster_cuts.py; here RKE2 is at work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.lab.bake import Image
from tests.lab.basics import LabError, wait_until
from tests.lab.context import PRIVATE, nic_attributes, nic_context, override, role_context
from tests.lab.lab import PRIVATE_NIC, Lab
from tests.lab.node import Node
from tests.lab.rke2.control import DATA, EVENTS, Rke2

pytestmark = pytest.mark.lab

STATE = "/var/lib/oneke"
CONFIG = "/etc/rancher/rke2/config.yaml.d/50-oneke.yaml"
QUICK = "/etc/systemd/system/oneke-agent.service.d/quick.conf"
SIDE_BY_SIDE = 3
COMES_UP_S = 120

STEPS = (
    "intent published",
    "cluster.json written",
    "tokens written",
    "configuration written",
    "unit begun",
    "RKE2 has data",
    "published",
)
KILLED = ("intent published", "unit begun", "published")


@dataclass(frozen=True)
class Pair:
    """Two masters; the first, with the lower VM id, is to found."""

    lab: Lab
    first: Node
    second: Node

    def published(self, node: Node, key: str) -> str:
        assert node.vm_id is not None
        return str(self.lab.onegate.user_template(node.vm_id).get(key, ""))

    def has_reached(self, step: str) -> bool:
        """Whether the founder is that far; asked from outside, so that it costs it no time."""
        if step == "intent published":
            return self.published(self.first, "ONEKE_FOUNDER") == "YES"
        if step == "RKE2 has data":
            # An etcd that is cut between making its log and electing itself never elects anybody:
            # that is etcd's own, and needs a person.
            events = self.first.root / EVENTS.lstrip("/")
            return events.exists() and "etcd.voting" in events.read_text(encoding="utf-8")
        if step == "published":
            return bool(self.published(self.first, "ONEGATE_K8S_MASTER"))
        file = {
            "cluster.json written": f"{STATE}/cluster.json",
            "tokens written": f"{STATE}/agent-token",
            "configuration written": CONFIG,
            "unit begun": EVENTS,
        }[step]
        return (self.first.root / file.lstrip("/")).exists()

    def wait_ready(self, node: Node) -> None:
        """Wait until a master does its job."""

        def ready() -> bool:
            if self.published(node, "READY") == "YES":
                return True
            said = [self.published(node, f"ONEKE_{key}") for key in ("STATE", "STEP", "ERROR")]
            raise LabError(f"{said}; {node.journal('oneke-agent.service')[-2000:]}")

        wait_until(ready, COMES_UP_S, f"{node.name} to be ready")

    def close(self) -> None:
        """End both."""
        for node in (self.first, self.second):
            node.close()


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    with Lab(lab_image) as made:
        made.add_service([("vnf", 1)])
        gateway = made.vnf("vnf0", 0)
        gateway.wait_running()
        yield made


def make_pair(lab: Lab, number: int) -> Pair:
    """Make two masters and switch both on."""
    service_id = lab.add_service([("master", 2)], name=f"OneKE {number}")
    addresses = [f"172.20.0.{120 + 2 * number + index}" for index in range(2)]
    nodes = []
    for index, address in enumerate(addresses):
        values = role_context("master") | nic_context(0, PRIVATE, address)
        # The gateway balances for another service.
        changes = {
            "SERVICE_ID": service_id,
            "ONEAPP_RKE2_SUPERVISOR_EP": f"{addresses[0]}:9345",
            "ONEAPP_K8S_CONTROL_PLANE_EP": f"{addresses[0]}:6443",
        }
        vm = {
            "role": "master",
            "service_id": service_id,
            "nics": [nic_attributes(PRIVATE, address)],
        }
        node = lab.node(
            f"m{number}{'ab'[index]}",
            context=override(values, changes),
            vm=vm,
            nics=PRIVATE_NIC,
            start=False,
        )
        node.write(QUICK, "[Service]\nRestartSec=1\n")
        nodes.append(node)
    for node in nodes:
        node.start()
    return Pair(lab, *nodes)


def play(pair: Pair, step: str, *, power: bool) -> None:
    """Let the founder die at a step, and both come up in the end."""
    wait_until(lambda: pair.has_reached(step), COMES_UP_S, step, every_s=0.003)
    if power:
        pair.first.kill()
        if step != "published":
            # Its sibling waits, whatever it can see of it.
            assert not (pair.second.root / f"{DATA}/server/tls".lstrip("/")).exists()
        pair.first.start()
    else:
        pair.first.run(["systemctl", "kill", "--signal=KILL", "oneke-agent.service"])
    for node in (pair.first, pair.second):
        pair.wait_ready(node)


def assert_one_cluster(pair: Pair) -> None:
    identities = {pair.published(node, "ONEKE_CLUSTER_ID") for node in (pair.first, pair.second)}
    assert len(identities) == 1
    assert pair.published(pair.first, "ONEKE_FOUNDER") == ""
    second = [each["event"] for each in Rke2(pair.second).events()]
    assert "cluster.founded" not in second
    assert "bootstrap.downloaded" in second
    conditions = Rke2(pair.first).conditions()
    assert [seen.get("EtcdIsVoter") for seen in conditions.values()] == ["True", "True"]


CASES = [(step, True) for step in STEPS] + [(step, False) for step in KILLED]


@pytest.fixture(scope="module")
def plays(lab: Lab) -> Iterator[Callable[[str, bool], Pair]]:
    """Waits for a case; all are played, some of them at once."""

    def perform(number: int, step: str, power: bool) -> Pair:
        pair = make_pair(lab, number)
        play(pair, step, power=power)
        return pair

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        begun: dict[tuple[str, bool], Future[Pair]] = {
            (step, power): pool.submit(perform, number, step, power)
            for number, (step, power) in enumerate(CASES)
        }
        yield lambda step, power: begun[step, power].result()
        for future in begun.values():
            future.cancel()


@pytest.mark.parametrize(
    ("step", "power"),
    CASES,
    ids=[
        f"{step.replace(' ', '-')}-{'power-lost' if power else 'killed'}" for step, power in CASES
    ],
)
def test_a_founder_that_dies_founds_once_and_its_sibling_joins(
    plays: Callable[[str, bool], Pair], step: str, power: bool
) -> None:
    pair = plays(step, power)
    assert_one_cluster(pair)
    pair.close()
