"""RKE2's configuration of masters, workers and storage nodes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from roles.common.endpoints import build_node
from roles.common.rke2config import (
    build_agent_config,
    build_server_config,
    holds_secret,
    parse_version,
    published_kubeconfig,
    render_config,
)
from roles.common.rke2keys import LISTED_KEYS
from tests.unit.roles.nodes import node_of, params_of

SERVER = "10.2.11.86:9345"
OWN_LABELS = ["oneke.opennebula.io/vm-id=367", "oneke.opennebula.io/service-id=23"]
V1_33 = "rke2 version v1.33.4+rke2r1 (d7c6ba9)\ngo version go1.24.5 X:boringcrypto\n"
V1_36 = "rke2 version v1.36.1+rke2r1 (d7c6ba9)\ngo version go1.26.1 X:boringcrypto\n"


def master(
    *, server: str = SERVER, has_agent_token: bool = True, version: str = "", **changes: str | None
) -> dict[str, Any]:
    params = params_of("master", **changes)
    return build_server_config(
        params,
        build_node(params),
        server=server,
        has_agent_token=has_agent_token,
        version=version,
    )


def agent(*, is_storage: bool = False, **changes: str | None) -> dict[str, Any]:
    params = params_of("storage" if is_storage else "worker", **changes)
    return build_agent_config(params, build_node(params), server=SERVER, is_storage=is_storage)


# --- servers --------------------------------------------------------------------------------------


def test_a_founder_has_no_server_to_join() -> None:
    assert master(server="") == {
        "node-name": "oneke-ip-172-20-0-101",
        "node-ip": "172.20.0.101",
        "node-label": OWN_LABELS,
        "node-taint": ["CriticalAddonsOnly=true:NoExecute"],
        "token-file": "/var/lib/oneke/server-token",
        "agent-token-file": "/var/lib/oneke/agent-token",
        "tls-san": ["localhost", "127.0.0.1", "10.2.11.86"],
        "cni": ["cilium"],
        "cluster-cidr": "10.42.0.0/16",
        "service-cidr": "10.43.0.0/16",
        "disable-kube-proxy": True,
        "disable-cloud-controller": False,
        "disable": ["rke2-ingress-nginx"],
    }


def test_a_joining_master_differs_by_the_server_alone() -> None:
    assert master() == {"server": "https://10.2.11.86:9345", **master(server="")}


def test_without_a_token_of_their_own_agents_join_with_the_servers() -> None:
    assert "agent-token-file" not in master(has_agent_token=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ONEAPP_K8S_MULTUS_ENABLED": "YES"}, {"cni": ["multus", "cilium"]}),
        (
            {"ONEAPP_K8S_CNI_PLUGIN": "Canal"},
            {"cni": ["canal"], "disable-kube-proxy": False},
        ),
        (
            {"ONEAPP_K8S_CNI_PLUGIN": "none", "ONEAPP_K8S_MULTUS_ENABLED": "NO"},
            {"cni": ["none"], "disable-kube-proxy": False},
        ),
        ({"ONEAPP_RKE2_CLOUD_CONTROLLER_ENABLED": "NO"}, {"disable-cloud-controller": True}),
        ({"ONEAPP_K8S_PODS_NETWORK": "10.244.0.0/16"}, {"cluster-cidr": "10.244.0.0/16"}),
        (
            {
                "ONEAPP_K8S_CLUSTER_CIDR": "10.142.0.0/16,2001:db8:42::/56",
                "ONEAPP_K8S_SERVICE_CIDR": "10.143.0.0/16, 2001:db8:43::/112",
            },
            {
                "cluster-cidr": "10.142.0.0/16,2001:db8:42::/56",
                "service-cidr": "10.143.0.0/16,2001:db8:43::/112",
            },
        ),
        (
            {"ONEAPP_K8S_NODENAME": "m1", "VMID": "9"},
            {
                "node-name": "m1",
                "node-label": ["oneke.opennebula.io/vm-id=9", *OWN_LABELS[1:]],
            },
        ),
        (
            {"ONEAPP_RKE2_NODE_LABELS": "a.b/c=d, zone="},
            {"node-label": [*OWN_LABELS, "a.b/c=d", "zone="]},
        ),
        (
            {"ONEAPP_RKE2_NODE_TAINTS": "gpu=true:NoSchedule"},
            {"node-taint": ["CriticalAddonsOnly=true:NoExecute", "gpu=true:NoSchedule"]},
        ),
    ],
)
def test_a_parameter_changes_its_setting_and_no_other(
    changes: dict[str, str | None], expected: dict[str, object]
) -> None:
    assert master(**changes) == {**master(), **expected}


def test_masters_that_do_the_work_too_have_no_taint() -> None:
    assert "node-taint" not in master(ONEAPP_K8S_TAINTED_MASTER="NO")
    assert master(ONEAPP_K8S_TAINTED_MASTER="NO", ONEAPP_RKE2_NODE_TAINTS="a:NoSchedule")[
        "node-taint"
    ] == ["a:NoSchedule"]


@pytest.mark.parametrize(
    ("version", "expected"),
    [("", None), (V1_33, None), ("v1.35.9+rke2r1", None), (V1_36, "none"), ("v2.0.0", "none")],
)
def test_no_ingress_is_asked_for_where_rke2_would_bring_one(
    version: str, expected: str | None
) -> None:
    config = master(version=version)
    assert config.get("ingress-controller") == expected
    assert config["disable"] == ["rke2-ingress-nginx"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [(V1_33, (1, 33)), (V1_36, (1, 36)), ("1.34.10", (1, 34)), ("", None), ("rke2 dev", None)],
)
def test_a_version_is_read_from_what_rke2_prints(
    text: str, expected: tuple[int, int] | None
) -> None:
    assert parse_version(text) == expected


# --- agents ---------------------------------------------------------------------------------------


def test_a_worker_has_what_agents_understand_and_nothing_else() -> None:
    assert agent() == {
        "server": "https://10.2.11.86:9345",
        "node-name": "oneke-ip-172-20-0-101",
        "node-ip": "172.20.0.101",
        "node-label": OWN_LABELS,
        "token-file": "/var/lib/oneke/agent-token",
    }


@pytest.mark.parametrize("make", [master, agent])
def test_a_node_outside_of_a_service_says_that_it_is_in_none(make: Any) -> None:
    expected = [OWN_LABELS[0], "oneke.opennebula.io/service-id=none"]
    assert make(SERVICE_ID=None)["node-label"] == expected


@pytest.mark.parametrize("make", [master, agent])
def test_a_node_that_is_no_vm_of_opennebula_says_nothing_of_services(make: Any) -> None:
    assert "node-label" not in make(VMID=None)


def test_a_storage_node_bears_longhorns_label_and_taint() -> None:
    assert agent(is_storage=True) == {
        **agent(),
        "node-label": [
            *OWN_LABELS,
            "node.longhorn.io/create-default-disk=true",
        ],
        "node-taint": ["node.longhorn.io/create-default-disk=true:NoSchedule"],
    }


def test_every_setting_is_one_that_rke2_knows() -> None:
    assert set(master(version=V1_36)) <= LISTED_KEYS.server
    assert set(agent(is_storage=True, ONEAPP_RKE2_NODE_TAINTS="a:NoSchedule")) <= LISTED_KEYS.agent


# --- a user's own settings ------------------------------------------------------------------------

EXTRA = """\
etcd-snapshot-retention: 10
cni: [calico]
kubelet-arg: max-pods=200
disable+:
  - rke2-metrics-server
