"""The node's share: its Node object, its heartbeats, what answers on its node ports."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import kubeletapi, paths, pods
from .client import Api, Refused, Unreachable
from .config import parse_label, parse_taint
from .controllers import NOT_READY, UNINITIALIZED, taints
from .journal import component, event
from .knobs import Knobs
from .kubeletpods import KubeletPods
from .store import Object, condition, set_condition, timestamp

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
INGRESS_POD = "ingress"
HURRY_S = 15
"""After a start the node is looked at more often, so that its changes are seen as they come."""

_NO_CNI = (
    "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
    "message:Network plugin returns error: cni plugin not initialized"
)


@dataclass(frozen=True)
class NodeSettings:
    """What a node registers with.

    Attributes:
        name: Of the Node object.
        role: `server` or `agent`.
        addresses: Internal, then external ones, then names, each with its type.
        labels: `key=value`.
        taints: `key=value:Effect`.
        annotations: As they are.
        finalizers: As they are.
        external_cloud: Whether a cloud controller has to initialize it.
    """

    name: str
    role: str
    addresses: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    taints: tuple[str, ...]
    annotations: Mapping[str, str]
    finalizers: tuple[str, ...]
    external_cloud: bool


class Kubelet:
    """Registers the node once, then tells again and again that it is there."""

    def __init__(
        self,
        settings: NodeSettings,
        api: Api,
        knobs: Knobs,
        *,
        on_deleted: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._api = api
        self._knobs = knobs
        self._on_deleted = on_deleted
        self._path = f"/api/v1/nodes/{settings.name}"
        self._is_gone = False
        self.registered = threading.Event()

    def run(self) -> None:
        """Go on for ever."""
        while not self.registered.is_set():
            try:
                self._register()
            except (Unreachable, Refused) as error:
                component("kubelet", f"Unable to register node with API server: {error}")
                time.sleep(0.3)
        self._open_port()
        addresses = [address for kind, address in self._settings.addresses if kind == "InternalIP"]
        bound = KubeletPods(self._settings.name, addresses[0], self._api, self._knobs)
        threading.Thread(target=bound.run, daemon=True).start()
        hurried_until = time.monotonic() + HURRY_S
        wake = 0.2
        while True:
            time.sleep(wake)
            wake = self._knobs.interval("heartbeat")
            try:
                if self._beat() and time.monotonic() < hurried_until:
                    wake = min(wake, 0.3)
            except (Unreachable, Refused) as error:
                component("kubelet", f"Error updating node status, will retry: {error}")

    def _open_port(self) -> None:
        try:
            kubeletapi.serve()
        except OSError as error:
            component("kubelet", f"Failed to listen and serve: {error}")

    # --- registration -----------------------------------------------------------------------

    def _register(self) -> None:
        settings = self._settings
        old = self._api.find(self._path)
        if old is None:
            self._api.create("/api/v1/nodes", self._new_node())
            event("node.registered", node=settings.name, again=False)
        else:
            self._api.merge(self._path, self._patch(old))
            event("node.registered", node=settings.name, again=True)
        component("kubelet", f"Successfully registered node {settings.name}")
        self.registered.set()

    def _new_node(self) -> Object:
        fresh = [parse_taint(text) for text in self._settings.taints]
        fresh.append({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"})
        if self._settings.external_cloud:
            fresh.append({"key": UNINITIALIZED, "value": "true", "effect": "NoSchedule"})
        node: Object = {
            "metadata": {
                "name": self._settings.name,
                "labels": self._labels(),
                "annotations": dict(self._settings.annotations),
                "finalizers": list(self._settings.finalizers),
            },
            "spec": {"taints": fresh},
        }
        self._report(node)
        return node

    def _patch(self, old: Object) -> Object:
        """What is told anew of a node that is known: taints are not."""
        metadata: Object = {
            "labels": self._labels(),
            "annotations": dict(self._settings.annotations),
        }
        if not old["metadata"].get("deletionTimestamp"):
            kept = old["metadata"].get("finalizers") or []
            metadata["finalizers"] = list(dict.fromkeys([*kept, *self._settings.finalizers]))
        return {"metadata": metadata}

    def _labels(self) -> dict[str, str]:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")
        labels = {
            "kubernetes.io/hostname": self._settings.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": machine,
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": machine,
            "node.kubernetes.io/instance-type": "rke2",
        }
        if self._settings.role == "server":
            labels["node-role.kubernetes.io/control-plane"] = "true"
            labels["node-role.kubernetes.io/etcd"] = "true"
            if self._knobs.minor() <= 33:
                labels["node-role.kubernetes.io/master"] = "true"
        return labels | dict(parse_label(text) for text in self._settings.labels)

    # --- heartbeats -------------------------------------------------------------------------

    def _beat(self) -> bool:
        """Renew the lease and correct the status; whether something is about to change."""
        node = self._api.find(self._path)
        if node is None:
            if not self._is_gone:
                self._is_gone = True
                event("node.gone", node=self._settings.name)
                self._on_deleted()
            component("kubelet", f'Error getting node: nodes "{self._settings.name}" not found')
            return False
        lease = {"spec": {"holderIdentity": self._settings.name, "renewTime": _precise_now()}}
        try:
            self._api.merge(f"{LEASES}/{self._settings.name}", lease)
        except Refused as refused:
            if refused.status != 404:
                raise
            # It goes with its node, also where that was deleted a moment ago.
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._settings.name}
            owner |= {"uid": node["metadata"]["uid"]}
            metadata = {"name": self._settings.name, "ownerReferences": [owner]}
            self._api.create(LEASES, lease | {"metadata": metadata})
        before, was_ready = json.dumps(node.get("status"), sort_keys=True), condition(node, "Ready")
        self._report(node)
        if json.dumps(node["status"], sort_keys=True) != before:
            self._api.merge(f"{self._path}/status", {"status": node["status"]})
        if condition(node, "Ready") != was_ready:
            event("node.reported", node=self._settings.name, ready=condition(node, "Ready"))
        self._serve_node_ports(node)
        awaited = {taint["key"] for taint in taints(node)} & {UNINITIALIZED, NOT_READY}
        return bool(awaited) or condition(node, "Ready") != "True"

    def _report(self, node: Object) -> None:
        """Put into a node's status what the kubelet knows."""
        status = node.setdefault("status", {})
        status["addresses"] = [
            {"type": kind, "address": address} for kind, address in self._settings.addresses
        ]
        status["capacity"] = {"cpu": str(os.cpu_count() or 1), "memory": "4Gi", "pods": "110"}
        status["allocatable"] = status["capacity"]
        version = self._knobs.version()[1]
        status["nodeInfo"] = {
            "kubeletVersion": version,
            "osImage": _os_name(),
            "kernelVersion": platform.release(),
            "containerRuntimeVersion": "containerd://2.2.5-k3s1",
            "architecture": "amd64",
            "operatingSystem": "linux",
            "machineID": _read("/etc/machine-id"),
            "systemUUID": _read("/etc/machine-id"),
            "bootID": _read("/proc/sys/kernel/random/boot_id"),
        }
        for kind, reason in (
            ("MemoryPressure", "KubeletHasSufficientMemory"),
            ("DiskPressure", "KubeletHasNoDiskPressure"),
            ("PIDPressure", "KubeletHasSufficientPID"),
        ):
            message = "kubelet has " + ("no disk pressure" if kind[0] == "D" else "sufficient")
            set_condition(node, kind, "False", reason, message)
        if paths.CNI_CONFIG.exists() and not self._knobs.mode("cni-missing"):
            ready = "kubelet is posting ready status"
            set_condition(node, "Ready", "True", "KubeletReady", ready)
        else:
            set_condition(node, "Ready", "False", "KubeletNotReady", _NO_CNI)

    # --- what comes with pods ---------------------------------------------------------------

    def _serve_node_ports(self, node: Object) -> None:
        """Play the ingress: it runs where its pods may be."""
        open_to_pods = not any(
            taint["effect"] in ("NoSchedule", "NoExecute") for taint in taints(node)
        )
        wanted = (
            self._settings.role == "agent"
            and open_to_pods
            and condition(node, "Ready") == "True"
            and bool(self._knobs.get("nodeports", True))
        )
        if wanted:
            argv = double_argv("ingress", self._settings.name)
            if pods.ensure(INGRESS_POD, argv):
                event("ingress.started", node=self._settings.name)
        elif not self._knobs.get("nodeports", True):
            pods.stop(INGRESS_POD)


