"""The API server: objects over HTTPS for those who show a certificate.

Plays the static pods kube-apiserver, kube-controller-manager and cloud-controller-manager in one
process that survives a stop of the unit.
"""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from . import pki
from .controllers import NodeControllers
from .etcd import Etcd, EtcdError
from .https import Handler, TlsServer
from .journal import event
from .knobs import Knobs
from .store import Conflict, NotFound, Object, Store

HEALTH = ("/readyz", "/livez", "/healthz")


@dataclass(frozen=True)
class Kind:
    """A kind of objects that is served."""

    name: str
    resource: str
    namespaced: bool
    api_version: str


def _kinds(
    group: str, version: str, cluster: Mapping[str, str], namespaced: Mapping[str, str]
) -> dict[str, Kind]:
    api_version = f"{group}/{version}" if group else version
    found = {}
    for is_namespaced, names in ((False, cluster), (True, namespaced)):
        for plural, name in names.items():
            resource = f"{plural}.{group}" if group else plural
            found[resource] = Kind(name, resource, is_namespaced, api_version)
    return found


KINDS: dict[str, Kind] = {
    **_kinds(
        "",
        "v1",
        {"nodes": "Node", "namespaces": "Namespace", "persistentvolumes": "PersistentVolume"},
        {
            "secrets": "Secret",
            "events": "Event",
            "configmaps": "ConfigMap",
            "pods": "Pod",
            "services": "Service",
            "endpoints": "Endpoints",
            "serviceaccounts": "ServiceAccount",
            "persistentvolumeclaims": "PersistentVolumeClaim",
        },
    ),
    **_kinds(
        "apps",
        "v1",
        {},
        {
            "deployments": "Deployment",
            "daemonsets": "DaemonSet",
            "statefulsets": "StatefulSet",
            "replicasets": "ReplicaSet",
        },
    ),
    **_kinds("batch", "v1", {}, {"jobs": "Job", "cronjobs": "CronJob"}),
    **_kinds("policy", "v1", {}, {"poddisruptionbudgets": "PodDisruptionBudget"}),
    **_kinds("coordination.k8s.io", "v1", {}, {"leases": "Lease"}),
    **_kinds(
        "storage.k8s.io",
        "v1",
        {"storageclasses": "StorageClass", "volumeattachments": "VolumeAttachment"},
        {},
    ),
    **_kinds(
        "rbac.authorization.k8s.io",
        "v1",
        {"clusterroles": "ClusterRole", "clusterrolebindings": "ClusterRoleBinding"},
        {"roles": "Role", "rolebindings": "RoleBinding"},
    ),
    **_kinds(
        "apiextensions.k8s.io", "v1", {"customresourcedefinitions": "CustomResourceDefinition"}, {}
    ),
    **_kinds(
        "helm.cattle.io",
        "v1",
        {},
        {"helmcharts": "HelmChart", "helmchartconfigs": "HelmChartConfig"},
    ),
    **_kinds("k3s.cattle.io", "v1", {"etcdsnapshotfiles": "ETCDSnapshotFile"}, {"addons": "Addon"}),
}


