"""Whole services: they come up by themselves, and live through growth, losses and reboots.

Everything is as an operator has it: OneFlow makes the VMs, one-context and the agent do the rest.
The tests of a class share a service and take it in the state that the ones before left it in.
"""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from tests.lab.bake import HELM_MACHINE, Image
from tests.lab.basics import LabError, wait_until
from tests.lab.context import PUBLIC_VIP
from tests.lab.gateway_node import AGENT_UNIT, unit_property
from tests.lab.lab import Lab
from tests.lab.network import Host
from tests.lab.node import Node
from tests.lab.onegate.state import FlowState, LcmState
from tests.lab.rke2.control import Rke2
from tests.lab.service import Service, ServiceVm
from tests.lab.traces import CommandLines, files_holding

pytestmark = pytest.mark.lab

COMES_UP_S = 180
HEALS_S = 120
OUTAGE_S = 30
CLIENT = "10.2.11.50"
SERVES = "https://{vip}:6443/readyz"
VM_LABEL = "oneke.opennebula.io/vm-id"
STORAGE = "node.longhorn.io/create-default-disk"
ROLE = "node-role.kubernetes.io/"
TOKEN_FILES = ("/var/lib/oneke/server-token", "/var/lib/oneke/agent-token")
TOKEN_KEYS = {"ONEGATE_K8S_TOKEN", "ONEGATE_K8S_AGENT_TOKEN"}
WORDS = ("plan", "configure --dry-run", "configure --dry-run --json", "status", "status --json")

_T = TypeVar("_T")


def at_once(work: Callable[[Node], _T], nodes: Sequence[Node]) -> dict[str, _T]:
    """What some work on each node gave, by the node's name; done side by side."""
    with ThreadPoolExecutor(max(1, len(nodes))) as pool:
        return dict(zip([node.name for node in nodes], pool.map(work, nodes), strict=True))


