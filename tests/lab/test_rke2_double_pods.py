"""Pods of the double: scheduled, evicted within budgets, kept, and run on schedule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.bake import Image
from tests.lab.basics import CommandFailed, LabError
from tests.lab.lab import Lab
from tests.lab.rke2.control import DATA, Rke2
from tests.lab.rke2.nodes import boot_bare

pytestmark = pytest.mark.lab

ADDRESSES = {"s0": "172.20.0.110", "w0": "172.20.0.120", "w1": "172.20.0.121"}
MASTER_TAINT = "CriticalAddonsOnly=true:NoExecute"
BUSYBOX = "localhost/oneke/busybox:static"
API = "https://127.0.0.1:6443"


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="module")
def machines(lab: Lab) -> dict[str, Rke2]:
    """A server with the master's taint, and two workers."""
    made = boot_bare(lab, ADDRESSES)
    for machine in made.values():
        machine.turn(intervals={"heartbeat": 1, "node_grace": 4, "minute": 1, "pod_eviction": 6})
    server = made["s0"]
    own = {"node-name": "s0", "node-ip": ADDRESSES["s0"], "node-taint": [MASTER_TAINT]}
    server.configure({"token": "secret", **own})
    server.start("server")
    server.wait_active("server")
    for name in ("w0", "w1"):
        made[name].configure(
            {
                "server": f"https://{ADDRESSES['s0']}:9345",
                "token": server.token(),
                "node-name": name,
                "node-ip": ADDRESSES[name],
            }
        )
        made[name].start("agent")
    for name in ("w0", "w1"):
        made[name].wait_active("agent")
    server.wait_condition(list(ADDRESSES))
    return made


@pytest.fixture
def server(machines: dict[str, Rke2]) -> Rke2:
    return machines["s0"]


def template(labels: dict[str, str], **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "registry.example/app:1"}
    return {"metadata": {"labels": labels}, "spec": {"containers": [container], **spec}}


def deployment(name: str, replicas: int, **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": template(labels, **spec),
        },
    }


def cronjob(name: str, script: str, *, schedule: str = "* * * * *", **spec: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["/bin/busybox", "sh", "-c", script],
        "volumeMounts": [{"name": "host", "mountPath": "/host"}],
    }
    pod = {
        "restartPolicy": "Never",
        "hostNetwork": True,
        "nodeSelector": {"node-role.kubernetes.io/control-plane": "true"},
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "host", "hostPath": {"path": "/", "type": "Directory"}}],
    }
    job = {"spec": {"backoffLimit": 0, "template": {"spec": pod}}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"schedule": schedule, "jobTemplate": job, **spec},
    }


def apply(server: Rke2, *objects: dict[str, Any]) -> str:
    server.node.write("/run/objects.json", json.dumps({"kind": "List", "items": list(objects)}))
    return server.kubectl("apply", "-f", "/run/objects.json")


def get(server: Rke2, kind: str, *words: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(server.kubectl("get", kind, "-o", "json", *words))[
        "items"
    ]
    return items


def pods(server: Rke2, app: str) -> dict[str, str]:
    """Node of each pod of an app that is ready."""
    found = get(server, "pods", "-l", f"app={app}")
    return {
        pod["metadata"]["name"]: pod["spec"].get("nodeName", "")
        for pod in found
        if is_true(pod, "Ready") and not pod["metadata"].get("deletionTimestamp")
    }


def is_true(obj: dict[str, Any], kind: str) -> bool:
    conditions = obj.get("status", {}).get("conditions") or []
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def wait_pods(server: Rke2, app: str, count: int, timeout_s: float = 60) -> dict[str, str]:
    def all_there() -> dict[str, str]:
        found = pods(server, app)
        if len(found) != count:
            raise LabError(f"{len(found)} pods of {app} are ready, {count} are to be")
        return found

    return server.node.wait_until(all_there, timeout_s, f"{count} pods of {app}")


def as_kubelet(machine: Rke2, path: str, *options: str) -> tuple[int, str]:
    """What the API answers the kubelet of a node."""
    pair = f"{DATA}/agent/client-kubelet"
    shown = ["--cert", f"{pair}.crt", "--key", f"{pair}.key"]
    return machine.ask(f"{API}{path}", *shown, *options)


def evict_as_kubelet(machine: Rke2, pod: str) -> tuple[int, str]:
    body = json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}})
    path = f"/api/v1/namespaces/default/pods/{pod}/eviction"
    return as_kubelet(machine, path, "-H", "Content-Type: application/json", "-d", body)


