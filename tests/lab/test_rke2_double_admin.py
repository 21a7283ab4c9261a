"""What administrators do to servers of the double: snapshots, resets, new tokens and certificates.

Two servers for all tests, which run in the order they are written; at the end one is uninstalled.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.bake import Image
from tests.lab.basics import LabError
from tests.lab.lab import Lab
from tests.lab.rke2.control import DATA, Rke2
from tests.lab.rke2.nodes import boot_bare

pytestmark = pytest.mark.lab

ADDRESSES = {"s0": "172.20.0.110", "s1": "172.20.0.111"}
DB = f"{DATA}/server/db"
SNAPSHOTS = f"{DB}/snapshots"
URL = f"https://{ADDRESSES['s0']}:9345"
S3_SECRET = "etcd-s3"


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="module")
def machines(lab: Lab) -> dict[str, Rke2]:
    made = boot_bare(lab, ADDRESSES)
    for machine in made.values():
        machine.turn(intervals={"heartbeat": 1, "node_grace": 4, "minute": 1})
    server = made["s0"]
    configure(server)
    server.start("server")
    server.wait_active("server")
    join(made["s1"])
    server.wait_condition(["s0", "s1"], "EtcdIsVoter")
    return made


@pytest.fixture
def server(machines: dict[str, Rke2]) -> Rke2:
    return machines["s0"]


def configure(machine: Rke2, token: str = "secret", **values: Any) -> None:
    name = machine.node.name
    own = {"node-name": name, "node-ip": ADDRESSES[name], "token": token}
    machine.configure({"etcd-disable-snapshots": True, **own, **values})


def join(machine: Rke2, token: str = "secret") -> None:
    configure(machine, token, server=URL)
    machine.start("server")
    machine.wait_active("server")


def rke2(machine: Rke2, *words: str, check: bool = True) -> str:
    """Run the command and return all that it said."""
    done = machine.node.run(["sh", "-c", 'exec "$@" 2>&1', "sh", "rke2", *words], check=check)
    return done.stdout


def snapshots(machine: Rke2) -> list[str]:
    if not machine.node.exists(SNAPSHOTS):
        return []
    return sorted(machine.node.run(["ls", SNAPSHOTS]).stdout.split())


def note(machine: Rke2, name: str) -> None:
    """Leave something in the cluster by which a restore is told."""
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    machine.node.write("/run/note.json", json.dumps(obj))
    machine.kubectl("apply", "-f", "/run/note.json")


def notes(machine: Rke2) -> set[str]:
    listed = machine.kubectl("get", "configmaps", "-o", "name")
    return {line.partition("/")[2] for line in listed.split()}


def start_again(machine: Rke2) -> None:
    machine.start("server")
    machine.wait_active("server")


# --- snapshots -----------------------------------------------------------------------------------


def test_a_snapshot_is_a_file_and_an_object(server: Rke2) -> None:
    said = rke2(server, "etcd-snapshot", "save", "--name", "before")
    made = snapshots(server)[0]
    assert made.startswith("before-s0-")
    assert f"Snapshot {made} saved" in said
    assert server.modes_of(SNAPSHOTS) == {SNAPSHOTS: "700"}
    assert made in rke2(server, "etcd-snapshot", "ls")
    listed = json.loads(server.kubectl("get", "etcdsnapshotfiles", "-o", "json"))["items"]
    assert [(each["spec"]["nodeName"], each["spec"]["snapshotName"]) for each in listed] == [
        ("s0", made)
    ]


def test_a_snapshot_that_is_deleted_is_gone_with_its_object(server: Rke2) -> None:
    made = snapshots(server)[0]
    rke2(server, "etcd-snapshot", "delete", made)
    assert snapshots(server) == []
    assert json.loads(server.kubectl("get", "etcdsnapshotfiles", "-o", "json"))["items"] == []
    assert "not found" in rke2(server, "etcd-snapshot", "delete", made, check=False)
    assert "not found" in rke2(server, "etcd-snapshot", "delete", "../etcd/name", check=False)


def test_snapshots_are_made_on_schedule_and_the_oldest_go(server: Rke2) -> None:
    schedule: dict[str, Any] = {
        "etcd-disable-snapshots": False,
        "etcd-snapshot-schedule-cron": "*/2 * * * *",
        "etcd-snapshot-retention": 2,
    }
    configure(server, **schedule)
    server.restart("server")
    server.wait_active("server")

    def are_pruned() -> bool:
        return bool(server.events("snapshot.deleted")[1:]) and len(snapshots(server)) <= 2

    server.node.wait_until(are_pruned, 90, "old snapshots to go")
    configure(server)
    server.restart("server")
    server.wait_active("server")
    for name in snapshots(server):
        rke2(server, "etcd-snapshot", "delete", name)


def test_a_copy_goes_to_the_bucket_that_a_secret_names(server: Rke2) -> None:
    data = {"etcd-s3-bucket": "backups", "etcd-s3-endpoint": "s3.example", "etcd-s3-region": "x"}
    encoded = {key: b64encode(value.encode()).decode() for key, value in data.items()}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": S3_SECRET, "namespace": "kube-system"},
        "type": "etcd.k3s.cattle.io/s3-config-secret",
        "data": encoded,
    }
    server.node.write("/run/secret.json", json.dumps(secret))
    server.kubectl("apply", "-f", "/run/secret.json")
    copies: dict[str, Any] = {"etcd-s3": True, "etcd-s3-config-secret": S3_SECRET}
    configure(server, **copies)
    server.restart("server")
    server.wait_active("server")
    rke2(server, "etcd-snapshot", "save")
    told: dict[str, Any] = server.events("snapshot.uploaded")[-1]
    assert (told["bucket"], told["source"], told["error"]) == ("backups", "secret", "")
    assert "s3://backups/on-demand-s0-" in rke2(server, "etcd-snapshot", "ls")
    configure(server)
    server.restart("server")
    server.wait_active("server")


# --- restore and reset ---------------------------------------------------------------------------


def test_a_reset_is_refused_to_a_server_that_joins(machines: dict[str, Rke2]) -> None:
    other = machines["s1"]
    other.stop("server")
    said = rke2(other, "server", "--cluster-reset", check=False)
    assert "cannot perform cluster-reset while server URL is set" in said
    start_again(other)


def test_a_reset_is_refused_while_the_server_runs(server: Rke2) -> None:
    assert "address already in use" in rke2(server, "server", "--cluster-reset", check=False)


def test_a_restore_brings_back_what_was_and_the_others_join_again(
    server: Rke2, machines: dict[str, Rke2]
) -> None:
    note(server, "earlier")
    rke2(server, "etcd-snapshot", "save", "--name", "good")
    made = next(name for name in snapshots(server) if name.startswith("good-"))
    note(server, "later")
    other = machines["s1"]
    for machine in (other, server):
        machine.node.run(["rke2-killall.sh"])
    path = f"--cluster-reset-restore-path={SNAPSHOTS}/{made}"
    wrong = rke2(server, "server", "--cluster-reset", path, "--token=wrong", check=False)
    assert "encrypted with different token" in wrong
    said = rke2(server, "server", "--cluster-reset", path)
    assert "restart without --cluster-reset flag now" in said
    assert server.node.run(["sh", "-c", f"ls -d {DB}/etcd-old-*"]).stdout
    again = rke2(server, "server", "--cluster-reset", path, check=False)
    assert "has been reset already" in again
    start_again(server)
    assert not server.node.exists(f"{DB}/reset-flag")
    assert {"earlier"} <= notes(server)
    assert "later" not in notes(server)
    other.node.run(["rm", "-rf", DB])
    start_again(other)
    server.wait_condition(["s0", "s1"], "EtcdIsVoter")


def test_a_cluster_without_majority_is_reset_to_one_member(
    server: Rke2, machines: dict[str, Rke2]
) -> None:
    note(server, "kept")
    machines["s1"].node.kill()
    server.node.wait_until(lambda: server.ask_as_admin("/readyz")[0] == 500, 60, "no quorum")
    server.node.run(["rke2-killall.sh"])
    rke2(server, "server", "--cluster-reset")
    start_again(server)
    assert "kept" in notes(server)
    server.wait_condition(["s0"], "EtcdIsVoter")
    server.kubectl("delete", "node", "s1", "--timeout=60s")
    assert list(server.get_nodes()) == ["s0"]


# --- tokens and certificates ---------------------------------------------------------------------


def test_a_rotated_token_lets_servers_in_and_the_old_one_does_not(
    server: Rke2, machines: dict[str, Rke2]
) -> None:
    assert "Token rotated" in rke2(
        server, "token", "rotate", "--token", "secret", "--new-token", "newer"
    )
    assert server.token().endswith("::server:newer")
    for token, status in (("secret", 401), ("newer", 200)):
        assert server.ask(f"{URL}/v1-rke2/server-bootstrap", "-u", f"server:{token}")[0] == status
    server.restart("server")
    server.wait_journal("server", "already found and encrypted with different token")
    configure(server, "newer")
    server.restart("server")
    server.wait_active("server")
    other = machines["s1"]
    other.node.start()
    other.node.wait_contextualized()
    other.wipe()
    other.turn(intervals={"heartbeat": 1, "node_grace": 4, "minute": 1})
    join(other, "newer")
    server.wait_condition(["s0", "s1"], "EtcdIsVoter")


def test_rotated_certificates_are_others_and_serve_as_well(server: Rke2) -> None:
    file = f"{DATA}/server/tls/client-admin.crt"
    before = server.node.read(file)
    assert "is ok, expires at" in rke2(server, "certificate", "check")
    server.stop("server")
    assert "Successfully backed up" in rke2(server, "certificate", "rotate")
    start_again(server)
    assert server.node.read(file) != before
    assert "node/s0" in server.kubectl("get", "nodes", "-o", "name")


# --- the end -------------------------------------------------------------------------------------


def test_a_killed_node_has_no_pods_and_comes_back_with_its_data(server: Rke2) -> None:
    server.node.run(["rke2-killall.sh"])
    assert server.ask("https://127.0.0.1:6443/readyz")[0] == 0
    assert server.node.run(["sh", "-c", f"ls {DATA}/agent/pod-manifests"]).stdout == ""
    start_again(server)

    def is_back() -> bool:
        listed = notes(server)
        if "kept" not in listed:
            raise LabError(str(listed))
        return True

    server.node.wait_until(is_back, 60, "its data")
    server.wait_condition(["s0"])


def test_an_uninstalled_node_has_nothing_left(machines: dict[str, Rke2]) -> None:
    node = machines["s1"].node
    node.run(["rke2-uninstall.sh"])
    left = "/usr/local/bin/rke2 /etc/rancher /var/lib/rancher/rke2 /etc/cni /run/rke2-double"
    found = [path for path in left.split() if node.exists(path)]
    assert [path for path in found if path != "/etc/rancher"] == []
    assert node.run(["systemctl", "status", "rke2-server"], check=False).returncode == 4