class Cluster:
    """A service, and what is to be seen of its cluster."""

    def __init__(self, lab: Lab, service: Service) -> None:
        self.lab = lab
        self.service = service

    @cached_property
    def client(self) -> Host:
        """A machine in the public network."""
        return self.lab.host(
            "client", network="public", address=f"{CLIENT}/24", gateway="10.2.11.1"
        )

    def master(self) -> Rke2:
        """The first master that is on and serves."""
        for node in self.service.nodes("master"):
            if node.is_running and Rke2(node).ask_as_admin("/readyz")[0] == 200:
                return Rke2(node)
        raise LabError("no master serves")

    def kube_nodes(self) -> dict[str, dict[str, Any]]:
        """All Node objects, by name."""
        return self.master().get_nodes()

    def statuses(self, nodes: Sequence[Node]) -> dict[str, str]:
        """What the agent says on each of these nodes that is not well; empty when all are."""

        def ask(node: Node) -> str:
            run = unit_property(node, AGENT_UNIT, "ActiveState")
            done = node.run(["oneke-agent", "status"], check=False)
            is_well = run == "active" and done.returncode == 0
            return "" if is_well else f"{done.stdout}\n{AGENT_UNIT}: {run}"

        return {name: text for name, text in at_once(ask, nodes).items() if text}

    def wait_well(self, timeout_s: float = HEALS_S) -> None:
        """Wait until every node says that it is well."""
        doubtful: set[str] = set()

        def well() -> bool:
            # Asking takes a node a program's start: those that were not well are asked again, and
            # in the end all of them.
            running = [node for node in self.service.nodes() if node.is_running]
            again = [node for node in running if node.name in doubtful]
            others = [node for node in running if node not in again]
            unwell = self.statuses(again) or self.statuses(others)
            doubtful.clear()
            doubtful.update(unwell)
            if unwell:
                raise LabError("\n".join(f"{name}:\n{text}" for name, text in unwell.items()))
            return True

        wait_until(well, timeout_s, "all nodes to say that they are well", every_s=0.5)

    def wait_healthy(self, timeout_s: float = HEALS_S, *, is_told: bool = True) -> None:
        """Wait until service, cluster and every node are as they should be.

        Args:
            timeout_s: How long to wait.
            is_told: Whether OneGate has to know.
        """
        deadline = time.monotonic() + timeout_s
        self.service.wait_running(timeout_s)
        if is_told:
            # To be told costs the nodes nothing; what they tell may be of before a reboot.
            self.wait_told_well(max(1, deadline - time.monotonic()))
        self.wait_well(max(1, deadline - time.monotonic()))
        wait_until(
            self.is_what_onegate_tells, max(1, deadline - time.monotonic()), "the cluster's nodes"
        )
        if is_told:
            self.wait_told_well(max(1, deadline - time.monotonic()))

    def wait_told_well(self, timeout_s: float = HEALS_S) -> None:
        """Wait until OneGate knows of every VM that it is well."""
        wanted = {"READY": "YES", "ONEKE_STATE": "READY", "ONEKE_STEP": "", "ONEKE_ERROR": ""}

        def told() -> bool:
            vms = self.service.vms()
            return all(
                str(vm.attributes.get(key, "")) == value
                for vm in vms
                for key, value in wanted.items()
            )

        self.service.wait_until(told, timeout_s, "every VM to tell that it is well")

    def is_what_onegate_tells(self) -> bool:
        """Whether the cluster's nodes are the service's VMs, all Ready.

        Raises:
            LabError: They are not.
        """
        nodes = self.kube_nodes()
        found = {
            name: (node["metadata"]["labels"].get(VM_LABEL), condition(node, "Ready")["status"])
            for name, node in nodes.items()
        }
        wanted = {
            node_name(vm): (str(vm.vm_id), "True") for vm in self.service.vms() if vm.role != "vnf"
        }
        if found != wanted:
            raise LabError(f"nodes are {found}, and should be {wanted}")
        return True

    def founders(self) -> list[str]:
        """The nodes that ever founded a cluster."""
        masters = self.service.nodes("master")
        return [node.name for node in masters if Rke2(node).events("cluster.founded")]

    def assert_one_cluster(self) -> None:
        """One master founded, and nobody knows of another cluster."""
        assert len(self.founders()) == 1
        ids = {str(vm.attributes.get("ONEKE_CLUSTER_ID")) for vm in self.service.vms("master")}
        assert len(ids) == 1
        assert len(ids.pop()) == 64

    def assert_servers_started_side_by_side(self, before: Mapping[str, int]) -> None:
        """None of the masters waited with its last start until another one was up.

        Args:
            before: How often each had been started before.
        """
        masters = [Rke2(node) for node in self.service.nodes("master")]
        started = [starts(each.node)[before[each.node.name]]["at"] for each in masters]
        up = [each.events("ready")[-1]["at"] for each in masters]
        assert sorted(started)[1] < min(up)
        for each in masters:
            assert "joins first" not in each.node.journal("oneke-agent.service")

    def clean(self) -> dict[str, dict[str, Any]]:
        """What the cleaner said of each node when it ran on a master that serves."""
        done = self.master().node.run(["oneke-agent", "clean", "--json"], check=False)
        try:
            return {line["subject"]: line for line in json.loads(done.stdout)["lines"]}
        except (KeyError, ValueError):
            raise LabError(f"clean: {done.stdout} {done.stderr}") from None

    def wait_not_ready(self, name: str, timeout_s: float = HEALS_S) -> None:
        """Wait until the cluster has noticed that a node is gone."""
        wait_until(
            lambda: condition(self.kube_nodes()[name], "Ready")["status"] != "True",
            timeout_s,
            f"{name} to be not Ready",
        )

    def let_time_pass(self, name: str, seconds: float = 61) -> None:
        """Have a node not Ready for so long, as its condition tells; nobody has to wait for it."""
        master = self.master()
        conditions = self.kube_nodes()[name]["status"]["conditions"]
        [ready] = [each for each in conditions if each["type"] == "Ready"]
        since = datetime.now(UTC) - timedelta(seconds=seconds)
        ready["lastTransitionTime"] = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        patch = json.dumps({"status": {"conditions": conditions}})
        kind = "Content-Type: application/merge-patch+json"
        path = f"/api/v1/nodes/{name}/status"
        status, body = master.ask_as_admin(path, "-X", "PATCH", "-H", kind, "--data", patch)
        if status != 200:
            raise LabError(f"{path}: {status} {body}")

    def wait_console(self, vm_id: int, text: str) -> None:
        """Wait until a VM's console shows a text."""
        node = self.wait_booted(vm_id)
        node.wait_until(lambda: text in node.console(), HEALS_S, f"{text!r} on its console")

    def told(self, vm_id: int, key: str) -> str:
        """What a VM published under a key."""
        return str(self.lab.onegate.user_template(vm_id).get(key, ""))

    def wait_told(self, vm_id: int, key: str, text: str, timeout_s: float = HEALS_S) -> None:
        """Wait until a VM has published a text under a key."""
        self.service.wait_until(
            lambda: text in self.told(vm_id, key), timeout_s, f"VM {vm_id}: {key} with {text!r}"
        )

    def wait_booted(self, vm_id: int, timeout_s: float = HEALS_S) -> Node:
        """Wait until a VM runs and has its addresses; its node."""

        def booted() -> bool:
            vm = self.service.vm(vm_id)
            return vm.node is not None and vm.lcm_state == LcmState.RUNNING

        self.service.wait_until(booted, timeout_s, f"VM {vm_id} to boot")
        node = self.service.node(vm_id)
        node.wait_contextualized(timeout_s)
        return node

    def new_vm(self, role: str, before: Sequence[ServiceVm]) -> ServiceVm:
        """The only VM of a role that was not there before."""
        known = {vm.vm_id for vm in before}
        [new] = [vm for vm in self.service.vms(role) if vm.vm_id not in known]
        return new