# --- pods ----------------------------------------------------------------------------------------


def test_pods_run_where_selectors_and_taints_let_them(server: Rke2) -> None:
    tolerant = {"tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}]}
    chosen = {"nodeSelector": {"kubernetes.io/hostname": "s0"}}
    apply(
        server,
        deployment("spread", 4),
        deployment("pinned", 1, **tolerant, **chosen),
        deployment("nowhere", 1, **chosen),
    )
    spread = wait_pods(server, "spread", 4)
    assert sorted(spread.values()) == ["w0", "w0", "w1", "w1"]
    assert list(wait_pods(server, "pinned", 1).values()) == ["s0"]
    waiting = get(server, "pods", "-l", "app=nowhere")[0]
    assert waiting["status"]["phase"] == "Pending"
    told = next(one for one in waiting["status"]["conditions"] if one["type"] == "PodScheduled")
    assert "untolerated taint {CriticalAddonsOnly: true}" in told["message"]
    server.kubectl("delete", "deployment", "spread")
    server.node.wait_until(lambda: not get(server, "pods", "-l", "app=spread"), 60, "no pods")


def test_static_pods_are_shown(server: Rke2) -> None:
    names = {pod["metadata"]["name"] for pod in get(server, "pods", "-n", "kube-system")}
    assert {"etcd-s0", "kube-apiserver-s0", "kube-scheduler-s0"} <= names


def test_a_budget_holds_evictions_up_until_pods_are_ready_elsewhere(
    server: Rke2, machines: dict[str, Rke2]
) -> None:
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "few", "namespace": "default"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "held"}}},
    }
    apply(server, deployment("held", 2), budget)
    first = wait_pods(server, "held", 2)

    def is_counted() -> bool:
        status = get(server, "poddisruptionbudgets")[0].get("status") or {}
        return bool(status.get("currentHealthy") == 2)

    server.node.wait_until(is_counted, 60, "the budget to know its pods")
    pod, node = next(iter(first.items()))
    status, text = evict_as_kubelet(machines[node], pod)
    assert status == 429
    assert "needs 2 healthy pods and has 2 currently" in text
    server.kubectl("patch", "deployment", "held", "-p", '{"spec": {"replicas": 3}}')
    wait_pods(server, "held", 3)
    machines[node].node.wait_until(
        lambda: evict_as_kubelet(machines[node], pod)[0] == 201, 60, "the eviction"
    )
    after = wait_pods(server, "held", 3)
    assert pod not in after
    server.kubectl("delete", "poddisruptionbudget", "few")


def test_kubelets_see_and_evict_their_own_pods_only(
    server: Rke2, machines: dict[str, Rke2]
) -> None:
    held = wait_pods(server, "held", 3)
    own = next(name for name, node in held.items() if node == "w0")
    foreign = next(name for name, node in held.items() if node == "w1")
    worker = machines["w0"]
    status, text = as_kubelet(worker, "/api/v1/pods?fieldSelector=spec.nodeName%3Dw0")
    listed = {pod["metadata"]["name"] for pod in json.loads(text)["items"]}
    assert status == 200
    assert own in listed
    assert foreign not in listed
    for path in ("/api/v1/pods", "/api/v1/pods?fieldSelector=spec.nodeName%3Dw1", "/api/v1/nodes"):
        assert as_kubelet(worker, path)[0] == 403
    status, text = evict_as_kubelet(worker, foreign)
    assert status == 403
    assert "can only evict pods with spec.nodeName set to itself" in text
    assert evict_as_kubelet(worker, own)[0] == 201