class ApiError(Exception):
    """An answer that is a Status."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(message)


@dataclass(frozen=True)
class Target:
    """What a path names."""

    kind: Kind
    namespace: str
    name: str
    subresource: str


class ApiHandler(Handler):
    """Answers one request after the other."""

    server: ApiServer

    def respond(self) -> None:
        """Do what is asked for."""
        body = self.body()
        split = urlsplit(self.path)
        try:
            status, answer = self._respond(split.path, parse_qs(split.query), body)
        except ApiError as error:
            status = error.status
            answer = {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": str(error),
                "reason": error.reason,
                "code": status,
            }
        if status == 0:
            self.drop()
        elif isinstance(answer, str):
            self.answer(status, answer)
        else:
            self.answer_json(status, answer)

    def _respond(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        shown = self.certificate()
        if path in HEALTH and (forced := self.server.forced_health()):
            if forced == "refused":
                return 0, ""
            if forced != "200":
                return int(forced), f"[-]forced failed\n{path[1:]} check failed\n"
        if shown is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if path in HEALTH:
            return self._health(path[1:])
        if path == "/version":
            version = self.server.knobs.version()[1]
            major, minor = version[1:].split(".")[:2]
            return 200, {"major": major, "minor": minor, "gitVersion": version}
        try:
            self.server.check_quorum()
            target = parse_path(path, self.server.find_kind)
            authorize(*shown, self.command, target)
            parsed = json.loads(body) if body else None
            return self._perform(target, query, parsed)
        except NotFound as error:
            found = path.rstrip("/").split("/")
            raise ApiError(
                404, "NotFound", f'{found[-2] if len(found) > 1 else ""} "{error}" not found'
            ) from None
        except Conflict as error:
            if self.command == "POST":
                message = f'{target.kind.resource} "{error}" already exists'
                raise ApiError(409, "AlreadyExists", message) from None
            message = (
                f'Operation cannot be fulfilled on {target.kind.resource} "{error}": the object '
                "has been modified; please apply your changes to the latest version and try again"
            )
            raise ApiError(409, "Conflict", message) from None
        except EtcdError as error:
            raise ApiError(500, "InternalError", f"etcdserver: {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ApiError(400, "BadRequest", f"{type(error).__name__}: {error}") from None

    def _health(self, name: str) -> tuple[int, str]:
        try:
            self.server.check_quorum()
            self.server.probe.get("/rke2/health")
        except EtcdError:
            reason = "[-]etcd failed: reason withheld"
            return 500, f"[+]ping ok\n[+]log ok\n{reason}\n{name} check failed\n"
        return 200, "ok"

    def _perform(self, target: Target, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        store, kind = self.server.store, target.kind
        if self.command == "POST":
            if target.subresource == "eviction":
                store.delete(kind.resource, target.namespace, target.name)
                return 201, {"kind": "Status", "status": "Success"}
            return 201, self._create(target, body)
        if not target.name:
            if self.command in ("GET", "HEAD"):
                return 200, self._list(target, query)
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method")
        if self.command in ("GET", "HEAD"):
            return 200, _typed(kind, store.get(kind.resource, target.namespace, target.name))
        if self.command == "DELETE":
            return 200, self._delete(target, body)
        if self.command == "PUT":
            return 200, self._put(target, body)
        content = (self.headers.get("Content-Type") or "").partition(";")[0]

        def edit(old: Object) -> Object:
            new = apply_patch(old, body, content)
            check_precondition(old, (body or {}) if isinstance(body, dict) else {})
            return keep_apart(old, new, target.subresource)

        return 200, _typed(kind, store.change(kind.resource, target.namespace, target.name, edit))

    def _create(self, target: Target, body: Object) -> Object:
        metadata = body.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + f"{time.time_ns():x}"[-5:]
        metadata.pop("resourceVersion", None)
        metadata.pop("uid", None)
        namespace = target.namespace
        if not metadata.get("name"):
            raise ApiError(422, "Invalid", "metadata.name: Required value")
        return _typed(target.kind, self.server.store.create(target.kind.resource, namespace, body))

    def _list(self, target: Target, query: dict[str, list[str]]) -> Object:
        found = self.server.store.all(target.kind.resource, target.namespace)
        chosen = [
            _typed(target.kind, obj)
            for obj in found
            if matches_labels(obj, ",".join(query.get("labelSelector", [])))
            and matches_fields(obj, ",".join(query.get("fieldSelector", [])))
        ]
        newest = max((int(obj["metadata"]["resourceVersion"]) for obj in found), default=1)
        return {
            "kind": f"{target.kind.name}List",
            "apiVersion": target.kind.api_version,
            "metadata": {"resourceVersion": str(newest)},
            "items": chosen,
        }

    def _put(self, target: Target, body: Object) -> Object:
        store, resource = self.server.store, target.kind.resource
        old = store.get(resource, target.namespace, target.name)
        check_precondition(old, body)
        merged = {**body, "metadata": {**body["metadata"]}}
        for key in ("uid", "creationTimestamp", "deletionTimestamp", "resourceVersion"):
            if key in old["metadata"]:
                merged["metadata"][key] = old["metadata"][key]
        new = keep_apart(old, merged, target.subresource)
        return _typed(target.kind, store.replace(resource, target.namespace, new))

    def _delete(self, target: Target, body: Any) -> Object:
        store, resource = self.server.store, target.kind.resource
        wanted = (body or {}).get("preconditions") or {}
        old = store.get(resource, target.namespace, target.name)
        check_precondition(old, {"metadata": wanted})
        removed = store.delete(resource, target.namespace, target.name)
        event("object.deleted", resource=resource, object=target.name)
        if removed["metadata"].get("finalizers"):
            return _typed(target.kind, removed)
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Success",
            "details": {"name": target.name, "uid": removed["metadata"]["uid"]},
        }


class ApiServer(TlsServer):
    """The server with what its handlers share."""

    def __init__(self, settings: Mapping[str, Any], knobs: Knobs) -> None:
        crt = Path(settings["certificate"])
        context = pki.server_context(crt, Path(settings["client_ca"]))
        self.knobs = knobs
        self.store = Store(Etcd(timeout_s=3))
        self.probe = Etcd(timeout_s=2)
        self._flap = 0
        self._lock = threading.Lock()
        super().__init__((settings["address"], 6443), ApiHandler, context)

    def forced_health(self) -> str:
        """The next answer of a flapping server; empty if it is to tell the truth."""
        pattern = self.knobs.mode("readyz-flap")
        if not pattern:
            return ""
        steps = pattern.split(",") if isinstance(pattern, str) else [str(each) for each in pattern]
        with self._lock:
            self._flap += 1
            return str(steps[(self._flap - 1) % len(steps)]).strip()

    def check_quorum(self) -> None:
        """Fail as etcd does without quorum, where that is asked for."""
        if self.knobs.mode("quorum-loss"):
            raise EtcdError("no leader")

    def find_kind(self, resource: str, version: str) -> Kind | None:
        """A kind that is built in, or that a CRD brought."""
        if kind := KINDS.get(resource):
            return kind if kind.api_version.rpartition("/")[2] == version else None
        crd = self.store.find("customresourcedefinitions.apiextensions.k8s.io", "", resource)
        if crd is None:
            return None
        spec = crd["spec"]
        if version not in [each["name"] for each in spec.get("versions", [])]:
            return None
        api_version = f"{spec['group']}/{version}"
        return Kind(spec["names"]["kind"], resource, spec["scope"] == "Namespaced", api_version)


# --- values --------------------------------------------------------------------------------------


def parse_path(path: str, find_kind: Callable[[str, str], Kind | None]) -> Target:
    """What a path names.

    Raises:
        ApiError: 404 if nothing of the kind is served.
    """
    parts = [part for part in path.split("/") if part]
    group, rest = "", []
    if parts[:1] == ["api"] and len(parts) >= 3:
        version, rest = parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    if not rest:
        raise ApiError(404, "NotFound", "the server could not find the requested resource")
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = f"{rest[0]}.{group}" if group else rest[0]
    kind = find_kind(resource, version)
    if kind is None:
        raise ApiError(404, "NotFound", "the server could not find the requested resource")
    name, subresource = [*rest[1:], "", ""][:2]
    return Target(kind, namespace, name, subresource)


def authorize(user: str, groups: tuple[str, ...], method: str, target: Target) -> None:
    """Let administrators do everything and nodes what is theirs.

    Raises:
        ApiError: 403 for anything else.
    """
    if "system:masters" in groups:
        return
    resource, node = target.kind.resource, user.removeprefix("system:node:")
    if "system:nodes" in groups and user.startswith("system:node:"):
        if method in ("GET", "HEAD") and resource in (
            *("nodes", "leases.coordination.k8s.io", "pods", "services"),
        ):
            return
        if resource == "nodes" and (method == "POST" or target.name == node):
            return
        if resource == "leases.coordination.k8s.io" and target.namespace == "kube-node-lease":
            return
        if resource == "events" and method == "POST":
            return
    verb = {"GET": "get" if target.name else "list", "POST": "create", "DELETE": "delete"}
    plural, _, group = resource.partition(".")
    message = (
        f'{resource} "{target.name}" is forbidden: User "{user}" cannot '
        f'{verb.get(method, "patch")} resource "{plural}" in API group "{group}"'
    )
    raise ApiError(403, "Forbidden", message)


def check_precondition(old: Object, wanted: Object) -> None:
    """Refuse to change another object than was meant.

    Raises:
        ApiError: 409.
    """
    metadata = wanted.get("metadata") or {}
    for key in ("uid", "resourceVersion"):
        if metadata.get(key) and metadata[key] != old["metadata"][key]:
            raise ApiError(
                409,
                "Conflict",
                f"Operation cannot be fulfilled: the {key} in the precondition "
                f"({metadata[key]}) does not match the {key} in record "
                f"({old['metadata'][key]}). The object might have been deleted and then recreated",
            )


def keep_apart(old: Object, new: Object, subresource: str) -> Object:
    """Let a status be changed by its own path only, and nothing else by that."""
    if subresource == "status":
        return old | {"status": new.get("status", {})}
    if "status" in old:
        return new | {"status": old["status"]}
    return {key: value for key, value in new.items() if key != "status"}


def apply_patch(old: Object, patch: Any, content: str) -> Object:
    """The object with a patch of any of the three kinds."""
    if content == "application/json-patch+json":
        new: Object = json.loads(json.dumps(old))
        for step in patch:
            _json_step(new, step)
        return new
    merged = merge_patch(old, patch, strategic=content == "application/strategic-merge-patch+json")
    return dict(merged)


def merge_patch(old: Any, patch: Any, *, strategic: bool = False) -> Any:
    """RFC 7396; with `strategic` lists of conditions, taints and addresses are merged by key."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif strategic and isinstance(value, list) and key in ("conditions", "addresses"):
            kept = {each["type"]: each for each in merged.get(key, [])}
            for each in value:
                kept[each["type"]] = {**kept.get(each["type"], {}), **each}
            merged[key] = list(kept.values())
        else:
            merged[key] = merge_patch(merged.get(key), value, strategic=strategic)
    return merged


