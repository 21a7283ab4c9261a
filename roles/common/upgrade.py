"""Decides whether a cluster may go to another release, and what its upgrade plans say: purely.

What carries the plans out, the system-upgrade-controller, looks at neither the order of releases
nor etcd's majority.
Source: rke2-docs, docs/upgrades/automated.md; rancher/system-upgrade-controller,
pkg/apis/upgrade.cattle.io/v1/types.go; Kubernetes' version skew policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from appliance.errors import UpgradeRefused
from appliance.system.kubernetes import Node
from appliance.values import HostAndPort
from roles.common.etcdmembers import CONTROL_PLANE_LABEL, find_members
from roles.common.registries import image_name
from roles.common.release import Release, parse_release
from roles.common.rke2config import MASTER_TAINT, STORAGE_LABEL, STORAGE_TAINT

_IMAGE = "rancher/rke2-upgrade"
# A kubelet may be so many minor versions older than the API server it speaks to.
_KUBELET_SKEW = 3
# Taints that come and go with a node's state; whoever upgrades it waits for their end.
_OF_STATE = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
_OWN_TAINTS = (MASTER_TAINT, STORAGE_TAINT)


@dataclass(frozen=True)
class UpgradeModel:
    """Model of the template of the plans.

    Attributes:
        version: The release.
        tag: The tag of its images.
        image: What upgrades a node, without the tag, which the controller adds.
        tolerations: Keys of the taints that any node has.
        servers: The names of the servers, in the order they were listed.
        agents: The names of all other nodes; `storage` those that hold volumes among them.
    """

    version: str
    tag: str
    image: str
    tolerations: tuple[str, ...]
    servers: tuple[str, ...]
    agents: tuple[str, ...]
    storage: tuple[str, ...]


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade comes to.

    Attributes:
        model: None where every node has the release already.
        doubts: What a person should know before it is begun.
    """

    model: UpgradeModel | None
    doubts: tuple[str, ...]


def plan_upgrade(
    nodes: Sequence[Node], wanted: str, registry: HostAndPort | None, *, can_fetch: bool = True
) -> Upgrade:
    """Decide on an upgrade.

    Args:
        nodes: All of the cluster.
        wanted: The release to go to.
        registry: What is put in front of RKE2's own images.
        can_fetch: Whether nodes have a way to registries.

    Raises:
        UpgradeRefused: It must not be done, for every reason there is.
    """
    target = parse_release(wanted)
    if target is None:
        raise UpgradeRefused(
            [f"{wanted!r} is no release of RKE2; expected one such as v1.35.7+rke2r1"]
        )
    found = {node.name: parse_release(node.version) for node in nodes}
    reasons = [*_unreadable(nodes), *_order(nodes, found, target), *_majority(nodes)]
    if reasons:
        raise UpgradeRefused(reasons)
    if all(release == target for release in found.values()):
        return Upgrade(None, ())
    servers = tuple(node.name for node in nodes if _runs_control_plane(node))
    model = UpgradeModel(
        version=str(target),
        tag=target.tag,
        image=image_name(_IMAGE, registry),
        tolerations=tolerations_of(nodes),
        servers=servers,
        agents=tuple(node.name for node in nodes if not _runs_control_plane(node)),
        storage=tuple(node.name for node in nodes if _is_storage(node)),
    )
    unfetched = () if can_fetch else (_needs_archives(model),)
    return Upgrade(model, (*unfetched, *_doubts(nodes, model)))


def _runs_control_plane(node: Node) -> bool:
    """Say whether a node runs the control plane."""
    return CONTROL_PLANE_LABEL in node.labels


def _is_storage(node: Node) -> bool:
    key, _, value = STORAGE_LABEL.partition("=")
    return node.labels.get(key) == value and not _runs_control_plane(node)


def tolerations_of(nodes: Iterable[Node]) -> tuple[str, ...]:
    """List the taints that jobs have to put up with: our own, and what nodes have for good."""
    own = {taint.partition("=")[0] for taint in _OWN_TAINTS}
    lasting = {
        taint.key for node in nodes for taint in node.taints if not taint.key.startswith(_OF_STATE)
    }
    return tuple(sorted(own | lasting))


# ---- what is refused


def _unreadable(nodes: Sequence[Node]) -> Iterator[str]:
    if not any(_runs_control_plane(node) for node in nodes):
        yield "no node of the cluster is a server"
    for node in nodes:
        if parse_release(node.version) is None:
            yield f"{node.name} runs {node.version or 'a version it does not tell'}, not RKE2"


def _order(
    nodes: Sequence[Node], found: dict[str, Release | None], target: Release
) -> Iterator[str]:
    for node in nodes:
        release = found[node.name]
        if release is None:
            continue
        if target < release:
            yield f"{node.name} runs {release}: {target} is a downgrade, which RKE2 can not do"
        elif target.key[0] != release.key[0]:
            yield f"{node.name} runs {release}: {target} is of another major version"
        elif _runs_control_plane(node) and target.minor > release.minor + 1:
            yield (
                f"{node.name} runs {release}: {target} leaves out v1.{release.minor + 1}; go there"
                " first, minor version by minor version"
            )
        elif target.minor > release.minor + _KUBELET_SKEW:
            yield (
                f"{node.name} runs {release}: servers of {target} would not speak to it any more;"
                " upgrade it first"
            )


def _majority(nodes: Sequence[Node]) -> Iterator[str]:
    servers = [node for node in nodes if _runs_control_plane(node)]
    healthy = {node.name for node in find_members(nodes).healthy}
    if len(servers) < 2:
        return
    for node in servers:
        if node.name not in healthy:
            yield (
                f"{node.name} is not Ready, or no voter in etcd: with another server down for its"
                " upgrade etcd could lose its majority"
            )


# ---- what a person should know


def _needs_archives(model: UpgradeModel) -> str:
    return (
        "there is no way out and no registry for RKE2's images: before the plans are applied every"
        f" node needs archives of {model.image}:{model.tag}, of the image of kubectl that the"
        f" controller's settings name, and of RKE2 {model.version} with the network plug-in;"
        " the node that the controller runs on needs its image, too"
    )


def _doubts(nodes: Sequence[Node], model: UpgradeModel) -> Iterator[str]:
    if len(model.servers) == 1:
        yield "there is one server: the API is away while it is upgraded"
    if len(model.servers) == 2:
        yield "there are two servers: etcd does not answer while either is upgraded"
    if len(model.agents) - len(model.storage) == 1:
        yield "there is one worker: what it runs has nowhere to go while it is upgraded"
    for node in nodes:
        if not node.is_ready:
            yield f"{node.name} is not Ready: the plan waits there until it is"
        if node.is_cordoned:
            yield f"{node.name} is cordoned, and will not be any more when it is upgraded"