def test_a_cordoned_node_is_left_by_its_pods_and_takes_no_others(
    server: Rke2, machines: dict[str, Rke2]
) -> None:
    merge = ["-X", "PATCH", "-H", "Content-Type: application/merge-patch+json"]
    cordon = [*merge, "-d", '{"spec": {"unschedulable": true}}']
    assert as_kubelet(machines["w0"], "/api/v1/nodes/w1", *cordon)[0] == 403
    assert as_kubelet(machines["w0"], "/api/v1/nodes/w0", *cordon)[0] == 200
    wait_pods(server, "held", 3)
    drained = server.kubectl("drain", "w0", "--ignore-daemonsets", "--delete-emptydir-data")
    assert drained.endswith("node/w0 drained\n")
    assert set(wait_pods(server, "held", 3).values()) == {"w1"}
    server.kubectl("uncordon", "w0")


def test_pods_leave_a_dead_node_after_a_while_and_go_for_good_with_it(
    server: Rke2, machines: dict[str, Rke2]
) -> None:
    machines["w1"].node.kill()
    server.wait_condition(["w1"], status="Unknown")
    server.node.wait_until(
        lambda: set(wait_pods(server, "held", 3, 120).values()) == {"w0"}, 120, "pods to be on w0"
    )
    stuck = [pod["spec"]["nodeName"] for pod in get(server, "pods", "-l", "app=held")]
    assert stuck.count("w1") == 3
    server.kubectl("delete", "node", "w1")
    server.node.wait_until(
        lambda: len(get(server, "pods", "-l", "app=held")) == 3, 60, "the stuck pods to go"
    )


def test_a_kubelet_deletes_its_own_node_where_a_role_lets_it(
    server: Rke2, machines: dict[str, Rke2]
) -> None:
    worker = machines["w0"]
    assert as_kubelet(worker, "/api/v1/nodes/w0", "-X", "DELETE")[0] == 403
    group = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "going"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["delete"]}],
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "going"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "going"},
        "subjects": [{"kind": "Group", "name": "system:nodes", "apiGroup": group}],
    }
    apply(server, role, binding)
    assert as_kubelet(worker, "/api/v1/nodes/s0", "-X", "DELETE")[0] == 403
    assert as_kubelet(worker, "/api/v1/nodes/w0", "-X", "DELETE")[0] == 200
    assert "w0" not in server.get_nodes()


# --- leases --------------------------------------------------------------------------------------


def test_of_two_who_take_a_lease_one_wins(server: Rke2) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"

    def put(holder: str, version: str | None, at: str = "2026-01-01T00:00:00.000000Z") -> int:
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "office", "resourceVersion": version},
            "spec": {"holderIdentity": holder, "renewTime": at, "leaseDurationSeconds": 15},
        }
        return server.ask_as_admin(f"{path}/office", "-X", "PUT", "-d", json.dumps(lease))[0]

    assert put("first", None) == 201
    version = json.loads(server.ask_as_admin(f"{path}/office")[1])["metadata"]["resourceVersion"]
    assert put("second", version) == 200
    assert put("third", version) == 409
    assert put("fourth", None) == 422
    told = json.loads(server.ask_as_admin(f"{path}/office")[1])
    assert told["spec"]["holderIdentity"] == "second"
    version = told["metadata"]["resourceVersion"]
    assert put("second", version, "2026-01-01T00:00:00Z") == 400


# --- schedules -----------------------------------------------------------------------------------


def jobs_of(server: Rke2, name: str) -> list[dict[str, Any]]:
    return [
        job
        for job in get(server, "jobs", "-n", "kube-system")
        if any(one["name"] == name for one in job["metadata"].get("ownerReferences") or [])
    ]