def _json_step(obj: Any, step: Mapping[str, Any]) -> None:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
    for part in parts[:-1]:
        obj = obj[int(part)] if isinstance(obj, list) else obj[part]
    last: Any = parts[-1]
    if isinstance(obj, list) and last != "-":
        last = int(last)
    if step["op"] == "test":
        if obj[last] != step["value"]:
            raise ApiError(422, "Invalid", "the server rejected our request: test failed")
    elif step["op"] == "remove":
        del obj[last]
    elif isinstance(obj, list) and step["op"] == "add":
        obj.insert(len(obj) if last == "-" else last, step["value"])
    else:
        obj[last] = step["value"]


_REQUIREMENT = re.compile(r"[^,(]+(?:\([^)]*\))?")


def matches_labels(obj: Object, selector: str) -> bool:
    """Whether an object's labels are what a selector asks for."""
    labels = obj["metadata"].get("labels") or {}
    return all(_holds(labels, part.strip()) for part in _REQUIREMENT.findall(selector))


def _holds(labels: Mapping[str, str], part: str) -> bool:
    if match := re.fullmatch(r"(\S+) (in|notin) \(([^)]*)\)", part):
        inside = labels.get(match[1]) in [value.strip() for value in match[3].split(",")]
        return inside == (match[2] == "in")
    if "!=" in part:
        key, _, value = part.partition("!=")
        return labels.get(key) != value
    if "=" in part:
        key, _, value = part.replace("==", "=").partition("=")
        return labels.get(key) == value
    return part[1:] not in labels if part.startswith("!") else part in labels


