"""Masters, workers and storage nodes on fake machines: how they come into a cluster."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from appliance.errors import NotReady, OneGateUnavailable, ParameterProblems
from appliance.system.kubernetes import Node, Taint
from roles.common.clusterstate import NODE_TOKEN
from tests.fakes import Call, FakeCommands, Serving
from tests.unit.appliance.machine import ONE_ENV
from tests.unit.roles.cluster import AGENT, CA_HASH, CONFIG, SERVER, Cloud, Machine

DOWN = OneGateUnavailable("OneGate GET /service: Connection refused")
UNINITIALIZED = Taint("node.cloudprovider.kubernetes.io/uninitialized", "true", "NoSchedule")
PASSWORD = PurePosixPath("/etc/rancher/node/password")
TOKENS = ("/var/lib/oneke/server-token", "/var/lib/oneke/agent-token")


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def founded(cloud: Cloud) -> Machine:
    master = Machine(cloud, "master", 101)
    master.run()
    return master


def test_a_single_master_founds_the_cluster_and_tells_its_siblings(cloud: Cloud) -> None:
    master = founded(cloud)
    assert cloud.founded == 1
    assert master.published("READY") == "YES"
    assert master.published("ONEGATE_K8S_MASTER") == "172.20.0.101"
    assert master.published("ONEGATE_K8S_TOKEN").startswith(f"K10{CA_HASH}::server:")
    assert master.published("ONEGATE_K8S_AGENT_TOKEN").startswith(f"K10{CA_HASH}::node:")
    assert master.published("ONEKE_CLUSTER_ID") == CA_HASH
    assert master.published("ONEGATE_K8S_NODE_NAME") == master.name
    assert master.published("ONEGATE_HAPROXY_LB0_SERVER_HOST") == "172.20.0.101"
    assert master.published("ONEKE_FOUNDER") == ""


def test_the_separate_agent_token_is_another_secret(cloud: Cloud) -> None:
    master = founded(cloud)
    server, agent = (
        master.published(key).rpartition(":")[2]
        for key in ("ONEGATE_K8S_TOKEN", "ONEGATE_K8S_AGENT_TOKEN")
    )
    assert server
    assert agent
    assert server != agent


def test_a_founder_announces_itself_before_rke2_starts(cloud: Cloud) -> None:
    master = Machine(cloud, "master", 101)
    seen = []
    master.while_starting = lambda: seen.append(master.published("ONEKE_FOUNDER"))
    with pytest.raises(NotReady):
        master.run()
    assert seen == ["YES"]


@pytest.mark.parametrize("role", ["master", "worker"])
@pytest.mark.parametrize("left", [None, ""], ids=["new", "cut"])
def test_the_nodes_password_is_on_the_disk_before_rke2_starts(
    cloud: Cloud, role: str, left: str | None
) -> None:
    if role == "worker":
        founded(cloud)
    node = Machine(cloud, role, 111)
    if left is not None:
        node.files.put(PASSWORD, left, mode=0o600)
    seen = []
    node.while_starting = lambda: seen.append(node.files.text(PASSWORD))
    with pytest.raises(NotReady):
        node.run()
    assert re.fullmatch("[0-9a-f]{32}\n", seen[0])
    assert node.files.kept[PASSWORD].mode == 0o600
    node.while_starting = None
    node.restart()
    node.run()
    assert node.files.text(PASSWORD) == seen[0]


def test_a_second_run_changes_nothing(cloud: Cloud) -> None:
    master = founded(cloud)
    assert master.run().changes == 0
    worker = Machine(cloud, "worker", 111)
    worker.run()
    assert worker.run().changes == 0


def test_a_second_master_joins_by_the_virtual_address(cloud: Cloud) -> None:
    first = founded(cloud)
    second = Machine(cloud, "master", 102)
    second.run()
    assert cloud.founded == 1
    assert "server: https://10.2.11.86:9345" in second.files.text(CONFIG)
    assert second.files.text(TOKENS[0]).strip() == first.published("ONEGATE_K8S_TOKEN")
    assert second.published("ONEGATE_K8S_MASTER") == "172.20.0.102"


def test_a_mistyped_token_does_not_pass_for_a_cluster_of_its_own(cloud: Cloud) -> None:
    founded(cloud)
    typed = f"K10{'0' * 64}::server:s3cret"
    second = Machine(cloud, "master", 102, ONEAPP_K8S_TOKEN=typed)
    second.while_starting = lambda: second.say(SERVER, "token CA hash does not match")
    with pytest.raises(NotReady, match="belongs to another cluster"):
        second.run()
    assert second.published("ONEKE_CLUSTER_ID") == ""
    third = Machine(cloud, "master", 103)
    third.run()
    assert third.published("ONEKE_CLUSTER_ID") == CA_HASH


def test_a_worker_gets_only_the_agent_token(cloud: Cloud) -> None:
    first = founded(cloud)
    worker = Machine(cloud, "worker", 111)
    worker.run()
    assert worker.files.text(TOKENS[1]).strip() == first.published("ONEGATE_K8S_AGENT_TOKEN")
    secret = first.published("ONEGATE_K8S_TOKEN").rpartition(":")[2]
    assert all(secret not in text for text in worker.files.texts().values())
    assert worker.published("ONEGATE_HAPROXY_LB3_SERVER_PORT") == "32080"


def test_a_worker_of_a_reference_master_falls_back_to_the_server_token(cloud: Cloud) -> None:
    first = founded(cloud)
    first.onegate.update({"ONEGATE_K8S_AGENT_TOKEN": "", "ONEKE_CLUSTER_ID": ""})
    worker = Machine(cloud, "worker", 111)
    worker.run()
    assert worker.files.text(TOKENS[1]).strip() == first.published("ONEGATE_K8S_TOKEN")


def test_a_storage_node_is_labelled_and_stands_behind_no_balancer(cloud: Cloud) -> None:
    founded(cloud)
    storage = Machine(cloud, "storage", 121)
    storage.run()
    config = storage.files.text(CONFIG)
    assert "node.longhorn.io/create-default-disk=true:NoSchedule" in config
    assert "oneke.opennebula.io/vm-id=121" in config
    assert "oneke.opennebula.io/service-id=23" in config
    assert storage.published("ONEGATE_HAPROXY_LB3_SERVER_PORT") == ""
    assert storage.published("ONEGATE_K8S_NODE_NAME") == storage.name


def test_after_a_reboot_without_onegate_everything_runs_again(cloud: Cloud) -> None:
    nodes = [founded(cloud), Machine(cloud, "worker", 111)]
    nodes[1].run()
    for node in nodes:
        node.restart()
        node.onegate.go_down(DOWN)
        node.run()
    assert nodes[0].units.show(SERVER).is_active
    assert nodes[1].units.show(AGENT).is_active
    assert cloud.founded == 1


def test_a_master_whose_own_notes_are_gone_runs_with_the_tokens_that_rke2_has(
    cloud: Cloud,
) -> None:
    master = founded(cloud)
    tokens = [master.files.text(path) for path in TOKENS]
    published = f"K10{CA_HASH}::node:{tokens[1]}"
    master.files.put("/var/lib/rancher/rke2/server/agent-token", published, mode=0o600)
    kept = [path for path in master.files.texts() if path.startswith("/var/lib/oneke/")]
    for path in kept:
        master.files.remove(PurePosixPath(path))
    master.run()
    assert [master.files.text(path) for path in TOKENS] == tokens
    assert master.published("ONEGATE_K8S_AGENT_TOKEN") == published.strip()
    assert "agent-token-file:" in master.files.text(CONFIG)
    assert cloud.founded == 1


def test_a_founder_that_was_cut_goes_on_and_founds_only_once(cloud: Cloud) -> None:
    master = Machine(cloud, "master", 101)
    master.while_starting = lambda: None
    with pytest.raises(NotReady):
        master.run()
    tokens = [master.files.text(path) for path in TOKENS]
    master.while_starting = None
    master.restart()
    master.run()
    assert cloud.founded == 1
    assert master.files.text(TOKENS[1]) == tokens[1]
    assert tokens[0].strip() in master.files.text(TOKENS[0])


def test_a_founder_that_was_cut_after_its_tokens_and_before_its_data_goes_on(cloud: Cloud) -> None:
    master = Machine(cloud, "master", 101)
    master.while_starting = lambda: master.files.put(
        NODE_TOKEN, f"K10{CA_HASH}::server:{master.files.text(TOKENS[0]).strip()}\n", mode=0o600
    )
    with pytest.raises(NotReady):
        master.run()
    assert master.published("ONEKE_CLUSTER_ID") == CA_HASH
    master.while_starting = None
    master.restart()
    master.run()
    assert cloud.founded == 1
    assert master.published("READY") == "YES"


def test_a_founder_is_not_restarted_when_its_settings_name_the_supervisor(cloud: Cloud) -> None:
    master = founded(cloud)
    assert "server: https://10.2.11.86:9345" in master.files.text(CONFIG)
    assert [one for one in master.tape.changes if one.startswith("units.")] == [
        f"units.start {SERVER}"
    ]


@pytest.mark.parametrize(("role", "unit"), [("master", SERVER), ("worker", AGENT)])
def test_rke2_is_not_begun_with_a_typed_token_before_the_supervisor_answers(
    cloud: Cloud, role: str, unit: str
) -> None:
    node = Machine(cloud, role, 111, ONEAPP_K8S_TOKEN="typed", ONEAPP_RKE2_JOIN_TIMEOUT="10")
    with pytest.raises(NotReady, match="the supervisor does not answer"):
        node.run()
    assert f"units.start {unit}" not in node.tape.changes
    cloud.supervisor.serving[("10.2.11.86", 9345)] = Serving()
    node.run()
    assert f"units.start {unit}" in node.tape.changes


def test_without_virtual_addresses_a_node_joins_by_a_master_that_runs(cloud: Cloud) -> None:
    without = {"ONEAPP_VROUTER_ETH0_VIP0": "", "ONEAPP_VROUTER_ETH1_VIP0": ""}
    masters = [Machine(cloud, "master", vm_id, **without) for vm_id in (101, 102)]
    for master in masters:
        master.run()
    assert "server: https://172.20.0.101:9345" in masters[1].files.text(CONFIG)
    cloud.onegate.vms[101] = replace(cloud.onegate.vms[101], state=8, lcm_state=0)
    worker = Machine(cloud, "worker", 111, **without)
    worker.run()
    assert "server: https://172.20.0.102:9345" in worker.files.text(CONFIG)
    # One that lost everything is still told of as it was; it does not join itself.
    rebuilt = Machine(cloud, "master", 102, **without)
    rebuilt.onegate.update({"ONEGATE_K8S_MASTER": "172.20.0.102"})
    cloud.onegate.vms[101] = replace(cloud.onegate.vms[101], state=3, lcm_state=3)
    rebuilt.run()
    assert "server: https://172.20.0.101:9345" in rebuilt.files.text(CONFIG)


@pytest.mark.parametrize(("role", "unit"), [("master", SERVER), ("worker", AGENT)])
def test_without_virtual_addresses_rke2_is_not_started_anew_by_what_masters_publish(
    cloud: Cloud, role: str, unit: str
) -> None:
    without = {
        "ONEAPP_VROUTER_ETH0_VIP0": "",
        "ONEAPP_VROUTER_ETH1_VIP0": "",
        "ONEAPP_K8S_HTTP_PROXY": "http://proxy.example.org:3128",
    }
    first = Machine(cloud, "master", 101, **without)
    first.run()
    node = first if role == "master" else Machine(cloud, role, 111, **without)
    node.run()
    Machine(cloud, "master", 102, **without).run()
    first.onegate.update({"ONEGATE_K8S_MASTER": ""})
    assert node.run().changes == (1 if node is first else 0)  # what was taken from OneGate
    assert node.run().changes == 0
    assert [one for one in node.tape.changes if one.startswith("units.")] == [f"units.start {unit}"]
    assert "server: https://172.20.0.101:9345" in node.files.text(CONFIG)


def test_a_setting_that_held_a_secret_is_not_shown_when_it_goes(cloud: Cloud) -> None:
    master = founded(cloud)
    text = master.files.text(ONE_ENV)
    extra = base64.b64encode(b"etcd-s3-secret-key: pl4nted").decode()
    for given in (f'export ONEAPP_RKE2_EXTRA_CONFIG="{extra}"\n', ""):
        master.files.put(ONE_ENV, text + given)
        changes = [one for of in master.run(dry_run=True).outcomes for one in of.changes]
        [shown] = [change for action, change in changes if action.name == f"file {CONFIG}"]
        assert shown.detail == "(content not shown: it may hold a secret)"
        master.run()


def test_an_environment_of_the_administrators_is_left_alone_and_ours_is_taken_back(
    cloud: Cloud,
) -> None:
    master, place = Machine(cloud, "master", 101), "/etc/default/rke2-server"
    master.files.put(place, "GOMEMLIMIT=2GiB\n")
    master.run()
    assert master.files.text(place) == "GOMEMLIMIT=2GiB\n"
    text = master.files.text(ONE_ENV)
    master.files.put(ONE_ENV, f'{text}export ONEAPP_K8S_HTTP_PROXY="http://10.9.9.9:3128"\n')
    master.run()
    assert 'HTTP_PROXY="http://10.9.9.9:3128"' in master.files.text(place)
    master.files.put(ONE_ENV, text)
    master.run()
    assert place not in master.files.texts()


def test_the_kubeconfig_is_published_on_demand_and_withdrawn(cloud: Cloud) -> None:
    master = Machine(cloud, "master", 101)
    master.files.put("/etc/rancher/rke2/rke2.yaml", "server: https://127.0.0.1:6443\n")
    master.run()
    assert "ONEKE_KUBECONFIG" not in master.onegate.own
    text = master.files.text(ONE_ENV)
    switch = 'export ONEAPP_ONEKE_PUBLISH_KUBECONFIG="YES"\n'
    master.files.put(ONE_ENV, text + switch)
    master.run()
    published = base64.b64decode(master.published("ONEKE_KUBECONFIG")).decode()
    assert published == "server: https://10.2.11.86:6443\n"
    master.files.put(ONE_ENV, text)
    master.run()
    assert master.published("ONEKE_KUBECONFIG") == ""


def test_other_parameters_restart_rke2_without_waiting_for_it(cloud: Cloud) -> None:
    master = founded(cloud)
    text = master.files.text(ONE_ENV) + 'export ONEAPP_K8S_EXTRA_SANS="api.example.org"\n'
    master.files.put(ONE_ENV, text)
    master.run()
    assert f"units.restart {SERVER}" in master.tape.changes


def test_a_setting_of_a_newer_rke2_is_its_own_to_judge(cloud: Cloud) -> None:
    extra = base64.b64encode(b"etcd-snapshot-dirs: /x").decode()
    master = Machine(cloud, "master", 101, ONEAPP_RKE2_EXTRA_CONFIG=extra)
    with pytest.raises(ParameterProblems, match="did you mean etcd-snapshot-dir"):
        master.run()
    assert CONFIG not in master.files.texts()
    known = "   --etcd-snapshot-dirs value  (db) Directories\n"
    master.commands = FakeCommands(standing={"/usr/local/bin/rke2": Call((), 0, known)})
    master.files.put("/usr/local/bin/rke2", "")
    assert any("did you mean etcd-snapshot-dir?" in line for line in master.run().warnings)
    assert "etcd-snapshot-dirs: /x" in master.files.text(CONFIG)


def test_a_worker_asks_rke2_for_the_settings_of_servers_too(cloud: Cloud) -> None:
    founded(cloud)
    extra = base64.b64encode(b"etcd-snapshot-dirs: /x").decode()
    worker = Machine(cloud, "worker", 111, ONEAPP_RKE2_EXTRA_CONFIG=extra)
    helps = {
        "server": "   --etcd-snapshot-dirs value  (db)\n",
        "agent": "   --node-ip value  (net)\n",
    }
    calls = [Call(("/usr/local/bin/rke2", kind, "--help"), 0, text) for kind, text in helps.items()]
    worker.commands = FakeCommands(calls)
    worker.files.put("/usr/local/bin/rke2", "")
    worker.run()
    assert "etcd-snapshot-dirs" not in worker.files.text(CONFIG)


def test_what_keeps_rke2_from_coming_up_is_told_everywhere(cloud: Cloud) -> None:
    founded(cloud)
    worker = Machine(cloud, "worker", 111)
    worker.while_starting = lambda: worker.say(
        AGENT,
        'time="2026-08-20T10:00:00Z" level=error msg="failed to retrieve configuration from server:'
        ' https://10.2.11.86:9345/v1-rke2/config: 401 Unauthorized"',
    )
    with pytest.raises(NotReady, match="refuses the join token"):
        worker.run()
    assert worker.published("ONEKE_STATE") == "FAILED"
    assert "refuses the join token" in worker.published("ONEKE_ERROR")
    assert any("refuses the join token" in line for line in worker.told)


def test_a_machine_of_the_other_kind_is_left_alone(cloud: Cloud) -> None:
    founded(cloud)
    worker = Machine(cloud, "worker", 111)
    worker.units.states[SERVER] = replace(worker.units.states[SERVER], active="active")
    with pytest.raises(NotReady, match="runs the other kind of RKE2 node already"):
        worker.run()
    assert CONFIG not in worker.files.texts()
    assert not [one for one in worker.tape.changes if one.startswith("units.start rke2")]
    assert "a VM can not change its kind" in worker.published("ONEKE_ERROR")


@pytest.mark.parametrize(("role", "vm_id"), [("worker", 111), ("master", 102)])
@pytest.mark.parametrize(
    ("ready", "taints", "words"),
    [
        ("False", (), "its network plug-in (CNI) is not up"),
        ("True", (UNINITIALIZED,), "the cloud controller has not initialised"),
        # The network plug-in waits for the scheduler, and that for the cloud controller.
        ("False", (UNINITIALIZED,), "the cloud controller has not initialised"),
    ],
)
def test_a_node_that_no_pod_can_run_on_is_not_ready(
    cloud: Cloud,
    role: str,
    vm_id: int,
    ready: str,
    taints: tuple[Taint, ...],
    words: str,
) -> None:
    founded(cloud)
    node = Machine(cloud, role, vm_id)

    def seen_as(known: Node) -> Node:
        told = replace(known.conditions[0], status=ready, message="cni plugin not initialized")
        return replace(known, conditions=(told, *known.conditions[1:]), taints=taints)

    node.seen_as = seen_as
    with pytest.raises(NotReady, match=re.escape(words)):
        node.run()
    assert words in node.published("ONEKE_ERROR")
    assert "kubectl -n kube-system get pods" in node.published("ONEKE_ERROR")
    assert node.published("READY") == ""


def test_a_cloud_controller_of_ones_own_may_come_later(cloud: Cloud) -> None:
    founded(cloud)
    worker = Machine(cloud, "worker", 111, ONEAPP_RKE2_CLOUD_CONTROLLER_ENABLED="NO")
    worker.seen_as = lambda known: replace(known, taints=(UNINITIALIZED,))
    worker.run()
    assert worker.published("READY") == "YES"


def test_a_node_whose_name_is_taken_says_so_and_takes_it_back_later(cloud: Cloud) -> None:
    founded(cloud)
    worker = Machine(cloud, "worker", 111)
    worker.while_starting = lambda: worker.say(
        AGENT, 'level=error msg="Node password rejected, duplicate hostname or contents of ..."'
    )
    with pytest.raises(NotReady):
        worker.run()
    assert worker.published("ONEKE_BLOCKED_BY") == worker.name
    worker.while_starting = None
    worker.units.words.clear()
    worker.restart()
    worker.run()
    assert worker.published("ONEKE_BLOCKED_BY") == ""


def test_the_name_of_a_node_is_pinned_when_it_joins(cloud: Cloud) -> None:
    master = founded(cloud)
    state = json.loads(master.files.text("/var/lib/oneke/cluster.json"))
    assert state["node_name"] == master.name
    assert state["kind"] == "founder"
    assert state["is_member"] is True


def test_no_token_is_seen_by_anyone_who_may_not(cloud: Cloud) -> None:
    nodes = [founded(cloud), Machine(cloud, "master", 102), Machine(cloud, "worker", 111)]
    for node in nodes[1:]:
        node.run()
    secrets = {
        nodes[0].published(key).rpartition(":")[2]
        for key in ("ONEGATE_K8S_TOKEN", "ONEGATE_K8S_AGENT_TOKEN")
    }
    for node in nodes:
        told = "\n".join([*node.told, repr(node.log.lines), repr(node.commands.ran)])
        assert not [secret for secret in secrets if secret in told]
        for path, kept in node.files.kept.items():
            if any(secret in kept.data.decode() for secret in secrets):
                assert kept.mode == 0o600, path
                assert "journal" not in path.name


def test_what_a_cluster_keeps_for_life_can_not_be_changed(cloud: Cloud) -> None:
    master = founded(cloud)
    before = master.files.text(CONFIG)
    more = 'export ONEAPP_K8S_CNI_PLUGIN="calico"\nexport ONEAPP_K8S_CLUSTER_CIDR="10.99.0.0/16"\n'
    master.files.put(ONE_ENV, master.files.text(ONE_ENV) + more)
    with pytest.raises(ParameterProblems, match="the cluster was founded with cilium") as refused:
        master.run()
    assert [one.key for one in refused.value.problems] == [
        "ONEAPP_K8S_CLUSTER_CIDR",
        "ONEAPP_K8S_CNI_PLUGIN",
    ]
    assert master.files.text(CONFIG) == before
