"""Answers of the API server: read as they are, or refused; nothing in between."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import KubernetesMalformed
from appliance.system.kubernetes import Node, parse_failing_checks, parse_node, parse_nodes

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