class Outage:
    """Asks the API through the virtual address all the time; how long it did not answer."""

    def __init__(self, cluster: Cluster) -> None:
        self.longest_s = 0.0
        self._client = cluster.client
        self._last = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._note()

    def _note(self) -> None:
        self.longest_s = max(self.longest_s, time.monotonic() - self._last)

    def _ask(self) -> None:
        while not self._stopping.wait(0.1):
            if api_answers(self._client, timeout_s=1):
                self._note()
                self._last = time.monotonic()


def api_answers(client: Host, *, vip: str = PUBLIC_VIP, timeout_s: float = 4) -> bool:
    """Whether an API server asks, at the virtual address, who we are."""
    argv = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-m", f"{timeout_s:g}"]
    return client.run([*argv, SERVES.format(vip=vip)], check=False).stdout == "401"


def condition(node: dict[str, Any], kind: str) -> dict[str, Any]:
    """A condition of a Node object."""
    [found] = [each for each in node["status"]["conditions"] if each["type"] == kind]
    return dict(found)


def node_name(vm: ServiceVm) -> str:
    """What a VM is called in the cluster."""
    return f"oneke-ip-{vm.address.replace('.', '-')}"


def clock_of(text: str) -> float:
    """Seconds since 1970 of a time as Kubernetes writes it."""
    return datetime.fromisoformat(text).timestamp()


def starts(node: Node) -> list[dict[str, Any]]:
    """When RKE2 was started on a node."""
    return Rke2(node).events("process.started")


def holds_vip(vm: ServiceVm) -> bool:
    """Whether a gateway has the public virtual address."""
    node = vm.node
    if node is None or not node.is_running:
        return False
    return any(address.startswith(f"{PUBLIC_VIP}/") for address in node.addresses("eth0"))


def mount_of(storage: Node) -> list[str]:
    """Device and filesystem of Longhorn's folder."""
    options = ["--noheadings", "--output", "SOURCE,FSTYPE", "/var/lib/longhorn"]
    return storage.run(["findmnt", *options]).stdout.split()


