"""What RKE2 keeps about snapshots of etcd, as the API server writes it."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.errors import KubernetesMalformed
from appliance.system.kubernetes import EtcdSnapshot
from appliance.system.kubernetestexts import parse_node, parse_snapshots


def document(**status: Any) -> dict[str, Any]:
    """Return one as RKE2 writes it."""
    return {
        "metadata": {"name": "local-on-demand-master0-1-abcdef"},
        "spec": {
            "snapshotName": "on-demand-master0-1",
            "nodeName": "master0",
            "location": "file:///var/lib/rancher/rke2/server/db/snapshots/on-demand-master0-1",
        },
        "status": {
            "size": "5492768",
            "creationTime": "2026-11-21T07:00:00Z",
            "readyToUse": True,
            **status,
        },
    }


def parsed(*items: object) -> tuple[EtcdSnapshot, ...]:
    found, _ = parse_snapshots({"kind": "ETCDSnapshotFileList", "items": list(items)})
    return found


def test_a_snapshot_is_read() -> None:
    (found,) = parsed(document())
    assert found == EtcdSnapshot(
        "local-on-demand-master0-1-abcdef",
        "on-demand-master0-1",
        "master0",
        "file:///var/lib/rancher/rke2/server/db/snapshots/on-demand-master0-1",
        1795244400.0,
        5492768,
        is_good=True,
    )


def test_one_that_failed_says_why() -> None:
    (found,) = parsed(document(readyToUse=False, error={"message": "no such bucket"}))
    assert (found.is_good, found.error) == (False, "no such bucket")


@pytest.mark.parametrize(
    ("size", "meant"),
    [(7, 7), ("7", 7), ("7k", 7000), ("7Mi", 7 * 1024**2), ("2G", 2 * 10**9), ("", 0), (None, 0)],
)
def test_a_size_may_have_a_unit(size: object, meant: int) -> None:
    assert parsed(document(size=size))[0].size_bytes == meant


@pytest.mark.parametrize(
    "wrong", [{}, {"metadata": {"name": "x"}}, {"spec": {"snapshotName": "x"}}]
)
def test_what_is_no_snapshot_is_malformed(wrong: object) -> None:
    with pytest.raises(KubernetesMalformed):
        parsed(wrong)


def test_a_node_tells_its_version() -> None:
    body = {
        "metadata": {"name": "n", "uid": "u", "resourceVersion": "1"},
        "status": {"nodeInfo": {"kubeletVersion": "v1.36.3+rke2r1"}},
    }
    assert parse_node(body).version == "v1.36.3+rke2r1"
    assert parse_node({**body, "status": {}}).version == ""
