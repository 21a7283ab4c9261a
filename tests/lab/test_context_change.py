"""A VM whose context changes while it runs: it converges by itself, without a hand and a reboot."""

from __future__ import annotations

import pytest

from tests.lab.context import PRIVATE_VIP, PUBLIC_VIP, context_text
from tests.lab.gateway_node import (
    AGENT_UNIT,
    gateway_context,
    held,
    published,
    unit_property,
    wait_ready,
)
from tests.lab.lab import Lab
from tests.lab.node import Node

pytestmark = pytest.mark.lab

HOOK = "oneke-context.service"
NOBODY = "http://203.0.113.99:5030"
# As before a second NIC is attached: the context knows nothing of it.
ONE_NIC: dict[str, object] = {
    **{f"ETH1_{key}": None for key in ("IP", "MAC", "MASK", "NETWORK", "DNS", "GATEWAY")},
    "ONEAPP_VROUTER_ETH1_VIP0": None,
    "ONEAPP_VNF_ROUTER4_INTERFACES": "eth0",
}


def change_context(lab: Lab, node: Node, index: int, **changes: object) -> None:
    """Change a gateway's context as the front-end does when a NIC is attached."""
    text = context_text(gateway_context(lab, node, index, **changes))
    node.set_context(text, node.token, is_watched=True)


def runs(node: Node) -> int:
    """How many runs of the agent began since the node's disk is there."""
    return node.read("/var/lib/oneke/journal.jsonl").count('"run.start"')


def wait_watching(node: Node) -> None:
    """Wait until the node takes changes of its context."""
    node.wait_until(
        lambda: unit_property(node, "oneke-context.path", "SubState") == "waiting",
        60,
        "the watch for new contexts",
    )


def test_a_nic_that_is_attached_is_put_to_use(lab: Lab) -> None:
    node = lab.vnf("vnf0", 0, **ONE_NIC)
    wait_ready(lab, node)
    wait_watching(node)
    assert held(node) == [PUBLIC_VIP]
    # The boot's own contextualization, whose last stage comes late, is no change.
    assert (runs(node), node.journal(HOOK)) == (1, "")
    change_context(lab, node, 0)
    node.wait_until(lambda: PRIVATE_VIP in held(node), 90, "the private virtual address")
    node.wait_until(
        lambda: unit_property(node, AGENT_UNIT, "SubState") == "exited", 60, "the run to end"
    )
    assert published(lab, node)["ONEKE_STATE"] == "READY"
    assert runs(node) == 2
    assert not node.exists("/etc/one-context.d/net-99-report-ready")


def test_a_context_that_comes_again_unchanged_sets_nothing_off(lab: Lab) -> None:
    node = lab.vnf("vnf0", 0)
    wait_ready(lab, node)
    wait_watching(node)
    change_context(lab, node, 0)
    assert "no change in the context" in node.journal("one-context-reconfigure.service")
    assert (runs(node), node.journal(HOOK)) == (1, "")


def test_a_run_that_waits_for_what_the_new_context_brings_is_not_waited_for(lab: Lab) -> None:
    node = lab.vnf("vnf0", 0, ONEGATE_ENDPOINT=NOBODY)
    wait_watching(node)
    assert unit_property(node, AGENT_UNIT, "ActiveState") == "activating"
    change_context(lab, node, 0)
    wait_ready(lab, node)
    assert unit_property(node, AGENT_UNIT, "NRestarts") == "0"
