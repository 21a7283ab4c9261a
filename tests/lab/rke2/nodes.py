"""Nodes for the double alone: they boot without the agent, and so without a cluster."""

from __future__ import annotations

from collections.abc import Mapping

from tests.lab.context import PRIVATE, common_context, nic_context
from tests.lab.lab import PRIVATE_NIC, Lab
from tests.lab.rke2.control import Rke2


def boot_bare(lab: Lab, addresses: Mapping[str, str]) -> dict[str, Rke2]:
    """Boot nodes side by side, and return the double of each once its addresses are set.

    Args:
        lab: Where to boot them.
        addresses: The node's name to its address in the private network.
    """
    nodes = {}
    for name, address in addresses.items():
        context = common_context(None) | nic_context(0, PRIVATE, address)
        context |= {"REPORT_READY": "NO"}
        nodes[name] = lab.node(name, context=context, nics=PRIVATE_NIC, agent=False)
    for node in nodes.values():
        node.wait_contextualized()
    return {name: Rke2(node) for name, node in nodes.items()}
