"""The kinds of objects that are served, and what the paths of the API name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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
            "resourcequotas": "ResourceQuota",
            "limitranges": "LimitRange",
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
        {
            "storageclasses": "StorageClass",
            "volumeattachments": "VolumeAttachment",
            "csinodes": "CSINode",
            "csidrivers": "CSIDriver",
        },
        {},
    ),
    **_kinds(
        "rbac.authorization.k8s.io",
        "v1",
        {"clusterroles": "ClusterRole", "clusterrolebindings": "ClusterRoleBinding"},
        {"roles": "Role", "rolebindings": "RoleBinding"},
    ),
    **_kinds(
        "admissionregistration.k8s.io",
        "v1",
        {
            "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
            "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
        },
        {},
    ),
    **_kinds(
        "networking.k8s.io",
        "v1",
        {"ingressclasses": "IngressClass"},
        {"ingresses": "Ingress", "networkpolicies": "NetworkPolicy"},
    ),
    **_kinds("scheduling.k8s.io", "v1", {"priorityclasses": "PriorityClass"}, {}),
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

    def __init__(
        self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        self.status, self.reason, self.details = status, reason, dict(details or {})
        super().__init__(message)


@dataclass(frozen=True)
class Target:
    """What a path names."""

    kind: Kind
    namespace: str
    name: str
    subresource: str


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
