"""What else can happen to a whole machine; longer than what `make test` has time for."""

from __future__ import annotations

import pytest

from tests.image.cluster import AGENT, ImageService
from tests.image.disk import BootDisk
from tests.image.gateway import make_gateway
from tests.image.test_boot import check_health, mounted
from tests.image.vm import BOOT_S, Nic, Vm
from tests.lab.context import (
    PRIVATE_VIP,
    PUBLIC_VIP,
    mac_of,
    vnf_addresses,
    vnf_context,
)
from tests.lab.gateway_node import held, published, unit_property
from tests.lab.gateway_node import wait_ready as wait_published
from tests.lab.lab import Lab

pytestmark = pytest.mark.image

# As before a second NIC is attached: the context knows nothing of it.
ONE_NIC: dict[str, object] = {
    **{f"ETH1_{key}": None for key in ("IP", "MAC", "MASK", "NETWORK", "DNS", "GATEWAY")},
    "ONEAPP_VROUTER_ETH1_VIP0": None,
    "ONEAPP_VNF_ROUTER4_INTERFACES": "eth0",
}


def gateway(lab: Lab, boot_disk: BootDisk) -> Vm:
    """A gateway of the public network only."""
    return make_gateway(lab, boot_disk, "public", **ONE_NIC)


def test_a_machine_that_is_left_alone_is_ready_after_its_first_boot(
    lab: Lab, boot_disk: BootDisk
) -> None:
    image = ImageService(lab, boot_disk)
    vm = image.machine()
    print("first boot:", image.wait_ready())
    check_health(vm)
    assert vm.boots == 1
    assert mounted(vm).startswith("/dev/vdb xfs ")
    image.service.wait_running()
    vm.stop()
    image.disk.run("xfs_repair", "-n")


@pytest.mark.parametrize(
    "moment",
    [
        "login:",
        "CONFIGURING: configure",
        "WAITING: rke2-agent.service is starting",
        "READY: the node does its job",
    ],
)
def test_a_power_cut_at_any_moment_of_the_first_boot_is_made_good(
    lab: Lab, boot_disk: BootDisk, moment: str
) -> None:
    image = ImageService(lab, boot_disk)
    vm = image.machine()
    vm.wait_until(lambda: moment in vm.console(), BOOT_S, f"the console to show {moment}")
    vm.kill()
    vm.start()
    image.wait_ready()
    check_health(vm)
    assert mounted(vm).startswith("/dev/vdb xfs ")


def test_a_nic_that_is_plugged_in_is_put_to_use_with_its_new_disc(
    lab: Lab, boot_disk: BootDisk
) -> None:
    vm = gateway(lab, boot_disk)
    wait_published(lab, vm, BOOT_S)
    assert held(vm) == [PUBLIC_VIP]
    vm.wait_until(
        lambda: unit_property(vm, "oneke-context.path", "SubState") == "waiting",
        BOOT_S,
        "the watch for new contexts",
    )
    vm.attach_nic(Nic("private", mac_of(vnf_addresses(0)[1])))
    context = vnf_context(0, lab.service_id) | {"VMID": str(vm.vm_id)}
    vm.set_context(context, vm.token)
    vm.wait_until(lambda: PRIVATE_VIP in held(vm), BOOT_S, "the private virtual address")
    vm.wait_until(
        lambda: unit_property(vm, AGENT, "SubState") == "exited", BOOT_S, "the run to end"
    )
    assert published(lab, vm)["ONEKE_STATE"] == "READY"
    assert vm.read("/var/lib/oneke/journal.jsonl").count('"run.start"') == 2


def test_a_machine_whose_context_nobody_read_reads_the_disc_itself(
    lab: Lab, boot_disk: BootDisk
) -> None:
    vm = gateway(lab, boot_disk)
    vm.wait_answering()
    vm.run(["systemctl", "mask", "--quiet", "one-context-local", "one-context-online"])
    vm.run(["systemctl", "mask", "--quiet", "one-context"])
    # What the package would have set, as an image without it may have it from elsewhere.
    network = "[Match]\nName=eth0\n[Network]\nAddress=10.2.11.200/24\nGateway=10.2.11.1\n"
    vm.run(["tee", "/etc/systemd/network/eth0.network"], input=network)
    vm.run(["systemctl", "enable", "--quiet", "systemd-networkd"])
    vm.reboot()
    wait_published(lab, vm, BOOT_S)
    assert not vm.exists("/run/one-context/one_env")
    status = vm.run(["oneke-agent", "status"], check=False).stdout
    assert "/dev/sr0" in status
    assert held(vm) == [PUBLIC_VIP]
