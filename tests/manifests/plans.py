"""The upgrade plans of clusters of every shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import yaml

from appliance.system.kubernetes import Node, Taint
from appliance.values import HostAndPort
from roles.common.upgrade import plan_upgrade
from roles.common.upgrading import TEMPLATE, render_plans
from tests.contexts import SERVICES
from tests.fakes import make_node
from tests.manifests.rendered import Document

_SERVER = {"node-role.kubernetes.io/control-plane": "true", "node-role.kubernetes.io/etcd": "true"}
_STORAGE = "node.longhorn.io/create-default-disk"
_TAINTED = (Taint("CriticalAddonsOnly", "true", "NoExecute"),)
_REGISTRIES = (None, HostAndPort("registry.example.org", 5000), HostAndPort("registry.example.org"))
_RELEASES = (("v1.35.7+rke2r1", "v1.36.3+rke2r1"), ("v1.36.3+rke2r1", "v1.36.4-rc1+rke2r1"))


def shape(
    *,
    masters: int = 1,
    workers: int = 0,
    storage: int = 0,
    version: str = "v1.35.7+rke2r1",
    ready: str = "True",
) -> tuple[Node, ...]:
    """Return the nodes of a cluster that is well."""
    servers = (
        make_node(f"master{number}", labels=_SERVER, taints=_TAINTED, voter="True", ready=ready)
        for number in range(masters)
    )
    of_workers = (make_node(f"worker{number}", ready=ready) for number in range(workers))
    of_storage = (
        make_node(
            f"storage{number}",
            labels={_STORAGE: "true"},
            taints=(Taint(_STORAGE, "true", "NoSchedule"),),
            ready=ready,
        )
        for number in range(storage)
    )
    return tuple(replace(one, version=version) for one in (*servers, *of_workers, *of_storage))


def plan_documents() -> Iterator[Document]:
    """Yield the documents of the plans of every shape, registry and kind of release."""
    shapes = product((1, 2, 3, 5), (0, 1, 3), (0, 1, 2), _REGISTRIES, _RELEASES)
    for masters, workers, storage, registry, (old, new) in shapes:
        nodes = shape(masters=masters, workers=workers, storage=storage, version=old)
        model = plan_upgrade(nodes, new, registry).model
        assert model is not None
        name = f"{masters}+{workers}+{storage} to {new} from {registry}"
        for content in yaml.safe_load_all(render_plans(SERVICES["rke2"].folders, model)):
            yield Document(name, TEMPLATE, content)
