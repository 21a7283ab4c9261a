"""The API server over HTTPS, with client certificates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from appliance.errors import KubernetesMalformed, KubernetesRefused
from appliance.system.files import Files
from appliance.system.kubernetes import Access, EtcdSnapshot, Health, Lease, Node, Pod
from appliance.system.kubernetescalls import ApiCalls, error_of
from appliance.system.kubernetestexts import (
    parse_failing_checks,
    parse_lease,
    parse_node,
    parse_nodes,
    parse_pods,
    parse_snapshots,
    write_deletion,
    write_eviction,
    write_lease,
)

PAGE_SIZE = 200
_MOST_PAGES = 1000
_EXPIRED = 410
_MERGE_PATCH = "application/merge-patch+json"
_NODES, _PODS = "/api/v1/nodes", "/api/v1/pods"
_SNAPSHOTS = "/apis/k3s.cattle.io/v1/etcdsnapshotfiles"

T = TypeVar("T")


class HttpKubernetes:
    """The API server over HTTPS: a method is a request, or one a page of a list."""

    def __init__(self, files: Files) -> None:
        """Find certificates through `files`."""
        self._calls = ApiCalls(files)

    def health(self, access: Access) -> Health:
        """Ask whether it is ready to serve; see `Kubernetes.health`."""
        status, content = self._calls.ask(access, "GET", "/readyz")
        if status == 200:
            return Health(is_ok=True)
        failing = parse_failing_checks(content.decode("utf-8", errors="replace"))
        if status == 500 and failing:
            return Health(is_ok=False, failing=failing)
        raise error_of("GET", "/readyz", status, content)

    # ---- nodes

    def node(self, access: Access, name: str) -> Node | None:
        """Return a node; see `Kubernetes.node`."""
        document = self._calls.find(access, "GET", _path(_NODES, name))
        return parse_node(document) if document is not None else None

    def nodes(self, access: Access) -> tuple[Node, ...]:
        """Return all nodes; see `Kubernetes.nodes`."""
        return self._list(access, _NODES, {}, parse_nodes)

    def cordon(self, access: Access, name: str) -> None:
        """Let no new pods come to a node; see `Kubernetes.cordon`."""
        patch = {"spec": {"unschedulable": True}}
        self._calls.document(access, "PATCH", _path(_NODES, name), patch, kind=_MERGE_PATCH)

    def delete_node(self, access: Access, node: Node) -> bool:
        """Delete a node that is as it was; see `Kubernetes.delete_node`."""
        options = write_deletion(node.uid, node.resource_version)
        return self._calls.find(access, "DELETE", _path(_NODES, node.name), options) is not None

    # ---- pods

    def pods(self, access: Access, node: str) -> tuple[Pod, ...]:
        """Return all pods of a node; see `Kubernetes.pods`."""
        # A kubelet may list its own pods only, and so it has to ask for those.
        return self._list(access, _PODS, {"fieldSelector": f"spec.nodeName={node}"}, parse_pods)

    def evict(self, access: Access, pod: Pod) -> bool:
        """Ask for a pod to end; see `Kubernetes.evict`."""
        path = _path("/api/v1/namespaces", pod.namespace, "pods", pod.name, "eviction")
        return self._calls.find(access, "POST", path, write_eviction(pod)) is not None

    # ---- leases

    def lease(self, access: Access, namespace: str, name: str) -> Lease | None:
        """Return a lease; see `Kubernetes.lease`."""
        document = self._calls.find(access, "GET", _lease_path(namespace, name))
        return parse_lease(document) if document is not None else None

    def put_lease(self, access: Access, lease: Lease) -> Lease:
        """Make a lease, or change one that is as it was; see `Kubernetes.put_lease`."""
        is_new = not lease.resource_version
        method, path = ("POST", ()) if is_new else ("PUT", (lease.name,))
        where = _lease_path(lease.namespace, *path)
        return parse_lease(self._calls.document(access, method, where, write_lease(lease)))

    def delete_lease(self, access: Access, lease: Lease) -> bool:
        """Delete a lease that is as it was; see `Kubernetes.delete_lease`."""
        options = write_deletion(lease.uid, lease.resource_version)
        path = _lease_path(lease.namespace, lease.name)
        return self._calls.find(access, "DELETE", path, options) is not None

    # ---- snapshots

    def etcd_snapshots(self, access: Access) -> tuple[EtcdSnapshot, ...]:
        """Return what RKE2 knows of snapshots; see `Kubernetes.etcd_snapshots`."""
        return self._list(access, _SNAPSHOTS, {}, parse_snapshots)

    # ---- lists

    def _list(
        self,
        access: Access,
        path: str,
        query: dict[str, str],
        parse: Callable[[object], tuple[tuple[T, ...], str]],
    ) -> tuple[T, ...]:
        try:
            return self._pages(access, path, query, parse)
        except KubernetesRefused as expired:
            # The list changed so much since its first page that its rest can not be told any more.
            if expired.status != _EXPIRED:
                raise
        return self._pages(access, path, query, parse)

    def _pages(
        self,
        access: Access,
        path: str,
        query: dict[str, str],
        parse: Callable[[object], tuple[tuple[T, ...], str]],
    ) -> tuple[T, ...]:
        found: list[T] = []
        more: dict[str, Any] = {}
        for _ in range(_MOST_PAGES):
            asked = urlencode({**query, "limit": str(PAGE_SIZE), **more})
            page, token = parse(self._calls.document(access, "GET", f"{path}?{asked}"))
            found += page
            if not token:
                return tuple(found)
            more = {"continue": token}
        raise KubernetesMalformed(f"Kubernetes GET {path}: the list has no end")


def _path(*parts: str) -> str:
    """Join the parts of a path; each but the first is one part, whatever is in it."""
    first, *others = parts
    return "/".join([first, *(quote(part, safe="") for part in others)])


def _lease_path(namespace: str, *name: str) -> str:
    return _path("/apis/coordination.k8s.io/v1/namespaces", namespace, "leases", *name)
