"""The templates that an operator loads: what OneFlow makes of them becomes a cluster by itself."""

from __future__ import annotations

import pytest

from tests.lab.basics import wait_until
from tests.lab.context import PRIVATE_VIP, PUBLIC_VIP
from tests.lab.lab import Lab
from tests.lab.published import published_template

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("form", ["oneflow", "oneflow-7"])
def test_a_service_instantiated_from_the_templates_becomes_a_cluster(lab: Lab, form: str) -> None:
    service = lab.service(
        template=published_template(
            form, ONEAPP_VROUTER_ETH0_VIP0=PUBLIC_VIP, ONEAPP_VROUTER_ETH1_VIP0=PRIVATE_VIP
        )
    )
    service.wait_running()
    assert {vm.attributes["ONEKE_STATE"] for vm in service.vms()} == {"READY"}
    [master] = service.nodes("master")
    listed = master.run(["bash", "-lc", "kubectl get nodes --no-headers"]).stdout.splitlines()
    assert {line.split()[1] for line in listed} == {"Ready"}
    assert len(listed) == 3
    files = set(master.run(["ls", "/var/lib/rancher/rke2/server/manifests"]).stdout.split())
    assert {"one-longhorn.yaml", "one-traefik.yaml", "rke2-cilium-config.yaml"} <= files
    assert "one-metallb.yaml" not in files
    [storage] = service.nodes("storage")
    assert "/dev/" in storage.run(["findmnt", "-no", "SOURCE", "/var/lib/longhorn"]).stdout
    client = lab.host("client", network="public", address="10.2.11.50/24", gateway="10.2.11.1")
    page = wait_until(lambda: client.fetch(f"http://{PUBLIC_VIP}/", timeout_s=2), 30, "the ingress")
    assert page == "oneke-ip-172-20-0-102"


def test_without_virtual_addresses_nodes_go_through_the_gateway_vm(lab: Lab) -> None:
    service = lab.service(template=published_template())
    service.wait_running()
    [gateway] = service.vms("vnf")
    for node in service.nodes("worker"):
        assert f"default via {gateway.address} " in node.run(["ip", "-4", "route"]).stdout
