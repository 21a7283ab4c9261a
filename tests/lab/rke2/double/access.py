"""Who may do what: the Node authorizer, RBAC, and the admission plugin NodeRestriction.

Source: kubernetes, plugin/pkg/auth/authorizer/node/node_authorizer.go and
plugin/pkg/admission/noderestriction/admission.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .kinds import ApiError, Target
from .store import Object, Store

MIRROR = "kubernetes.io/config.mirror"
NODE_LEASES = "kube-node-lease"
_RBAC = "rbac.authorization.k8s.io"
_WRITES = ("create", "update", "patch", "delete")


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        user: By certificate.
        groups: Likewise.
        method: Of HTTP.
        target: What the path names.
        fields: The field selector, one value for each path that has to be equal.
    """

    user: str
    groups: tuple[str, ...]
    method: str
    target: Target
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def verb(self) -> str:
        """What RBAC calls it."""
        single = bool(self.target.name)
        return {
            "GET": "get" if single else "list",
            "HEAD": "get" if single else "list",
            "POST": "create",
            "PUT": "update",
            "PATCH": "patch",
            "DELETE": "delete" if single else "deletecollection",
        }.get(self.method, self.method.lower())

    @property
    def node(self) -> str:
        """The node whose kubelet asks; empty if it is none."""
        prefix = "system:node:"
        if "system:nodes" in self.groups and self.user.startswith(prefix):
            return self.user.removeprefix(prefix)
        return ""

    @property
    def name(self) -> str:
        """The one object that is meant, by path or by selector."""
        return self.target.name or self.fields.get("metadata.name", "")


def authorize(asked: Asked, store: Store) -> None:
    """Let a request pass that one of the authorizers allows.

    Raises:
        ApiError: 403 if none does.
    """
    if "system:masters" in asked.groups:
        return
    if asked.node and _node_may(asked, store):
        return
    if any(_covers(rule, asked) for rule in _rules_for(asked, store)):
        return
    target = asked.target
    plural, _, group = target.kind.resource.partition(".")
    resource = f"{plural}/{target.subresource}" if target.subresource else plural
    where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
    named = f'"{target.name}" ' if target.name else ""
    raise ApiError(
        403,
        "Forbidden",
        f'{target.kind.resource} {named}is forbidden: User "{asked.user}" cannot {asked.verb} '
        f'resource "{resource}" in API group "{group}" {where}',
    )


def _node_may(asked: Asked, store: Store) -> bool:
    """What the Node authorizer allows a kubelet."""
    verb, target, node = asked.verb, asked.target, asked.node
    resource, sub = target.kind.resource, target.subresource
    if resource == "nodes":
        if sub:
            return sub == "status" and verb in ("update", "patch")
        return verb in ("create", "update", "patch") or (
            verb in ("get", "list") and asked.name == node
        )
    if resource == "pods":
        return _node_may_pods(asked, store)
    if resource in ("leases.coordination.k8s.io", "csinodes.storage.k8s.io"):
        is_lease = resource.startswith("leases")
        if is_lease and target.namespace != NODE_LEASES:
            return False
        return verb == "create" or (verb in ("get", *_WRITES) and target.name == node)
    if resource in ("secrets", "configmaps"):
        return verb in ("get", "list") and _uses(
            store, node, target.namespace, resource, asked.name
        )
    if resource == "events":
        return verb in ("create", "update", "patch")
    return resource == "services" and verb in ("get", "list")


def _node_may_pods(asked: Asked, store: Store) -> bool:
    verb, target = asked.verb, asked.target
    if target.subresource == "status":
        return verb in ("update", "patch")
    if target.subresource == "eviction":
        return verb == "create"
    if target.subresource:
        return False
    if verb in ("create", "delete"):
        return True
    if verb == "list":
        return asked.fields.get("spec.nodeName") == asked.node
    return verb == "get" and _node_of(store, target.namespace, target.name) == asked.node


def _node_of(store: Store, namespace: str, name: str) -> str:
    pod = store.find("pods", namespace, name) or {}
    return str(pod.get("spec", {}).get("nodeName", ""))


def _uses(store: Store, node: str, namespace: str, resource: str, name: str) -> bool:
    """Whether a pod of the node mounts this secret or config map, or has its environment of it."""
    words = {"secrets": ("secret", "secretName"), "configmaps": ("configMap", "name")}[resource]
    for pod in store.all("pods", namespace) if name else []:
        if pod.get("spec", {}).get("nodeName") != node:
            continue
        for volume in pod["spec"].get("volumes") or []:
            if (volume.get(words[0]) or {}).get(words[1]) == name:
                return True
    return False


