"""The helm-controller, and Helm itself: HelmCharts become jobs, jobs that run become releases.

Source: k3s-io/helm-controller, pkg/controllers/chart/chart.go.
"""

from __future__ import annotations

import hashlib
import json
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from . import charts
from .batch import succeeded
from .charts import CHARTS, Chart, Release, crd_object, merge_values
from .client import Api, Refused, Unreachable
from .etcd import EtcdError
from .fetching import want_chart
from .journal import event, info
from .knobs import Knobs
from .kubectlfiles import NoMatch, apply_object, find_path
from .kubeletpods import HELM_LABEL
from .owners import reference
from .podspec import is_finished
from .store import Election, Object, Store, condition, set_condition, timestamp

CONFIG_HASH = "helmcharts.helm.cattle.io/configHash"
FINALIZER = "wrangler.cattle.io/on-helm-chart-remove"
JOB_IMAGE = "rancher/klipper-helm:v0.9.14-build20260210"
RELEASE_TYPE = "helm.sh/release.v1"
_SLOWER = 1.25
_GROUP = "/apis/helm.cattle.io/v1"
_BOOTSTRAP_TOLERATIONS = (
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/network-unavailable", "operator": "Exists"},
    {"key": "node.cloudprovider.kubernetes.io/uninitialized", "operator": "Exists"},
    {"key": "CriticalAddonsOnly", "operator": "Exists"},
    {"key": "node-role.kubernetes.io/etcd", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"},
)


class HelmController:
    """Runs on every server and works on the elected one."""

    def __init__(self, store: Store, api: Api, knobs: Knobs, identity: str) -> None:
        self._api = api
        self._knobs = knobs
        self._office = Election(store, "helm-controller", identity)
        self._begun: dict[str, float] = {}
        self._settled: set[tuple[str, int]] = set()
        self._kinds: set[str] = set()
        self._seen: list[str] = []

    def run(self) -> None:
        """Go on for ever; less often the longer nothing moves of what is on its way."""
        pause_s = 0.0
        while True:
            longest_s = self._knobs.interval("helm_tick")
            pause_s = min(max(pause_s, self._knobs.interval("helm_busy")), longest_s)
            time.sleep(pause_s)
            try:
                if self._office.holds(self._knobs.interval("controller_lease")):
                    before = self._seen
                    if not self.tick():
                        pause_s = longest_s
                    else:
                        pause_s = pause_s * _SLOWER if self._seen == before else 0.0
            except (Unreachable, EtcdError):
                continue
            except Refused as refused:
                if refused.status not in (404, 409):
                    event("helm.confused", reason=f"{refused}: {refused.body[:300]}")

    def tick(self) -> bool:
        """Look at all charts, jobs and releases once; whether some of them are on their way."""
        configs = {
            (one["metadata"]["namespace"], one["metadata"]["name"]): one
            for one in self._api.get(f"{_GROUP}/helmchartconfigs")["items"]
        }
        found = self._api.get(f"{_GROUP}/helmcharts")["items"]
        jobs = {
            (one["metadata"]["namespace"], one["metadata"]["name"]): one
            for one in self._api.get(f"/apis/batch/v1/jobs?labelSelector={HELM_LABEL}")["items"]
        }
        everything = [*configs.values(), *found, *jobs.values()]
        self._seen = [one["metadata"]["resourceVersion"] for one in everything]
        for chart in found:
            metadata = chart["metadata"]
            config = configs.get((metadata["namespace"], metadata["name"]))
            if _sources(chart):
                self._keep(chart, config, jobs)
        self._run_jobs(found, configs, jobs)
        settled = self._keep_releases()
        wanted = sum(bool(_sources(chart)) for chart in found)
        return not settled or sum(succeeded(job) for job in jobs.values()) < wanted

    # --- charts -----------------------------------------------------------------------------

    def _keep(
        self, chart: Object, config: Object | None, jobs: Mapping[tuple[str, str], Object]
    ) -> None:
        """Have the job there that is for the chart as it is now."""
        metadata = chart["metadata"]
        path = f"{_GROUP}/namespaces/{metadata['namespace']}/helmcharts/{metadata['name']}"
        dying = bool(metadata.get("deletionTimestamp"))
        if not dying and FINALIZER not in (metadata.get("finalizers") or []):
            kept = [*(metadata.get("finalizers") or []), FINALIZER]
            marks = {"helmcharts.cattle.io/managed-by": "helm-controller"}
            self._api.merge(path, {"metadata": {"finalizers": kept, "annotations": marks}})
        wanted = job_of(chart, config)
        name = str(wanted["metadata"]["name"])
        job = jobs.get((str(metadata["namespace"]), name))
        other = name.replace("helm-delete-", "helm-install-") if dying else ""
        if other and (metadata["namespace"], other) in jobs:
            self._delete_job(str(metadata["namespace"]), other)
        marks = (job or {}).get("metadata", {}).get("annotations") or {}
        if job is not None and marks.get(CONFIG_HASH) != _hash_of(wanted):
            self._delete_job(str(metadata["namespace"]), name)
            job = None
        if job is None:
            self._make(chart, config, wanted)
        elif dying and succeeded(job):
            self._let_go(chart, path, name)
            return
        self._tell(chart, path, name, job)

    def _make(self, chart: Object, config: Object | None, job: Object) -> None:
        metadata = chart["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        texts = {"values-10_HelmChart.yaml": chart["spec"].get("valuesContent") or ""}
        if config is not None:
            texts["values-10_HelmChartConfig.yaml"] = config["spec"].get("valuesContent") or ""
        owner = {"ownerReferences": [reference("HelmChart", chart)]}
        core = f"/api/v1/namespaces/{namespace}"
        data = {key: b64encode(text.encode()).decode() for key, text in texts.items()}
        secret = {"metadata": {"name": f"chart-values-{name}", **owner}, "data": data}
        content = {"metadata": {"name": f"chart-content-{name}", **owner}}
        if packed := chart["spec"].get("chartContent"):
            content["data"] = {f"{name}.tgz.base64": packed}
        account = {"metadata": {"name": f"helm-{name}", **owner}}
        for path, obj in (
            (f"{core}/secrets", secret),
            (f"{core}/configmaps", content),
            (f"{core}/serviceaccounts", account),
        ):
            self._replace(path, obj)
        binding = {
            "metadata": {"name": f"helm-{namespace}-{name}", **owner},
            "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [
                {"kind": "ServiceAccount", "name": f"helm-{name}", "namespace": namespace}
            ],
        }
        self._replace("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        self._api.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)
        event("helm.job", chart=name, job=job["metadata"]["name"])

    def _replace(self, path: str, obj: Object) -> None:
        try:
            self._api.create(path, obj)
        except Refused as refused:
            if refused.status != 409:
                raise
            self._api.merge(f"{path}/{obj['metadata']['name']}", obj)

    def _delete_job(self, namespace: str, name: str) -> None:
        self._api.delete(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")

    def _let_go(self, chart: Object, path: str, job: str) -> None:
        """Let a chart go whose release is uninstalled, with all that was made for it."""
        metadata = chart["metadata"]
        namespace, name = str(metadata["namespace"]), str(metadata["name"])
        core = f"/api/v1/namespaces/{namespace}"
        for place in (
            f"{core}/secrets/chart-values-{name}",
            f"{core}/configmaps/chart-content-{name}",
            f"{core}/serviceaccounts/helm-{name}",
            f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/helm-{namespace}-{name}",
            f"/apis/batch/v1/namespaces/{namespace}/jobs/{job}",
        ):
            try:
                self._api.delete(place)
            except Refused as refused:
                if refused.status != 404:
                    raise
        kept = [each for each in metadata.get("finalizers") or [] if each != FINALIZER]
        self._api.merge(path, {"metadata": {"finalizers": kept}})
        event("helm.removed", chart=name)

    def _tell(self, chart: Object, path: str, name: str, job: Object | None) -> None:
        failed = job is not None and condition(job, "Failed") == "True"
        status: dict[str, Any] = json.loads(json.dumps(chart.get("status") or {}))
        status["jobName"] = name
        holder = {"status": status}
        words = f"Applying HelmChart using Job {chart['metadata']['namespace']}/{name}"
        set_condition(holder, "JobCreated", "True", "Job created", words)
        reason = "Job failed" if failed else ""
        set_condition(holder, "Failed", str(failed), reason, f"Job {name} failed" if failed else "")
        if status != chart.get("status"):
            self._api.merge(f"{path}/status", {"status": status})

    # --- jobs -------------------------------------------------------------------------------

    def _run_jobs(
        self,
        found: Sequence[Object],
        configs: Mapping[tuple[str, str], Object],
        jobs: Mapping[tuple[str, str], Object],
    ) -> None:
        """Do what the pods of the jobs that run are for."""
        known = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for one in found}
        pods = self._api.get(f"/api/v1/pods?labelSelector={HELM_LABEL}")["items"]
        running = {str(pod["metadata"]["uid"]) for pod in pods}
        self._begun = {uid: at for uid, at in self._begun.items() if uid in running}
        for pod in pods:
            if pod["status"]["phase"] != "Running" or pod["metadata"].get("deletionTimestamp"):
                continue
            begun = self._begun.setdefault(str(pod["metadata"]["uid"]), time.monotonic())
            if is_finished(pod) or time.monotonic() - begun < self._knobs.delay("job"):
                continue
            key = (pod["metadata"]["namespace"], pod["metadata"]["labels"][HELM_LABEL])
            if key in known:
                self._run_pod(pod, known[key], configs.get(key))

    def _run_pod(self, pod: Object, chart: Object, config: Object | None) -> None:
        name = str(chart["metadata"]["name"])
        try:
            if _is_meant(self._knobs.mode("helm-job-fail"), name):
                raise ValueError("context deadline exceeded")
            release = release_of(chart, config)
            if pod["metadata"]["labels"]["job-name"].startswith("helm-delete-"):
                self._uninstall(release)
            else:
                self._install(release, chart)
        except (ValueError, Refused, NoMatch) as trouble:
            words = f"Error: INSTALLATION FAILED: {trouble}"
            if isinstance(trouble, Refused):
                words += f": {trouble.body[:300]}"
            self._end(pod, 1, words)
            event("helm.failed", chart=name, reason=words)
            self._begun[str(pod["metadata"]["uid"])] = (
                time.monotonic() + self._knobs.interval("job_backoff") - self._knobs.delay("job")
            )
        else:
            self._end(pod, 0, "")

    def _end(self, pod: Object, status: int, words: str) -> None:
        """Note how a pod's container ended; one that failed is started again."""
        metadata = pod["metadata"]
        told: Object = json.loads(json.dumps(pod["status"]))
        ended = {"exitCode": status, "message": words, "finishedAt": timestamp()}
        ended["reason"] = "Error" if status else "Completed"
        container = told["containerStatuses"][0]
        if status:
            container["restartCount"] += 1
            container["lastState"] = {"terminated": ended}
        else:
            told["phase"] = "Succeeded"
            container |= {"ready": False, "state": {"terminated": ended}}
            holder = {"status": told}
            set_condition(holder, "Ready", "False", "PodCompleted", "")
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self._api.merge(path, {"status": told})

    # --- releases ---------------------------------------------------------------------------

    def _install(self, release: Release, chart: Object) -> None:
        """Install or upgrade a release, as `helm upgrade --install` does."""
        spec = chart["spec"]
        if not spec.get("chartContent"):
            want_chart(self._knobs, str(spec.get("repo") or ""))
        namespaces = "/api/v1/namespaces"
        if self._api.find(f"{namespaces}/{release.namespace}") is None:
            if not spec.get("createNamespace"):
                raise ValueError(f'namespaces "{release.namespace}" not found')
            self._api.create(namespaces, {"metadata": {"name": release.namespace}})
        if spec.get("chartContent"):
            for kind in charts.unpack(spec["chartContent"])[2]:
                self._apply(kind, release)
        chosen = CHARTS.get(release.chart)
        if chosen is not None:
            self._kinds.difference_update(crd.name for crd in chosen.crds)
            self._bring_kinds(release, chosen)
            for obj in chosen.build(release):
                self._apply(obj, release)
        revision = self._keep_secret(release)
        info(f"Installed chart {release.name} revision {revision}")
        event("helm.installed", chart=release.name, revision=revision, version=release.version)

    def _uninstall(self, release: Release) -> None:
        """Remove a release; its namespace and its kinds stay."""
        chosen = CHARTS.get(release.chart)
        if chosen is not None:
            for obj in [*chosen.build(release), *chosen.later(release)]:
                if obj["kind"] != "Namespace":
                    self._forget(obj)
        for secret in self._secrets(release.name, release.namespace):
            metadata = secret["metadata"]
            self._api.delete(f"/api/v1/namespaces/{release.namespace}/secrets/{metadata['name']}")
        event("helm.uninstalled", chart=release.name)

    def _apply(self, obj: Object, release: Release) -> None:
        path, place = find_path(self._api, obj)
        marks = {
            "meta.helm.sh/release-name": release.name,
            "meta.helm.sh/release-namespace": release.namespace,
        }
        marked = json.loads(json.dumps(obj))
        marked["metadata"]["annotations"] = {
            **(marked["metadata"].get("annotations") or {}),
            **marks,
        }
        labels = marked["metadata"].get("labels") or {}
        marked["metadata"]["labels"] = {**labels, "app.kubernetes.io/managed-by": "Helm"}
        apply_object(self._api, path, marked, place)

    def _forget(self, obj: Object) -> None:
        try:
            self._api.delete(find_path(self._api, obj)[1])
        except Refused as refused:
            if refused.status != 404:
                raise

    def _secrets(self, name: str, namespace: str) -> list[Object]:
        query = f"labelSelector=owner%3Dhelm,name%3D{name}"
        found: list[Object] = self._api.get(f"/api/v1/namespaces/{namespace}/secrets?{query}")[
            "items"
        ]
        return sorted(found, key=lambda secret: int(secret["metadata"]["labels"]["version"]))

    def _keep_secret(self, release: Release) -> int:
        earlier = self._secrets(release.name, release.namespace)
        revision = int(earlier[-1]["metadata"]["labels"]["version"]) + 1 if earlier else 1
        labels = {"owner": "helm", "name": release.name, "version": str(revision)}
        core = f"/api/v1/namespaces/{release.namespace}/secrets"
        for secret in earlier:
            labels_now = {"labels": {"status": "superseded"}}
            self._api.merge(f"{core}/{secret['metadata']['name']}", {"metadata": labels_now})
        fresh = {
            "metadata": {
                "name": f"sh.helm.release.v1.{release.name}.v{revision}",
                "labels": labels | {"status": "deployed"},
            },
            "type": RELEASE_TYPE,
            "data": {"release": charts.encode_release(release, revision)},
        }
        self._api.create(core, fresh)
        return revision

    def _keep_releases(self) -> bool:
        """Play the operators of what is installed; whether all of them are done."""
        done = True
        query = "labelSelector=owner%3Dhelm,status%3Ddeployed"
        for secret in self._api.get(f"/api/v1/secrets?{query}")["items"]:
            labels = secret["metadata"]["labels"]
            key = (str(labels["name"]), int(labels["version"]))
            if key in self._settled:
                continue
            if self._settle(secret):
                self._settled.add(key)
            else:
                done = False
        return done

    def _settle(self, secret: Object) -> bool:
        """Bring what comes after a release was installed; whether all of it is there."""
        release = charts.decode_release(secret["data"]["release"])
        chosen = CHARTS.get(release.chart)
        if chosen is None:
            return True
        if not self._bring_kinds(release, chosen):
            return False
        if chosen.operator and not self._runs(release, chosen):
            return False
        for obj in chosen.later(release):
            self._apply(obj, release)
        return True

    def _bring_kinds(self, release: Release, chosen: Chart) -> bool:
        """Make the kinds of a chart, if it is time for them; whether they are there."""
        if _is_meant(self._knobs.mode("manifest-crd-missing"), release.chart):
            return False
        if chosen.operator_brings_crds and not self._runs(release, chosen):
            return False
        base = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for crd in chosen.crds:
            if crd.name in self._kinds:
                continue
            obj = crd_object(crd)
            if self._api.find(f"{base}/{obj['metadata']['name']}") is None:
                self._api.create(base, obj)
                event("crd.made", kind=crd.name, chart=release.chart)
            self._kinds.add(crd.name)
        return True

    def _runs(self, release: Release, chosen: Chart) -> bool:
        """Whether the operator of a chart has a pod that is ready."""
        for namespace in (release.namespace, chosen.operator):
            path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{chosen.operator}"
            found = self._api.find(path)
            if found and (found.get("status") or {}).get("readyReplicas"):
                return True
        return False


# --- values --------------------------------------------------------------------------------------


def release_of(chart: Object, config: Object | None) -> Release:
    """What a chart is to be installed as.

    Raises:
        ValueError: If its values, or its archive, are none.
    """
    metadata, spec = chart["metadata"], chart["spec"]
    tuned = (config or {}).get("spec") or {}
    sets: dict[str, Any] = {}
    for key, value in (spec.get("set") or {}).items():
        place = sets
        *outer, last = key.split(".")
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    values = merge_values(
        spec.get("values"),
        spec.get("valuesContent"),
        tuned.get("values"),
        tuned.get("valuesContent"),
        sets,
    )
    if packed := spec.get("chartContent"):
        name, version, _ = charts.unpack(packed)
    else:
        name, version = _chart_name(str(spec["chart"])), str(spec.get("version") or "")
    namespace = str(spec.get("targetNamespace") or metadata["namespace"])
    return Release(str(metadata["name"]), namespace, name, version, values)


def _sources(chart: Object) -> str:
    """Where a chart is; empty if it does not say, and so is left alone."""
    return str(chart["spec"].get("chartContent") or chart["spec"].get("chart") or "")


def _chart_name(chart: str) -> str:
    """The name in `repository/name`, or in the address of an archive `name-1.2.3.tgz`."""
    last = chart.rpartition("/")[2]
    if not last.endswith(".tgz"):
        return last
    parts = last.removesuffix(".tgz").split("-")
    named = [part for part in parts if not part.lstrip("v")[:1].isdigit()]
    return "-".join(named)


def job_of(chart: Object, config: Object | None) -> Object:
    """The job that installs a chart, or removes it."""
    metadata, spec = chart["metadata"], chart["spec"]
    verb = "delete" if metadata.get("deletionTimestamp") else "install"
    labels = {HELM_LABEL: metadata["name"]}
    pod: dict[str, Any] = {
        "restartPolicy": "OnFailure",
        "serviceAccountName": f"helm-{metadata['name']}",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "containers": [
            {"name": "helm", "image": spec.get("jobImage") or JOB_IMAGE, "args": [verb]}
        ],
    }
    if spec.get("bootstrap"):
        pod["hostNetwork"] = True
        pod["nodeSelector"]["node-role.kubernetes.io/control-plane"] = "true"
        pod["tolerations"] = list(_BOOTSTRAP_TOLERATIONS)
    job: Object = {
        "metadata": {
            "name": f"helm-{verb}-{metadata['name']}",
            "labels": labels,
            "ownerReferences": [reference("HelmChart", chart)],
        },
        "spec": {
            "backoffLimit": int(spec.get("backOffLimit", 1000)),
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    tuned = (config or {}).get("spec") or {}
    text = json.dumps([verb, spec, tuned, pod], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest().upper()
    job["metadata"]["annotations"] = {CONFIG_HASH: f"SHA256={digest}"}
    return job


def _hash_of(job: Object) -> str:
    return str(job["metadata"]["annotations"][CONFIG_HASH])


def _is_meant(mode: Any, name: str) -> bool:
    """Whether a failure mode is on for a chart: for all of them, or for those it names."""
    if mode is None or isinstance(mode, bool):
        return bool(mode)
    return name in (mode if isinstance(mode, list) else str(mode).split(","))
