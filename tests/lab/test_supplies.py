"""Where nodes get images from, and where snapshots of their database go: what RKE2 is told of it.

The tests share a service and take it in the state that the ones before left it in.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.lab.bake import Image
from tests.lab.basics import LabError
from tests.lab.lab import Lab
from tests.lab.node import CONTEXT_FOLDER, Node
from tests.lab.test_cluster import COMES_UP_S, HEALS_S, Cluster, at_once, holds
from tests.lab.traces import CommandLines, files_holding

pytestmark = pytest.mark.lab

REGISTRIES = "/etc/rancher/rke2/registries.yaml"
CA = "/etc/rancher/rke2/oneke-registry-ca.pem"
CONFIG = "/etc/rancher/rke2/config.yaml.d/50-oneke.yaml"
ENVIRONMENT = "/etc/default/rke2-{role}"
MANIFEST = "/var/lib/rancher/rke2/server/manifests/one-etcd-s3.yaml"
# What is a copy of the VM's context, and what is the cluster's database.
CONTEXTS = (
    "/run/one-context",
    "/var/run/one-context",
    "/run/oneke/context",
    "/context",
    "/var/lib/lab",
)
DATABASE = "/var/lib/rancher/rke2/server/db/"
PASSWORD, S3_KEY = "r3gistry-p4ssword", "s3cret-0f-the-store"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIBfake\n-----END CERTIFICATE-----\n"
CONTEXT = {
    "ONEAPP_RKE2_REGISTRY_ENDPOINTS": "https://registry.example.org:5000",
    "ONEAPP_RKE2_REGISTRY_USERNAME": "oneke",
    "ONEAPP_RKE2_REGISTRY_PASSWORD": PASSWORD,
    "ONEAPP_RKE2_REGISTRY_CA": b64encode(CERTIFICATE.encode()).decode(),
    "ONEAPP_RKE2_REGISTRY_FALLBACK_ENABLED": "NO",
    "ONEAPP_RKE2_SYSTEM_DEFAULT_REGISTRY": "registry.example.org:5000",
    "ONEAPP_K8S_HTTPS_PROXY": "http://proxy.example.org:3128",
    "ONEAPP_RKE2_SNAPSHOT_SCHEDULE": "0 */6 * * *",
    "ONEAPP_RKE2_SNAPSHOT_RETENTION": "7",
    "ONEAPP_RKE2_SNAPSHOT_S3_BUCKET": "backup",
    "ONEAPP_RKE2_SNAPSHOT_S3_ENDPOINT": "s3.example.org:9000",
    "ONEAPP_RKE2_SNAPSHOT_S3_ACCESS_KEY": "access",
    "ONEAPP_RKE2_SNAPSHOT_S3_SECRET_KEY": S3_KEY,
}


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="module")
def command_lines() -> Iterator[CommandLines]:
    with CommandLines() as collected:
        yield collected


@pytest.fixture(scope="module")
def cluster(lab: Lab, command_lines: CommandLines) -> Cluster:
    made = Cluster(lab, lab.service(master=2, **CONTEXT))
    made.service.wait_running(COMES_UP_S)
    made.wait_healthy()
    return made


def of_cluster(cluster: Cluster) -> list[Node]:
    """All nodes of the cluster, gateways left out."""
    return [
        node for role in ("master", "worker", "storage") for node in cluster.service.nodes(role)
    ]


def test_every_node_is_told_of_the_registry_in_a_file_for_root_alone(cluster: Cluster) -> None:
    for node in of_cluster(cluster):
        told = yaml.safe_load(node.read(REGISTRIES))
        assert told["mirrors"] == {"*": {"endpoint": ["https://registry.example.org:5000"]}}
        assert told["configs"]["registry.example.org:5000"] == {
            "auth": {"username": "oneke", "password": PASSWORD},
            "tls": {"ca_file": CA},
        }
        assert node.read(CA).endswith(CERTIFICATE)
        assert node.run(["stat", "-c", "%a %U", REGISTRIES]).stdout == "600 root\n"
        config = yaml.safe_load(node.read(CONFIG))
        assert config["disable-default-registry-endpoint"] is True
        role = "server" if node.name.startswith("master") else "agent"
        assert "registry.example.org" in node.read(ENVIRONMENT.format(role=role))
        assert ("system-default-registry" in config) == (role == "server")


def test_a_master_is_told_of_snapshots_and_the_secret_that_names_the_store(
    cluster: Cluster,
) -> None:
    master = cluster.master()
    config = yaml.safe_load(cluster.service.nodes("master")[0].read(CONFIG))
    assert config["etcd-snapshot-schedule-cron"] == "0 */6 * * *"
    assert config["etcd-snapshot-retention"] == 7
    assert config["etcd-s3-config-secret"] == "one-etcd-s3"
    assert not [key for key in config if key.startswith("etcd-s3-") and "secret" not in key]
    text = master.kubectl("get", "secret", "one-etcd-s3", "-n", "kube-system", "-o", "json")
    data = {key: b64decode(value).decode() for key, value in json.loads(text)["data"].items()}
    assert (data["etcd-s3-bucket"], data["etcd-s3-secret-key"]) == ("backup", S3_KEY)


def test_a_snapshot_is_taken_and_listed(cluster: Cluster) -> None:
    node = cluster.service.nodes("master")[0]
    taken = node.run(["oneke-agent", "etcd", "snapshot", "--name", "by-hand"], timeout_s=HEALS_S)
    assert "file:///var/lib/rancher/rke2/server/db/snapshots/by-hand-" in taken.stdout
    assert "s3://backup/" in taken.stdout
    listed = node.run(["oneke-agent", "etcd", "list"]).stdout
    assert listed.count("by-hand-") >= 2
    assert S3_KEY not in taken.stdout + listed
    worker = cluster.service.nodes("worker")[0]
    refused = worker.run(["oneke-agent", "etcd", "snapshot"], check=False)
    assert refused.returncode == 78
    assert "a worker has no task" in refused.stderr


def test_an_upgrade_is_planned_for_the_cluster_there_is(cluster: Cluster) -> None:
    node = cluster.service.nodes("master")[0]
    versions = {
        one["status"]["nodeInfo"]["kubeletVersion"] for one in cluster.kube_nodes().values()
    }
    (version,) = versions
    _, minor, rest = version.split(".", 2)
    wanted = f"v1.{int(minor) + 1}.0+rke2r1"
    done = node.run(["oneke-agent", "upgrade", "plan", "--to", wanted])
    servers, agents = yaml.safe_load_all(done.stdout)
    image = "registry.example.org:5000/rancher/rke2-upgrade"
    assert (servers["spec"]["version"], servers["spec"]["upgrade"]["image"]) == (wanted, image)
    assert "CriticalAddonsOnly" in {one["key"] for one in servers["spec"]["tolerations"]}
    assert agents["spec"]["prepare"]["args"] == ["prepare", "one-servers"]
    for refused in (f"v1.{int(minor) + 2}.0+rke2r1", f"v1.{int(minor) - 1}.{rest}"):
        answer = node.run(["oneke-agent", "upgrade", "plan", "--to", refused], check=False)
        assert (answer.returncode, answer.stdout) == (78, "")


def test_another_run_changes_nothing(cluster: Cluster) -> None:
    for node in of_cluster(cluster):
        said = node.run(["oneke-agent", "configure"], timeout_s=HEALS_S).stdout
        assert "0 changes; ready" in said, node.name


def test_secrets_are_nowhere_but_where_they_have_to_be(
    cluster: Cluster, command_lines: CommandLines
) -> None:
    secrets = [PASSWORD, S3_KEY, b64encode(S3_KEY.encode()).decode()]

    def traces(node: Node) -> dict[str, Any]:
        said = {"journal": node.journal(all_boots=True), "console": node.console()}
        for words in ("plan", "status --json", "configure --dry-run --json"):
            said[words] = node.run(["oneke-agent", *words.split()], check=False).stdout
        return {
            "files": files_holding(node, secrets),
            "said": [where for where, text in said.items() if holds(text, secrets)],
        }

    for name, found in at_once(traces, of_cluster(cluster)).items():
        assert found["said"] == [], name
        own = {path: mode for path, mode in found["files"].items() if not is_source(path)}
        assert set(own) == {REGISTRIES} | ({MANIFEST} if name.startswith("master") else set())
        assert set(own.values()) == {0o600}, name
    assert command_lines.holding(secrets) == []
    # OneFlow keeps what a service was given with its VMs; the agent adds nothing to that.
    keys = {
        key
        for vm in cluster.service.vms()
        for key, value in vm.attributes.items()
        if holds(str(value), secrets)
    }
    assert keys <= set(CONTEXT)


def is_source(path: str) -> bool:
    """Whether a file is the context that secrets come in, or the database that keeps Secrets."""
    return path.startswith((*CONTEXTS, DATABASE))


def test_a_new_password_reaches_rke2(cluster: Cluster) -> None:
    """RKE2 reads the file when it starts, and so it is started anew."""
    worker = cluster.service.nodes("worker")[0]
    before = worker.run(["systemctl", "show", "-P", "MainPID", "rke2-agent.service"]).stdout
    text = worker.read(f"{CONTEXT_FOLDER}/context.sh")
    worker.set_context(text.replace(PASSWORD, "an0ther-p4ssword"))
    worker.run(["oneke-agent", "configure"], timeout_s=HEALS_S)
    assert "an0ther-p4ssword" in worker.read(REGISTRIES)

    def restarted() -> bool:
        after = worker.run(["systemctl", "show", "-P", "MainPID", "rke2-agent.service"]).stdout
        if after in (before, "0\n"):
            raise LabError(f"rke2-agent.service is still {after.strip()}")
        return True

    worker.wait_until(restarted, HEALS_S, "RKE2 to be started anew")


def test_a_snapshot_can_be_gone_back_to_the_way_it_is_written(cluster: Cluster) -> None:
    """As `docs/operations.md` has it."""
    node, other = cluster.service.nodes("master")
    snapshots = "/var/lib/rancher/rke2/server/db/snapshots"
    name = node.run(["ls", "-t", snapshots]).stdout.split()[0]
    later = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "later", "namespace": "default"},
        "data": {"made": "after the snapshot"},
    }
    node.run(["kubectl", "apply", "-f", "-"], input=json.dumps(later))
    assert "later" in cluster.master().kubectl("get", "configmaps", "-n", "default", "-o", "name")
    for each in (node, other):
        each.run(["systemctl", "stop", "oneke-agent"])
        each.run(["rke2-killall.sh"])
    drop = "-e '/^server:/d' -e '/^etcd-s3/d'"
    node.run(["sh", "-c", f"sed {drop} {CONFIG} > /root/reset.yaml"])
    reset = ["rke2", "server", "--config", "/root/reset.yaml", "--cluster-reset"]
    done = node.run([*reset, f"--cluster-reset-restore-path={snapshots}/{name}"], timeout_s=HEALS_S)
    assert "restart without --cluster-reset" in done.stdout + done.stderr
    node.run(["rm", "/root/reset.yaml"])
    node.run(["systemctl", "start", "rke2-server", "oneke-agent"], timeout_s=COMES_UP_S)
    other.run(["rm", "-r", "/var/lib/rancher/rke2/server/db"])
    other.run(["systemctl", "start", "oneke-agent"], timeout_s=COMES_UP_S)
    cluster.wait_healthy()
    left = cluster.master().kubectl("get", "configmaps", "-n", "default", "-o", "name")
    assert "later" not in left