def matches_fields(obj: Object, selector: str) -> bool:
    """Whether an object's fields are what a selector asks for."""
    for part in filter(None, selector.split(",")):
        path, _, value = part.replace("==", "=").partition("=")
        negated = path.endswith("!")
        found: Any = obj
        for name in path.removesuffix("!").split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if (str(found or "") == value) == negated:
            return False
    return True


def _typed(kind: Kind, obj: Object) -> Object:
    return {"kind": kind.name, "apiVersion": kind.api_version, **obj}


# --- the process ---------------------------------------------------------------------------------


def run(settings_path: str) -> int:
    """Be the API server until told to end."""
    settings = json.loads(Path(settings_path).read_text())
    knobs = Knobs()
    knobs.pass_phase("apiserver")
    etcd = Etcd(timeout_s=3)
    while not _answers(etcd):
        time.sleep(0.2)
    server = ApiServer(settings, knobs)
    _make_namespaces(server.store)
    controllers = NodeControllers(server.store, knobs, settings["node"])
    threading.Thread(target=controllers.run, daemon=True).start()
    event("apiserver.listening")
    server.serve_forever(poll_interval=5)
    return 0


def _answers(etcd: Etcd) -> bool:
    try:
        etcd.get("/rke2/health")
    except EtcdError:
        return False
    return True


def _make_namespaces(store: Store) -> None:
    for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
        try:
            store.create(
                "namespaces", "", {"metadata": {"name": name}, "status": {"phase": "Active"}}
            )
        except (Conflict, EtcdError):
            continue


def kubeconfig(server: str, ca: Path, crt: Path, name: str = "default") -> str:
    """A kubeconfig with everything in it."""
    encoded = {
        key: b64encode(path.read_bytes()).decode()
        for key, path in (("ca", ca), ("crt", crt), ("key", crt.with_suffix(".key")))
    }
    return (
        "apiVersion: v1\nclusters:\n- cluster:\n"
        f"    certificate-authority-data: {encoded['ca']}\n    server: {server}\n  name: {name}\n"
        f"contexts:\n- context:\n    cluster: {name}\n    user: {name}\n  name: {name}\n"
        f"current-context: {name}\nkind: Config\npreferences: {{}}\nusers:\n- name: {name}\n"
        f"  user:\n    client-certificate-data: {encoded['crt']}\n"
        f"    client-key-data: {encoded['key']}\n"
    )