# --- RBAC ----------------------------------------------------------------------------------------


def _rules_for(asked: Asked, store: Store) -> Iterable[Object]:
    """Every rule that is bound to who asks, for the namespace that is asked for."""
    for binding in store.all(f"clusterrolebindings.{_RBAC}"):
        if _binds(binding.get("subjects") or [], asked):
            yield from _rules_of(store, binding["roleRef"], "")
    namespace = asked.target.namespace
    for binding in store.all(f"rolebindings.{_RBAC}", namespace) if namespace else []:
        if _binds(binding.get("subjects") or [], asked):
            yield from _rules_of(store, binding["roleRef"], namespace)


def _binds(subjects: Sequence[Mapping[str, str]], asked: Asked) -> bool:
    everybody = (*asked.groups, "system:authenticated")
    return any(
        (subject["kind"] == "Group" and subject["name"] in everybody)
        or (subject["kind"] == "User" and subject["name"] == asked.user)
        or (
            subject["kind"] == "ServiceAccount"
            and asked.user == f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
        )
        for subject in subjects
    )


def _rules_of(store: Store, reference: Mapping[str, str], namespace: str) -> list[Object]:
    if reference["kind"] == "ClusterRole":
        role = store.find(f"clusterroles.{_RBAC}", "", reference["name"])
    else:
        role = store.find(f"roles.{_RBAC}", namespace, reference["name"])
    return list((role or {}).get("rules") or [])


def _covers(rule: Mapping[str, Any], asked: Asked) -> bool:
    target = asked.target
    plural, _, group = target.kind.resource.partition(".")
    if target.subresource:
        plural = f"{plural}/{target.subresource}"

    def has(key: str, value: str) -> bool:
        return value in rule.get(key, []) or "*" in rule.get(key, [])

    names = rule.get("resourceNames") or []
    return (
        has("verbs", asked.verb)
        and has("apiGroups", group)
        and has("resources", plural)
        and (not names or (asked.verb != "create" and asked.name in names))
    )


# --- NodeRestriction -----------------------------------------------------------------------------


def restrict_node(asked: Asked, old: Object | None, new: Object | None) -> None:
    """Refuse what a kubelet may not do although some authorizer lets it.

    Args:
        asked: What is asked for.
        old: The object as it is; None if it is to be made.
        new: The object as it is to be; None if it is to go.

    Raises:
        ApiError: 403.
    """
    node, target = asked.node, asked.target
    if not node or asked.verb not in _WRITES:
        return
    resource = target.kind.resource
    name = target.name or str(((new or {}).get("metadata") or {}).get("name", ""))
    if resource == "nodes":
        if name != node:
            _forbid(asked, f'node "{node}" is not allowed to modify node "{name}"')
        if old is not None and new is not None and _taints(old) != _taints(new):
            _forbid(asked, f'node "{node}" is not allowed to modify taints')
    elif resource == "pods":
        _restrict_pod(asked, old, new)
    elif resource in ("leases.coordination.k8s.io", "csinodes.storage.k8s.io") and name != node:
        _forbid(asked, "can only access node lease with the same name as the requesting node")


def _restrict_pod(asked: Asked, old: Object | None, new: Object | None) -> None:
    node, kind = asked.node, asked.target.subresource
    if asked.verb == "create" and not kind:
        metadata = (new or {}).get("metadata") or {}
        if MIRROR not in (metadata.get("annotations") or {}):
            _forbid(
                asked,
                f'pod does not have "{MIRROR}" annotation, node "{node}" can only create '
                "mirror pods",
            )
        if (new or {}).get("spec", {}).get("nodeName") != node:
            _forbid(asked, f'node "{node}" can only create pods with spec.nodeName set to itself')
        return
    bound = str((old or {}).get("spec", {}).get("nodeName", ""))
    if bound != node:
        words = {"eviction": "evict pods", "status": "update pod status for pods"}
        done = words.get(kind, "delete pods")
        _forbid(asked, f'node "{node}" can only {done} with spec.nodeName set to itself')


def _taints(node: Object) -> list[Any]:
    return list(node.get("spec", {}).get("taints") or [])


def _forbid(asked: Asked, because: str) -> None:
    target = asked.target
    named = f'"{target.name}" ' if target.name else ""
    raise ApiError(403, "Forbidden", f"{target.kind.resource} {named}is forbidden: {because}")
