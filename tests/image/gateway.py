"""A gateway that is a machine of its own, in a lab without a service of OneFlow."""

from __future__ import annotations

from typing import Any

from tests.image.disk import BootDisk
from tests.image.vm import Nic, Vm
from tests.lab.context import (
    PRIVATE,
    PUBLIC,
    mac_of,
    nic_attributes,
    override,
    vnf_addresses,
    vnf_context,
)
from tests.lab.lab import Lab


def make_gateway(lab: Lab, boot_disk: BootDisk, *networks: str, **overrides: object) -> Vm:
    """Make the first gateway as OpenNebula would, and switch it on; it is not waited for.

    Args:
        lab: The lab.
        boot_disk: What it boots from.
        networks: That it has NICs in, in their order: `public`, or `public` and `private`.
        overrides: Context keys to set, or to take away where the value is None.
    """
    public, private = vnf_addresses(0)
    context = override(vnf_context(0, lab.service_id), overrides)
    made: dict[str, Any] = lab.onegate.add_vm(
        context=context,
        role="vnf",
        service_id=lab.service_id,
        nics=[nic_attributes(PUBLIC, public), nic_attributes(PRIVATE, private)],
    )
    addresses = {"public": public, "private": private}
    vm = Vm(
        "vnf0",
        boot_disk,
        lab.switch,
        [Nic(network, mac_of(addresses[network])) for network in networks],
        vm_id=int(made["id"]),
        token=made["token"],
    )
    lab.adopt(vm)
    vm.set_context(context | {"VMID": made["id"]}, vm.token)
    vm.start()
    return vm