@pytest.fixture(scope="class")
def lab(lab_image: Image) -> Iterator[Lab]:
    """A lab for all tests of a class."""
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="class")
def command_lines() -> Iterator[CommandLines]:
    """What is started, from before the first node."""
    with CommandLines() as watch:
        yield watch


class TestOneOfEach:
    """A gateway, a master, a worker and a storage node; then more of them."""

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, command_lines: CommandLines, lab: Lab) -> Cluster:
        return Cluster(lab, lab.service())

    def test_it_comes_up_without_a_hand(self, cluster: Cluster) -> None:
        cluster.service.wait_running(COMES_UP_S)
        cluster.wait_healthy()
        cluster.assert_one_cluster()
        nodes = cluster.kube_nodes()
        by_role = {
            vm.role: nodes[node_name(vm)] for vm in cluster.service.vms() if vm.role != "vnf"
        }
        labels = {role: set(node["metadata"]["labels"]) for role, node in by_role.items()}
        assert {f"{ROLE}control-plane", f"{ROLE}etcd"} <= labels["master"]
        assert condition(by_role["master"], "EtcdIsVoter")["status"] == "True"
        for role in ("worker", "storage"):
            assert not [name for name in labels[role] if name.startswith(ROLE)]
        assert [role for role in labels if STORAGE in labels[role]] == ["storage"]
        taints = {
            role: [f"{taint['key']}:{taint['effect']}" for taint in node["spec"].get("taints", [])]
            for role, node in by_role.items()
        }
        assert taints == {
            "master": ["CriticalAddonsOnly:NoExecute"],
            "worker": [],
            "storage": [f"{STORAGE}:NoSchedule"],
        }

    def test_ready_is_told_when_it_is_so_and_not_by_the_contextualization(
        self, cluster: Cluster
    ) -> None:
        nodes = cluster.kube_nodes()
        for vm in cluster.service.vms():
            assert vm.node is not None
            assert not vm.node.exists("/etc/one-context.d/net-99-report-ready")
            if vm.role == "vnf":
                continue
            kinds = ("Ready", "EtcdIsVoter") if vm.role == "master" else ("Ready",)
            reported = cluster.lab.onegate.vm(vm.vm_id)["ready"]
            for kind in kinds:
                since = condition(nodes[node_name(vm)], kind)["lastTransitionTime"]
                assert clock_of(since) <= reported
            assert min(event["at"] for event in Rke2(vm.node).events("ready")) < reported

    def test_the_storage_disk_is_mounted_before_rke2_runs(self, cluster: Cluster) -> None:
        [storage] = cluster.service.nodes("storage")
        assert mount_of(storage) == ["/dev/vdb", "xfs"]
        argv = ["systemctl", "show", "--property=ActiveEnterTimestamp", "--timestamp=unix"]
        mounted = storage.run([*argv, "--value", "var-lib-longhorn.mount"]).stdout.strip()
        [started] = Rke2(storage).events("process.started")
        assert float(mounted.lstrip("@")) <= started["at"]

    def test_it_serves_at_the_public_address(self, cluster: Cluster) -> None:
        client = cluster.client
        [worker] = cluster.service.vms("worker")
        url = f"http://{PUBLIC_VIP}/"
        answer = wait_until(lambda: client.fetch(url, timeout_s=2), HEALS_S, f"{url} to answer")
        assert answer == node_name(worker)
        assert api_answers(client)
        assert client.fetch(f"https://{PUBLIC_VIP}:9345/ping") == "pong"
        # The certificate is for the endpoint's name, and signed by the cluster's own authority.
        [node] = cluster.service.nodes("worker")
        ca = "/var/lib/rancher/rke2/agent/server-ca.crt"
        told = node.run(["curl", "-s", "--cacert", ca, "https://ep0.eth0.vr:6443/readyz"])
        assert json.loads(told.stdout)["code"] == 401

    def test_root_of_a_master_has_the_clusters_tools(self, cluster: Cluster) -> None:
        [master] = cluster.service.nodes("master")

        def shell(command: str) -> str:
            return master.run(["bash", "-lc", command]).stdout

        assert shell("echo $KUBECONFIG").strip() == "/etc/rancher/rke2/rke2.yaml"
        assert shell("kubectl get nodes --no-headers").count(" Ready ") == 3
        shell("crictl ps")
        if platform.machine() == HELM_MACHINE:
            header, *releases = shell("helm list --all-namespaces").splitlines()
            assert header.split()[:2] == ["NAME", "NAMESPACE"]
            assert releases == []

    def test_another_run_changes_nothing(self, cluster: Cluster) -> None:
        def configure(node: Node) -> int:
            done = node.run(["oneke-agent", "configure", "--json"], timeout_s=HEALS_S)
            return int(json.loads(done.stdout)["changes"])

        nodes = cluster.service.nodes()
        assert at_once(configure, nodes) == {node.name: 0 for node in nodes}

    def test_masters_are_scaled_from_one_to_three(self, cluster: Cluster) -> None:
        cluster.service.scale("master", 3)
        cluster.service.wait_state(FlowState.SCALING, 5)
        cluster.service.wait_running(COMES_UP_S)
        cluster.wait_healthy()
        cluster.assert_one_cluster()
        vms = sorted(cluster.service.vms("master"), key=lambda vm: vm.vm_id)
        assert len(vms) == 3
        nodes = cluster.kube_nodes()
        voters = [condition(nodes[node_name(vm)], "EtcdIsVoter")["status"] for vm in vms]
        assert voters == ["True"] * 3
        # One at a time, the lower VM first: whoever came later began when the one before was in.
        second, third = (Rke2(cluster.service.node(vm.vm_id)) for vm in vms[1:])
        assert second.events("etcd.voting")[0]["at"] < third.events("process.started")[0]["at"]

    def test_workers_are_scaled_from_one_to_four(self, cluster: Cluster) -> None:
        cluster.service.scale("worker", 4)
        cluster.service.wait_running(COMES_UP_S)
        cluster.wait_healthy()
        assert len(cluster.service.vms("worker")) == 4
        wanted = {node_name(vm) for vm in cluster.service.vms("worker")}
        answers: set[str] = set()

        def all_answered() -> bool:
            answers.add(cluster.client.fetch(f"http://{PUBLIC_VIP}/"))
            return answers == wanted

        wait_until(all_answered, HEALS_S, "every worker to answer at the public address")

    def test_tokens_are_nowhere_but_where_they_have_to_be(
        self, cluster: Cluster, command_lines: CommandLines
    ) -> None:
        nodes = cluster.service.nodes()
        talkers = [cluster.service.nodes(role)[-1] for role in ("master", "worker", "storage")]
        secrets = [cluster.service.nodes("master")[0].read(path).strip() for path in TOKEN_FILES]
        secrets = [secret.rpartition(":")[2] for secret in secrets]
        assert all(len(secret) >= 32 for secret in secrets)

        def traces(node: Node) -> dict[str, Any]:
            said = {"journal": node.journal(all_boots=True), "console": node.console()}
            if node in talkers:
                said |= {f"oneke-agent {words}": say(node, words) for words in WORDS}
            return {
                "files": files_holding(node, secrets),
                "said": [where for where, text in said.items() if holds(text, secrets)],
            }

        found = at_once(traces, nodes)
        for name, where in found.items():
            assert where["said"] == [], name
            readable = {path: mode for path, mode in where["files"].items() if mode & 0o077}
            assert readable == {}, name
        # What looks for them does find them where they have to be.
        for name in ("master0", "master2"):
            assert set(TOKEN_FILES) <= set(found[name]["files"])
        assert TOKEN_FILES[1] in found["worker0"]["files"]
        assert TOKEN_FILES[0] not in found["worker0"]["files"]
        assert command_lines.holding(secrets) == []
        assert command_lines.holding(["/opt/oneke/bin/python"])
        keys = {
            (vm.role, key)
            for vm in cluster.service.vms()
            for key, value in vm.attributes.items()
            if holds(str(value), secrets)
        }
        assert keys == {("master", key) for key in TOKEN_KEYS}

    def test_what_looks_for_tokens_finds_one_that_was_put_in_the_open(
        self, cluster: Cluster, command_lines: CommandLines
    ) -> None:
        worker = cluster.service.nodes("worker")[0]
        planted = "K10f00d::node:n0-real-t0ken"
        worker.write("/etc/planted", planted)
        worker.write("/run/planted", planted, mode=0o600)
        worker.run(["systemd-cat", "cat"], input=planted)
        worker.run(["sh", "-c", "sleep 1 # $0", planted])
        found = files_holding(worker, [planted])
        assert (found["/etc/planted"], found["/run/planted"]) == (0o644, 0o600)
        worker.wait_until(lambda: planted in worker.journal(), 10, "the planted line in its log")
        assert command_lines.holding([planted])


