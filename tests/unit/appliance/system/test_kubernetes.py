"""Answers of the API server: read as they are, or refused; nothing in between."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import KubernetesMalformed
from appliance.system.kubernetes import Lease, Node, Pod
from appliance.system.kubernetestexts import (
    parse_failing_checks,
    parse_lease,
    parse_node,
    parse_nodes,
    parse_pod,
    parse_pods,
    write_lease,
)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
_KEYS = ("metadata", "spec", "status")
_INNER = (
    "name",
    "uid",
    "resourceVersion",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "taints",
    "conditions",
    "addresses",
    "unschedulable",
    "namespace",
    "ownerReferences",
    "phase",
    "holderIdentity",
    "leaseDurationSeconds",
    "renewTime",
)


def document(**metadata: Any) -> dict[str, Any]:
    given = {"name": "a", "uid": "u", "resourceVersion": "7", **metadata}
    return {"metadata": {key: value for key, value in given.items() if value is not None}}


def test_a_node_needs_no_more_than_what_tells_it_from_others() -> None:
    assert parse_node(document()) == Node("a", "u", "7", {}, {}, (), (), None)


@pytest.mark.parametrize("missing", ["name", "uid", "resourceVersion"])
@pytest.mark.parametrize("value", [None, "", 7, ["x"]])
def test_a_node_without_what_tells_it_from_others_is_none(missing: str, value: object) -> None:
    with pytest.raises(KubernetesMalformed):
        parse_node(document(**{missing: value}))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-21T07:00:00Z", 1795244400.0),
        ("2026-11-21T08:00:00+01:00", 1795244400.0),
        ("2026-11-21T07:00:00.500000Z", 1795244400.5),
        ("2026-11-21T07:00:00", None),
        ("yesterday", None),
        ("", None),
        (7, None),
    ],
)
def test_a_time_is_read_with_its_zone_or_not_at_all(text: object, seconds: float | None) -> None:
    assert parse_node(document(creationTimestamp=text)).created_s == seconds


def test_what_is_no_text_is_no_label() -> None:
    node = parse_node(document(labels={"a": "b", "c": 7, "d": None}, annotations=["x"]))
    assert (node.labels, node.annotations) == ({"a": "b"}, {})


@given(st.dictionaries(st.sampled_from(_KEYS), st.dictionaries(st.sampled_from(_INNER), _JSON)))
def test_whatever_comes_is_a_node_or_malformed(given: dict[str, Any]) -> None:
    with suppress(KubernetesMalformed):
        node = parse_node(given)
        assert node.name
        assert not node.is_true("Nothing")


@given(_JSON)
def test_whatever_comes_is_a_list_of_nodes_or_malformed(given: object) -> None:
    with pytest.raises(KubernetesMalformed):
        parse_nodes(given)


def test_a_list_may_be_empty_and_have_a_next_page() -> None:
    assert parse_nodes({"kind": "NodeList"}) == ((), "")
    assert parse_nodes({"kind": "NodeList", "items": None, "metadata": {}}) == ((), "")
    page = {"kind": "NodeList", "items": [document()], "metadata": {"continue": "x"}}
    assert parse_nodes(page) == ((parse_node(document()),), "x")


def test_one_item_that_is_no_node_spoils_the_list() -> None:
    with pytest.raises(KubernetesMalformed):
        parse_nodes({"kind": "NodeList", "items": [document(), None]})


@given(st.text())
def test_failing_checks_are_found_in_any_text(text: str) -> None:
    assert all(parse_failing_checks(text))
    assert parse_failing_checks(f"{text}\n[-]etcd failed: reason withheld")[-1] == "etcd"


# --- what a node tells of where it is -------------------------------------------------------------


def test_a_node_tells_its_addresses_inside_the_cluster_and_whether_it_is_cordoned() -> None:
    told = {
        **document(),
        "spec": {"unschedulable": True},
        "status": {
            "addresses": [
                {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "InternalIP", "address": "172.20.0.101"},
                {"type": "InternalIP", "address": "fd00::1"},
                {"type": "InternalIP"},
            ]
        },
    }
    node = parse_node(told)
    assert node.is_cordoned
    assert node.addresses == ("172.20.0.101", "fd00::1")
    assert not parse_node({**document(), "spec": {"unschedulable": "true"}}).is_cordoned


# --- pods and leases ------------------------------------------------------------------------------


def test_a_pod_tells_who_would_make_it_anew() -> None:
    owners = [{"kind": "A"}, {"kind": "DaemonSet", "controller": True}]
    metadata = {"namespace": "n", "name": "p", "uid": "u", "ownerReferences": owners}
    assert parse_pod({"metadata": metadata, "status": {"phase": "Running"}}) == Pod(
        "n", "p", "u", "Running", "DaemonSet"
    )
    mirror = {**metadata, "annotations": {"kubernetes.io/config.mirror": "x"}}
    assert parse_pod({"metadata": mirror}).is_mirror
    assert parse_pod({"metadata": {**metadata, "deletionTimestamp": "x"}}).is_going


@given(st.dictionaries(st.sampled_from(_KEYS), st.dictionaries(st.sampled_from(_INNER), _JSON)))
def test_whatever_comes_is_a_pod_or_a_lease_or_malformed(given: dict[str, Any]) -> None:
    with suppress(KubernetesMalformed):
        assert parse_pod(given).name
    with suppress(KubernetesMalformed):
        assert parse_lease(given).name


@given(_JSON)
def test_whatever_comes_is_a_list_of_pods_or_malformed(given: object) -> None:
    with pytest.raises(KubernetesMalformed):
        parse_pods(given)


@given(st.floats(0, 4e9), st.integers(1, 10**6))
def test_a_lease_is_read_as_it_was_written(renewed_s: float, duration_s: int) -> None:
    lease = Lease("kube-system", "turn", "m1", duration_s, round(renewed_s, 6), "u", "7")
    read = parse_lease(write_lease(lease))
    assert read.renewed_s == pytest.approx(lease.renewed_s, abs=1e-5)
    assert replace(read, renewed_s=lease.renewed_s) == lease


def test_a_lease_that_is_yet_to_be_made_says_nothing_of_an_earlier_one() -> None:
    assert write_lease(Lease("n", "l", "", 20, None)) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": "n", "name": "l"},
        "spec": {"holderIdentity": "", "leaseDurationSeconds": 20},
    }
