"""The user's own text in place of a manifest: what it holds, and whether that is well formed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from appliance.component import Component
from appliance.yamltext import parse_documents

Document = Mapping[str, Any]

EXPECTED = "expected resources of Kubernetes in YAML"
"""How a message about such a text begins."""


def read_documents(text: str) -> list[Any]:
    """Return the documents of a text that hold something.

    Raises:
        yaml.YAMLError: It is no YAML.
        ValueError: A value in it is none of its type.
    """
    return [one for one in parse_documents(text) if one is not None]


def flattened(documents: Sequence[Document]) -> Iterator[Document]:
    """Yield all documents, and those of lists by themselves."""
    for document in documents:
        items = document.get("items") if str(document.get("kind")).endswith("List") else None
        yield from (
            (one for one in items if isinstance(one, dict))
            if isinstance(items, list)
            else (document,)
        )


def what_is_wrong_with(documents: Sequence[Any], component: Component) -> str | None:
    """Say what keeps documents from being what a component takes; None if nothing does."""
    if not documents:
        return f"{EXPECTED}; there is none"
    if not all(isinstance(document, dict) for document in documents):
        return f"{EXPECTED}, each a mapping"
    for document in (*documents, *flattened(documents)):
        for refused in component.refused:
            if refused.matches(document):
                return refused.because
        wrong = _missing_in(document)
        if wrong:
            return f"{EXPECTED}, each with apiVersion, kind and metadata.name; {wrong}"
    return None


def _missing_in(document: Mapping[object, object]) -> str | None:
    for key in ("apiVersion", "kind"):
        if not isinstance(document.get(key), str):
            return f"one has no {key}"
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) and not str(document["kind"]).endswith("List"):
        return f"one of kind {document['kind']} has no name"
    return None