node-label: a=b
node-taint+: x=y:NoSchedule
tls-san: [k8s.example.org]
write-kubeconfig-mode: 0644
debug: yes
selinux: true
"""


def test_own_settings_come_last() -> None:
    config = master(ONEAPP_RKE2_EXTRA_CONFIG=EXTRA)
    assert config == {
        **master(),
        "etcd-snapshot-retention": "10",
        "cni": ["calico"],
        "kubelet-arg": "max-pods=200",
        "disable": ["rke2-ingress-nginx", "rke2-metrics-server"],
        "node-label": [*OWN_LABELS, "a=b"],
        "node-taint": ["CriticalAddonsOnly=true:NoExecute", "x=y:NoSchedule"],
        "tls-san": ["localhost", "127.0.0.1", "10.2.11.86", "k8s.example.org"],
        "write-kubeconfig-mode": "0644",
        "debug": "yes",
        "selinux": True,
    }


def test_an_agent_leaves_out_what_only_servers_understand() -> None:
    config = agent(ONEAPP_RKE2_EXTRA_CONFIG=EXTRA)
    assert set(config) - set(agent()) == {"kubelet-arg", "node-taint", "debug", "selinux"}
    assert config["node-taint"] == ["x=y:NoSchedule"]


def test_a_list_may_be_emptied_and_a_value_too() -> None:
    config = master(ONEAPP_RKE2_EXTRA_CONFIG="disable: []\nnode-taint: []\nprofile:\nselinux: ~\n")
    assert (config["disable"], config["node-taint"]) == ([], [])
    assert (config["profile"], config["selinux"]) == ("", "")


def test_a_file_with_a_users_secrets_is_known_as_such() -> None:
    assert not holds_secret(master())
    assert not holds_secret(master(ONEAPP_RKE2_EXTRA_CONFIG="etcd-s3-config-secret: s3\n"))
    assert holds_secret(master(ONEAPP_RKE2_EXTRA_CONFIG="etcd-s3-secret-key: pl4nted\n"))
    assert holds_secret(master(ONEAPP_RKE2_EXTRA_CONFIG="etcd-extra-env+: A=pl4nted\n"))


# --- as text --------------------------------------------------------------------------------------


def test_the_file_says_who_wrote_it_and_reads_back_as_it_was_meant() -> None:
    config = master(ONEAPP_RKE2_EXTRA_CONFIG=EXTRA)
    text = render_config(config)
    assert text.startswith("# Written by oneke-agent")
    assert yaml.safe_load(text) == config
    assert "write-kubeconfig-mode: '0644'\n" in text
    assert "- CriticalAddonsOnly=true:NoExecute\n" in text


def test_the_file_holds_no_token() -> None:
    token = "K10" + "ab" * 32 + "::server:pl4nted"
    changes = {"ONEAPP_K8S_TOKEN": token, "ONEAPP_K8S_HTTP_PROXY": "http://u:pl4nted@proxy:1"}
    assert "pl4nted" not in render_config(master(**changes))
    assert "pl4nted" not in render_config(agent(**changes))


def test_equal_input_renders_equal_text() -> None:
    assert render_config(master()) == render_config(master())


KUBECONFIG = """\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: c2VydmVyOiBubw==
    server: https://127.0.0.1:6443
  name: default
current-context: default
"""


def test_the_published_kubeconfig_names_the_endpoint_as_it_was_given() -> None:
    node = node_of("master", ONEAPP_K8S_CONTROL_PLANE_EP="api.example.org:16443")
    published = yaml.safe_load(published_kubeconfig(KUBECONFIG, node))
    expected = yaml.safe_load(KUBECONFIG)
    expected["clusters"][0]["cluster"]["server"] = "https://api.example.org:16443"
    assert published == expected
    nowhere = node_of("master", ONEAPP_VROUTER_ETH0_VIP0=None)
    assert published_kubeconfig(KUBECONFIG, nowhere) == KUBECONFIG