def double_argv(*arguments: str) -> list[str]:
    """The command that runs another part of the double."""
    return [sys.executable, "-I", os.path.realpath(sys.argv[0]), *arguments]


def node_addresses(
    internal: Sequence[str], external: Sequence[str], name: str
) -> tuple[tuple[str, str], ...]:
    """Addresses as a Node has them."""
    return (
        *(("InternalIP", address) for address in internal),
        *(("ExternalIP", address) for address in external),
        ("Hostname", name),
    )


def node_annotations(
    config: Mapping[str, Any], addresses: Sequence[str], host: str
) -> dict[str, str]:
    """Annotations that every RKE2 node has; secrets are masked."""
    arguments: list[str] = []
    for key, value in config.items():
        secret = key in ("token", "agent-token")
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            arguments += [f"--{key}", "********" if secret else str(text)]
    return {
        "rke2.io/hostname": host,
        "rke2.io/internal-ip": ",".join(addresses),
        "rke2.io/node-args": json.dumps(arguments),
        "rke2.io/node-env": "{}",
        "alpha.kubernetes.io/provided-node-ip": ",".join(addresses),
        "node.alpha.kubernetes.io/ttl": "0",
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
    }


def _precise_now() -> str:
    now = time.time()
    return timestamp(now).removesuffix("Z") + f".{int(now % 1 * 1e6):06d}Z"


def _os_name() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "Linux"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
