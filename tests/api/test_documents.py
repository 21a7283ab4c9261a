"""Every document that masters have RKE2 deploy, given to a real API server."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.api.apiserver import ApiServer, read_definitions, whole_definition
from tests.manifests.__main__ import OWN
from tests.manifests.plans import plan_documents
from tests.manifests.rendered import combinations, documents

pytestmark = pytest.mark.api

# Kinds that belong to the cluster; short definitions do not say so.
CLUSTER_WIDE = {"CiliumLoadBalancerIPPool"}


@pytest.fixture(scope="module", autouse=True)
def kinds(api: ApiServer) -> None:
    """Have the kinds of custom resources: the project's own short ones, else ONEKE_CRDS."""
    folder = Path(os.environ.get("ONEKE_CRDS") or OWN)
    for definition in read_definitions(folder):
        kind = definition["spec"]["names"]["kind"]
        api.define(whole_definition(definition, namespaced=kind not in CLUSTER_WIDE))


def distinct() -> dict[str, Mapping[str, Any]]:
    """Return every document once, by a text that is its own."""
    return {
        json.dumps(one.content, sort_keys=True): one.content
        for one in chain(documents(combinations()), plan_documents())
        if one.content
    }


def missing_in(stored: object, sent: object, place: str = "") -> Iterator[str]:
    """Yield the places where what is stored lacks what was sent: fields that no kind has."""
    if isinstance(sent, Mapping) and isinstance(stored, Mapping):
        for key, value in sent.items():
            if key != "apiVersion":
                yield from missing_in(stored.get(key), value, f"{place}.{key}")
    elif isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        for number, value in enumerate(sent):
            yield from missing_in(stored[number], value, f"{place}[{number}]")
    elif sent != stored and (sent or stored):
        yield f"{place}: sent {sent!r}, stored {stored!r}"


def complaints(api: ApiServer, content: Mapping[str, Any]) -> list[str]:
    """Give a document to the server, and say what is wrong with it."""
    reply = api.put(content)
    if reply.status not in (200, 201):
        return [f"{reply.status} {reply.message}"]
    return list(missing_in(reply.body, content))


def test_a_real_server_takes_and_keeps_every_document(api: ApiServer) -> None:
    taken: Counter[str] = Counter()
    # The system-upgrade-controller brings its own.
    brought = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "system-upgrade"}}
    wrong = complaints(api, brought)
    for content in distinct().values():
        name = f"{content['kind']} {content['metadata']['name']}"
        found = complaints(api, content)
        wrong += [f"{name}: {one}" for one in found]
        taken[content["kind"]] += not found
    print(f"taken: {dict(sorted(taken.items()))}")
    assert wrong == []


@pytest.mark.parametrize(
    "document",
    [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "odd", "lables": {"a": "b"}},
        },
        {
            "apiVersion": "helm.cattle.io/v1",
            "kind": "HelmChart",
            "metadata": {"name": "odd", "namespace": "kube-system"},
            "spec": {"chart": ["no text"], "targetNamespace": "odd", "valuesContent": ""},
        },
        {
            "apiVersion": "helm.cattle.io/v1",
            "kind": "HelmChart",
            "metadata": {"name": "odd", "namespace": "kube-system"},
            "spec": {"chart": "odd", "targetNamespace": "odd", "valuesContent": "", "vers": "1"},
        },
        {
            "apiVersion": "helm.cattle.io/v1",
            "kind": "HelmChart",
            "metadata": {"name": "Odd_Name", "namespace": "kube-system"},
            "spec": {"chart": "odd", "targetNamespace": "odd", "valuesContent": ""},
        },
    ],
)
def test_what_is_wrong_with_a_document_shows(api: ApiServer, document: dict[str, Any]) -> None:
    assert complaints(api, document)