class TestTwoThreeTwoOne:
    """Two gateways, three masters, two workers and a storage node, and what befalls them."""

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, lab: Lab) -> Cluster:
        # Tests clean by hand, and look at what is there before that.
        by_hand = {"ONEAPP_K8S_CLEANER_ENABLED": "NO"}
        return Cluster(lab, lab.service(vnf=2, master=3, worker=2, storage=1, **by_hand))

    def test_it_comes_up_without_a_hand(self, cluster: Cluster) -> None:
        cluster.service.wait_running(COMES_UP_S)
        cluster.wait_healthy()
        cluster.assert_one_cluster()
        nodes = cluster.kube_nodes()
        masters = cluster.service.vms("master")
        assert cluster.founders() == [min(masters, key=lambda vm: vm.vm_id).name]
        voters = [condition(nodes[node_name(vm)], "EtcdIsVoter")["status"] for vm in masters]
        assert voters == ["True"] * 3
        assert len(nodes) == 6

    def test_the_api_stays_when_the_founder_fails(self, cluster: Cluster) -> None:
        founder = cluster.service.vms("master")[0]
        with Outage(cluster) as outage:
            cluster.service.cut_power(founder.vm_id)
            cluster.service.wait_state(FlowState.WARNING, HEALS_S)
            cluster.wait_not_ready(node_name(founder))
            cluster.wait_well()
        assert outage.longest_s < OUTAGE_S

    def test_the_api_comes_back_when_the_gateway_in_charge_fails(self, cluster: Cluster) -> None:
        [holder] = [vm for vm in cluster.service.vms("vnf") if holds_vip(vm)]
        with Outage(cluster) as outage:
            cluster.service.cut_power(holder.vm_id)
            [other] = [vm for vm in cluster.service.vms("vnf") if vm.vm_id != holder.vm_id]
            wait_until(lambda: holds_vip(other), HEALS_S, "the other gateway to take over")
            wait_until(lambda: api_answers(cluster.client), HEALS_S, "the API to answer")
            cluster.wait_well()
        assert outage.longest_s < OUTAGE_S

    def test_what_failed_comes_back_when_it_is_switched_on(self, cluster: Cluster) -> None:
        off = [vm for vm in cluster.service.vms() if vm.node and not vm.node.is_running]
        assert {vm.role for vm in off} == {"vnf", "master"}
        for vm in off:
            cluster.service.resume(vm.vm_id)
        cluster.wait_healthy()
        cluster.assert_one_cluster()

    def test_a_new_worker_with_the_name_of_a_dead_one_joins_once_that_is_cleared(
        self, cluster: Cluster
    ) -> None:
        before = cluster.service.vms("worker")
        name = node_name(before[0])
        cluster.service.replace(before[0].vm_id)
        new = cluster.new_vm("worker", before)
        assert node_name(new) == name
        cluster.wait_not_ready(name)
        assert "is given 60 s" in cluster.clean()[name]["reason"]
        cluster.wait_told(new.vm_id, "ONEKE_BLOCKED_BY", name)
        assert cluster.told(new.vm_id, "READY") != "YES"
        # Without the label nobody knows whose it was: a person has to decide.
        master = cluster.master()
        master.kubectl("label", "node", name, f"{VM_LABEL}-")
        cluster.let_time_pass(name)
        kept = cluster.clean()[name]
        assert (kept["verdict"], f"kubectl delete node {name}" in kept["hint"]) == ("kept", True)
        master.kubectl("label", "node", name, f"{VM_LABEL}={before[0].vm_id}")
        assert cluster.clean()[name]["verdict"] == "deleted"
        cluster.wait_healthy()
        assert cluster.told(new.vm_id, "ONEKE_BLOCKED_BY") == ""

    def test_a_new_master_with_the_name_of_a_dead_one_joins_once_that_is_cleared(
        self, cluster: Cluster
    ) -> None:
        before = cluster.service.vms("master")
        founder = before[0]
        cluster_id = cluster.told(founder.vm_id, "ONEKE_CLUSTER_ID")
        cluster.service.replace(founder.vm_id)
        new = cluster.new_vm("master", before)
        name = node_name(founder)
        assert node_name(new) == name
        cluster.wait_told(new.vm_id, "ONEKE_BLOCKED_BY", name)
        assert cluster.told(new.vm_id, "READY") != "YES"
        cluster.wait_not_ready(name)
        cluster.let_time_pass(name)
        assert cluster.clean()[name]["verdict"] == "deleted"
        cluster.wait_healthy()
        assert cluster.founders() == []
        assert cluster.told(new.vm_id, "ONEKE_CLUSTER_ID") == cluster_id
        assert cluster.told(new.vm_id, "ONEKE_BLOCKED_BY") == ""

    def test_losses_are_lived_through_without_onegate(self, cluster: Cluster) -> None:
        survivor, *masters = cluster.service.vms("master")
        lost = [masters[0], cluster.service.vms("worker")[-1]]
        last = cluster.service.node(survivor.vm_id)
        cluster.lab.onegate.fault("down")
        try:
            with Outage(cluster) as outage:
                for vm in lost:
                    cluster.service.cut_power(vm.vm_id)
                for vm in lost:
                    cluster.wait_not_ready(node_name(vm))
                cluster.wait_well()
            assert outage.longest_s < OUTAGE_S
            cluster.service.cut_power(masters[1].vm_id)
            cluster.service.wait_until(
                lambda: "a majority of the masters" in cluster.statuses([last]).get(last.name, ""),
                HEALS_S,
                "the last master to say what it lacks",
            )
            for vm in (*lost, masters[1]):
                cluster.service.resume(vm.vm_id)
            cluster.wait_healthy(is_told=False)
        finally:
            cluster.lab.onegate.heal()
        cluster.wait_told_well()

    def test_a_worker_made_without_onegate_joins_when_it_answers(self, cluster: Cluster) -> None:
        before = cluster.service.vms("worker")
        cluster.lab.onegate.fault("down")
        try:
            cluster.service.scale("worker", len(before) + 1)
            new = cluster.new_vm("worker", before)
            cluster.wait_console(new.vm_id, "OneGate to tell this VM's role")
        finally:
            cluster.lab.onegate.heal()
        cluster.wait_healthy()

    @pytest.mark.parametrize("hard", [False, True], ids=["in-good-order", "by-power-cut"])
    def test_all_come_back_when_they_reboot_at_once(self, cluster: Cluster, hard: bool) -> None:
        before = {node.name: len(starts(node)) for node in cluster.service.nodes("master")}
        cluster.service.reboot_all(hard=hard)
        cluster.wait_healthy()
        cluster.assert_servers_started_side_by_side(before)

    def test_all_come_back_without_onegate_when_their_power_was_cut(self, cluster: Cluster) -> None:
        before = {node.name: len(starts(node)) for node in cluster.service.nodes("master")}
        cluster.lab.onegate.fault("down")
        try:
            cluster.service.reboot_all(hard=True)
            cluster.wait_healthy(is_told=False)
            assert api_answers(cluster.client)
        finally:
            cluster.lab.onegate.heal()
        cluster.wait_told_well()
        cluster.assert_servers_started_side_by_side(before)