def wait_ended(server: Rke2, name: str, condition: str) -> dict[str, Any]:
    def ended() -> dict[str, Any]:
        found = [job for job in jobs_of(server, name) if is_true(job, condition)]
        if not found:
            raise LabError(str([job.get("status") for job in jobs_of(server, name)]))
        return found[-1]

    return server.node.wait_until(ended, 60, f"a job of {name} to be {condition}")


def test_a_command_that_is_due_runs_in_the_host_and_tells_what_it_said(server: Rke2) -> None:
    script = "echo to the log; exec chroot /host sh -c 'hostname > /run/was-here; id -u'"
    apply(server, cronjob("due", script, schedule="*/2 * * * *"))
    job = wait_ended(server, "due", "Complete")
    said = server.kubectl("logs", "-n", "kube-system", f"job/{job['metadata']['name']}")
    assert said == "to the log\n0\n"
    assert server.node.read("/run/was-here") == server.node.run(["hostname"]).stdout
    server.kubectl("delete", "cronjob", "due", "-n", "kube-system")
    server.node.wait_until(lambda: not jobs_of(server, "due"), 60, "its jobs to go with it")


def test_a_command_that_fails_is_a_failed_job_with_its_status(server: Rke2) -> None:
    apply(server, cronjob("failing", "echo no >&2; exit 3"))
    job = wait_ended(server, "failing", "Failed")
    server.kubectl("delete", "cronjob", "failing", "-n", "kube-system", "--wait=false")
    assert job["status"]["conditions"][0]["reason"] == "BackoffLimitExceeded"
    ended = [event["status"] for event in server.events("container.ended")]
    assert 3 in ended


def test_a_command_that_still_runs_is_not_run_twice_and_ends_at_its_deadline(server: Rke2) -> None:
    slow = cronjob("slow", "echo begun >> /host/run/begun; sleep 600", concurrencyPolicy="Forbid")
    slow["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] = 4
    slow["spec"]["jobTemplate"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    apply(server, slow)
    job = wait_ended(server, "slow", "Failed")
    server.kubectl("delete", "cronjob", "slow", "-n", "kube-system")
    assert job["status"]["conditions"][0]["reason"] == "DeadlineExceeded"
    assert any(event["cronjob"] == "slow" for event in server.events("cronjob.skipped"))
    server.node.wait_until(
        lambda: "sleep 600" not in server.node.run(["ps", "ax"]).stdout, 60, "its process to end"
    )


def test_an_image_that_is_never_pulled_and_is_not_there_is_waited_for(server: Rke2) -> None:
    missing = cronjob("missing", "true")
    pod = missing["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod["containers"][0]["image"] = "localhost/nobody/has:this"
    apply(server, missing)

    def is_told() -> bool:
        return any(event["reason"] == "ErrImageNeverPull" for event in server.events("pod.waiting"))

    server.node.wait_until(is_told, 60, "the pod to say what it waits for")
    server.kubectl("delete", "cronjob", "missing", "-n", "kube-system")


def test_a_container_has_the_privileges_it_is_granted_and_no_more(server: Rke2) -> None:
    script = "grep -E 'CapBnd|NoNewPrivs' /proc/self/status; touch /new || echo read-only"
    bound = cronjob("bound", script)
    container = bound["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    container["securityContext"] = {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_CHROOT"]},
    }
    apply(server, bound)
    job = wait_ended(server, "bound", "Complete")
    said = server.kubectl("logs", "-n", "kube-system", f"job/{job['metadata']['name']}")
    assert f"CapBnd:\t{1 << 18:016x}" in said  # CAP_SYS_CHROOT
    assert "NoNewPrivs:\t1" in said
    assert said.endswith("read-only\n")
    server.kubectl("delete", "cronjob", "bound", "-n", "kube-system")


def test_objects_in_a_namespace_that_is_not_there_are_refused(server: Rke2) -> None:
    lost = deployment("lost", 1)
    lost["metadata"]["namespace"] = "nowhere"
    with pytest.raises(CommandFailed, match='namespaces "nowhere" not found'):
        apply(server, lost)
