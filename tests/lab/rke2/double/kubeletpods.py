"""The kubelet's pods: most are only said to run, those of jobs whose image is there really do."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import paths, pods
from .access import MIRROR
from .client import Api, Refused, Unreachable
from .container import CONTAINERS, settings_of
from .fetching import want_image
from .images import find_image
from .journal import component, event, info
from .knobs import Knobs
from .owners import owner_of
from .podspec import is_finished
from .store import Object, set_condition, timestamp
from .volumes import NotThere, find_volumes, read_environment

HELM_LABEL = "helmcharts.helm.cattle.io/chart"
_QUICK_S = 0.25
LOG_ROOT = paths.POD_LOGS


class KubeletPods:
    """Keeps the pods that are bound to this node."""

    def __init__(self, node: str, address: str, api: Api, knobs: Knobs) -> None:
        self._node = node
        self._address = address
        self._api = api
        self._knobs = knobs
        self._since: dict[str, float] = {}
        self._trouble: dict[str, str] = {}
        self._ending: set[str] = set()

    def run(self) -> None:
        """Go on for ever."""
        while True:
            busy = False
            try:
                busy = self.sync()
            except (Unreachable, Refused) as error:
                component("kubelet", f"Error syncing pods, will retry: {error}")
            except (KeyError, TypeError, ValueError, OSError) as error:
                component("kubelet", f"Error syncing pods: {error!r}")
                event("pod.confused", reason=repr(error))
            pause = self._knobs.interval("pod_sync")
            time.sleep(min(_QUICK_S, pause) if busy else pause)

    def sync(self) -> bool:
        """Bring the pods on; whether some of them are about to change."""
        path = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{self._node}"
        bound: list[Object] = self._api.get(path)["items"]
        self._keep_mirrors(bound)
        busy = [self._bring_on(pod) for pod in bound]
        there = {str(pod["metadata"]["uid"]) for pod in bound}
        self._since = {uid: since for uid, since in self._since.items() if uid in there}
        self._forget(there)
        return any(busy)

    def _forget(self, there: set[str]) -> None:
        """End containers whose pods are gone without a word."""
        for folder in CONTAINERS.glob("*") if CONTAINERS.is_dir() else []:
            if folder.name not in there:
                pods.stop(folder.name, 0)
                shutil.rmtree(folder, ignore_errors=True)

    # --- one pod ----------------------------------------------------------------------------

    def _bring_on(self, pod: Object) -> bool:
        if MIRROR in (pod["metadata"].get("annotations") or {}):
            return False
        if pod["metadata"].get("deletionTimestamp"):
            if pod["metadata"]["uid"] not in self._ending:
                self._ending.add(str(pod["metadata"]["uid"]))
                threading.Thread(target=self._end, args=(pod,), daemon=True).start()
            return True
        if is_finished(pod):
            return False
        self._want_images(pod)
        if _is_cni(pod):
            return self._bring_on_cni(pod)
        if owner_of(pod).get("kind") == "Job" and HELM_LABEL not in _labels(pod):
            return self._bring_on_job(pod)
        return self._pretend(pod, "pod")

    def _want_images(self, pod: Object) -> None:
        """Look for the images of a pod that is to start; what ran here has been imported."""
        if pod["status"]["phase"] == "Running":
            return
        for container in pod["spec"]["containers"]:
            if container.get("imagePullPolicy") != "Never":
                want_image(self._knobs, container["image"])

    def _pretend(self, pod: Object, phase: str) -> bool:
        """Say that a pod runs once it has had the time to start."""
        if pod["status"]["phase"] == "Running":
            return False
        if self._has_waited(pod, phase):
            self._report(pod, "Running", {"running": {"startedAt": timestamp()}})
            return False
        return True

    def _bring_on_cni(self, pod: Object) -> bool:
        """Play a CNI: its file makes the node ready, and stays over a reboot."""
        if paths.CNI_CONFIG.exists():
            return self._pretend(pod, "pod")
        if self._knobs.mode("cni-missing") or not self._has_waited(pod, "cni"):
            return True
        text = '{"name": "k8s-pod-network", "cniVersion": "1.0.0"}\n'
        paths.write(paths.CNI_CONFIG, text)
        info("Started the CNI of this node")
        event("cni.installed")
        return self._pretend(pod, "pod")

    def _has_waited(self, pod: Object, phase: str) -> bool:
        """Whether a pod has been here for the time of a phase, and its network is there."""
        since = self._since.setdefault(f"{pod['metadata']['uid']}", time.monotonic())
        if not pod["spec"].get("hostNetwork") and not paths.CNI_CONFIG.exists():
            return False
        return time.monotonic() - since >= self._knobs.delay(phase)

    def _bring_on_job(self, pod: Object) -> bool:
        """Run a pod of a job for real, or pretend to where its image is not in an archive."""
        uid = str(pod["metadata"]["uid"])
        container = pod["spec"]["containers"][0]
        folder = CONTAINERS / uid
        result = _read(folder / "result.json")
        if "status" in result and not pods.is_alive(uid):
            return self._report_end(pod, result)
        if pods.is_alive(uid):
            if pod["status"]["phase"] != "Running":
                started = timestamp(result.get("started"))
                self._report(pod, "Running", {"running": {"startedAt": started}})
            return True
        if pod["status"]["phase"] == "Running" and self._was_real(pod):
            lost = {"started": time.time(), "ended": time.time(), "status": 255}
            return self._report_end(pod, lost)  # the node was off meanwhile
        if find_image(container["image"]) is not None:
            self._start(pod, container)
            return True
        if container.get("imagePullPolicy") == "Never":
            words = (
                f'Container image "{container["image"]}" is not present with pull policy of Never'
            )
            self._wait(pod, "ErrImageNeverPull", words)
            return False
        return self._pretend_job(pod)

    def _pretend_job(self, pod: Object) -> bool:
        if not self._has_waited(pod, "pod"):
            return True
        if pod["status"]["phase"] != "Running":
            self._report(pod, "Running", {"running": {"startedAt": timestamp()}})
        elif self._has_waited(pod, "job"):
            now = time.time()
            self._report_end(pod, {"started": now, "ended": now, "status": 0})
            return False
        return True

    def _was_real(self, pod: Object) -> bool:
        told = pod["status"].get("containerStatuses") or [{}]
        return str(told[0].get("containerID", "")).startswith("containerd://")

    # --- containers -------------------------------------------------------------------------

    def _start(self, pod: Object, container: Mapping[str, Any]) -> None:
        metadata = pod["metadata"]
        uid = str(metadata["uid"])
        image = find_image(container["image"])
        if image is None:
            return
        try:
            volumes = find_volumes(pod, self._api, CONTAINERS / uid)
            given = read_environment(pod, container, self._api, self._address)
        except NotThere as missing:
            self._wait(pod, missing.reason, str(missing))
            return
        settings = settings_of(pod, container, image, volumes, given)
        file = CONTAINERS / uid / "settings.json"
        paths.write(file, json.dumps(settings))
        log = log_file(metadata["namespace"], metadata["name"], uid, container["name"])
        log.parent.mkdir(parents=True, exist_ok=True)
        program = [sys.executable, "-I", str(Path(sys.argv[0]).resolve())]
        pods.ensure(uid, [*program, "container", str(file)], log)
        event("container.started", pod=metadata["name"], argv=settings["argv"])

    def _report_end(self, pod: Object, result: Mapping[str, Any]) -> bool:
        """Tell how a container ended, or start it again."""
        status, uid = int(result["status"]), str(pod["metadata"]["uid"])
        ended = {
            "exitCode": status,
            "reason": "Completed" if status == 0 else "Error",
            "startedAt": timestamp(result["started"]),
            "finishedAt": timestamp(result["ended"]),
        }
        policy = pod["spec"].get("restartPolicy", "Always")
        event("container.ended", pod=pod["metadata"]["name"], status=status)
        if policy == "Always" or (policy == "OnFailure" and status != 0):
            if time.time() - result["ended"] < self._knobs.interval("job_backoff"):
                return True
            shutil.rmtree(CONTAINERS / uid, ignore_errors=True)
            self._report(pod, "Running", {"waiting": {"reason": "CrashLoopBackOff"}}, last=ended)
            self._start(pod, pod["spec"]["containers"][0])
            return True
        self._report(pod, "Failed" if status else "Succeeded", {"terminated": ended})
        return False

    def _end(self, pod: Object) -> None:
        """End a pod's containers, then let go of it."""
        metadata = pod["metadata"]
        pods.stop(str(metadata["uid"]), float(metadata.get("deletionGracePeriodSeconds", 30)))
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        try:
            self._api.delete(path, options)
            event("pod.ended", pod=metadata["name"])
        except (Unreachable, Refused) as error:
            component("kubelet", f"Failed to delete pod {metadata['name']}: {error}")
        finally:
            self._ending.discard(str(metadata["uid"]))

    # --- telling ----------------------------------------------------------------------------

    def _wait(self, pod: Object, reason: str, message: str) -> None:
        if self._trouble.get(str(pod["metadata"]["uid"])) == message:
            return
        self._trouble[str(pod["metadata"]["uid"])] = message
        self._report(pod, "Pending", {"waiting": {"reason": reason, "message": message}})
        event("pod.waiting", pod=pod["metadata"]["name"], reason=reason, message=message)

    def _report(
        self,
        pod: Object,
        phase: str,
        state: Mapping[str, Any],
        *,
        last: Mapping[str, Any] | None = None,
    ) -> None:
        status: dict[str, Any] = json.loads(json.dumps(pod["status"]))
        uid, runs = str(pod["metadata"]["uid"]), "running" in state
        restarts = sum(each.get("restartCount", 0) for each in status.get("containerStatuses", []))
        real = pods.is_alive(uid) or self._was_real(pod)
        status |= {"phase": phase, "hostIP": self._address}
        status.setdefault("startTime", timestamp())
        status["podIP"] = self._address if pod["spec"].get("hostNetwork") else "10.42.0.2"
        status["containerStatuses"] = [
            {
                "name": container["name"],
                "image": container.get("image", ""),
                "ready": runs,
                "started": runs,
                "restartCount": restarts + (last is not None),
                "state": dict(state),
                "containerID": f"{'containerd' if real else 'double'}://{uid}",
                **({"lastState": {"terminated": dict(last)}} if last else {}),
            }
            for container in pod["spec"].get("containers") or []
        ]
        holder = {"status": status}
        for kind in ("Initialized", "ContainersReady", "Ready"):
            is_true = runs or (kind == "Initialized")
            reason = "" if is_true else "ContainersNotReady"
            set_condition(holder, kind, str(is_true), reason, "")
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self._api.merge(path, {"metadata": {"uid": metadata["uid"]}, "status": status})
        pod["status"] = status

    # --- static pods ------------------------------------------------------------------------

    def _keep_mirrors(self, bound: list[Object]) -> None:
        """Show the static pods of this node to the API."""
        folder = paths.DATA / "agent" / "pod-manifests"
        wanted = {f"{file.stem}-{self._node}" for file in folder.glob("*.yaml")}
        shown = {
            str(pod["metadata"]["name"])
            for pod in bound
            if MIRROR in (pod["metadata"].get("annotations") or {})
        }
        for name in sorted(wanted - shown):
            self._create_mirror(name)
        for name in sorted(shown - wanted):
            self._api.delete(
                f"/api/v1/namespaces/kube-system/pods/{name}", {"gracePeriodSeconds": 0}
            )

    def _create_mirror(self, name: str) -> None:
        component_name = name.removesuffix(f"-{self._node}")
        node = self._api.get(f"/api/v1/nodes/{self._node}")
        pod = {
            "metadata": {
                "name": name,
                "namespace": "kube-system",
                "labels": {"component": component_name, "tier": "control-plane"},
                "annotations": {MIRROR: "true", "kubernetes.io/config.source": "file"},
                "ownerReferences": [
                    {
                        "apiVersion": "v1",
                        "kind": "Node",
                        "name": self._node,
                        "uid": node["metadata"]["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": {
                "nodeName": self._node,
                "hostNetwork": True,
                "priorityClassName": "system-cluster-critical",
                "tolerations": [{"effect": "NoExecute", "operator": "Exists"}],
                "containers": [{"name": component_name, "image": f"rancher/{component_name}"}],
            },
        }
        made = self._api.create("/api/v1/namespaces/kube-system/pods", pod)
        self._report(made, "Running", {"running": {"startedAt": timestamp()}})


def log_file(namespace: str, name: str, uid: str, container: str) -> Path:
    """Where the log of a container is."""
    return LOG_ROOT / f"{namespace}_{name}_{uid}" / container / "0.log"


def _is_cni(pod: Object) -> bool:
    """Whether a pod is one that puts a network plug-in on its node."""
    return owner_of(pod).get("kind") == "DaemonSet" and any(
        (volume.get("hostPath") or {}).get("path") == str(paths.CNI_CONFIG.parent)
        for volume in pod["spec"].get("volumes") or []
    )


def _labels(pod: Object) -> Mapping[str, str]:
    return pod["metadata"].get("labels") or {}


def _read(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