class TestOlderTemplates:
    """The contexts of the 1.24 generation, as they were recorded."""

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, lab: Lab) -> Cluster:
        return Cluster(lab, lab.service(generation="1.24"))

    def test_they_boot_unchanged_into_what_that_generation_had(self, cluster: Cluster) -> None:
        cluster.service.wait_running(COMES_UP_S)
        cluster.wait_healthy()
        [master] = cluster.service.nodes("master")
        config = Rke2(master).effective()["config"]
        assert config["cni"] == ["canal"]
        assert {"localhost", "127.0.0.1", "k8s.yourdomain.it"} <= set(config["tls-san"])
        [storage] = cluster.service.nodes("storage")
        assert mount_of(storage) == ["/dev/vdb", "xfs"]
        worker = cluster.service.vms("worker")[0]
        answer = wait_until(
            lambda: cluster.client.fetch(f"http://{PUBLIC_VIP}/"), HEALS_S, "the ingress to answer"
        )
        assert answer == node_name(worker)
        assert api_answers(cluster.client)
        node = worker.node
        assert node is not None
        supervisor = Rke2(node).effective()["config"]["server"]
        assert supervisor == f"https://{PUBLIC_VIP}:9345"
        # The documented way: the kubeconfig of a master, with the public address in it.
        text = master.read("/etc/rancher/rke2/rke2.yaml")
        master.write("/root/config", text.replace("127.0.0.1", PUBLIC_VIP), mode=0o600)
        listed = master.run(["bash", "-lc", "kubectl --kubeconfig /root/config get nodes"]).stdout
        assert listed.count(" Ready ") == 3


class TestOneGateComesAndGoes:
    """A deployment during which OneGate is away again and again."""

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, lab: Lab) -> Cluster:
        lab.onegate.fault("down")
        return Cluster(lab, lab.service())

    def test_the_gateway_waits_for_it(self, cluster: Cluster) -> None:
        [gateway] = cluster.service.vms("vnf")
        cluster.wait_console(gateway.vm_id, "OneGate to tell this VM's role")
        cluster.lab.onegate.heal()
        cluster.service.wait_until(
            lambda: bool(cluster.service.vms("storage")), HEALS_S, "the other roles to be made"
        )

    def test_a_founder_waits_for_it_to_publish_what_others_need(self, cluster: Cluster) -> None:
        [master] = cluster.service.vms("master")
        cluster.wait_booted(master.vm_id)
        cluster.service.wait_until(lambda: bool(cluster.founders()), HEALS_S, "the cluster founded")
        cluster.lab.onegate.fault("down")
        node = cluster.service.node(master.vm_id)
        Rke2(node).wait_condition([node_name(master)], timeout_s=HEALS_S)
        cluster.wait_console(master.vm_id, "WAITING: OneGate")
        assert cluster.told(master.vm_id, "READY") != "YES"

    def test_the_service_runs_when_it_answers(self, cluster: Cluster) -> None:
        cluster.lab.onegate.heal()
        cluster.wait_healthy(COMES_UP_S)
        cluster.assert_one_cluster()


def say(node: Node, words: str) -> str:
    """All that the agent prints for some words."""
    done = node.run(["oneke-agent", *words.split()], check=False, timeout_s=HEALS_S)
    return done.stdout + done.stderr


def holds(text: str, secrets: Sequence[str]) -> bool:
    """Whether a text holds one of the secrets."""
    return any(secret in text for secret in secrets)
