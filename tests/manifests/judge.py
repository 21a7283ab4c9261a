"""Judges documents by schemas that are not the agent's own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from jsonschema.protocols import Validator

from tests.manifests.rendered import Document

KUBERNETES = ("1.33", "1.36")
"""The oldest and the newest release whose own kinds are tried."""

_VALUES = "-values.schema.json"
_CHARTS = ("HelmChart", "HelmChartConfig")


@dataclass(frozen=True)
class Schemas:
    """What a folder holds.

    Attributes:
        kinds: API version and kind, as one text, to what judges it.
        values: Chart to what judges its values.
    """

    kinds: Mapping[str, Validator]
    values: Mapping[str, Validator]


@dataclass
class Figures:
    """What became of the documents.

    Attributes:
        failed: What is wrong, for people.
    """

    by_kind: Counter[str] = field(default_factory=Counter)
    by_values: Counter[str] = field(default_factory=Counter)
    without_values_schema: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


def load_schemas(folder: Path) -> Schemas:
    """Read the definitions of custom resources, and the schemas of charts' values."""
    kinds: dict[str, Validator] = {}
    for path in sorted(folder.glob("*.yaml")):
        for definition in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if definition:
                kinds |= _kinds_of(definition)
    values = {
        path.name.removesuffix(_VALUES): _validator(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob(f"*{_VALUES}"))
    }
    return Schemas(kinds, values)


def _kinds_of(definition: Mapping[str, Any]) -> dict[str, Validator]:
    spec = definition["spec"]
    return {
        f"{spec['group']}/{version['name']} {spec['names']['kind']}": _validator(
            closed(version["schema"]["openAPIV3Schema"], is_root=True)
        )
        for version in spec["versions"]
        if version.get("served")
    }


def _validator(schema: Mapping[str, Any]) -> Validator:
    return jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)


def closed(schema: Mapping[str, Any], *, is_root: bool = False) -> dict[str, Any]:
    """Return a structural schema as a JSON schema that knows no other fields.

    The API server drops what a schema does not name; here that is a mistake.
    """
    made = dict(schema)
    if "properties" in made:
        made["properties"] = {key: closed(one) for key, one in made["properties"].items()}
        keeps = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
        if not keeps:
            made["additionalProperties"] = False
    if is_root:
        made["properties"] = {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            **made["properties"],
        }
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), Mapping):
            made[key] = closed(made[key])
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if made.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def judge(found: Iterable[Document], schemas: Schemas) -> Figures:
    """Judge every document; equal ones are judged once and counted as often as they come."""
    figures = Figures()
    verdicts: dict[str, tuple[str, ...]] = {}
    for document in found:
        text = json.dumps(document.content, sort_keys=True, default=str)
        if text not in verdicts:
            verdicts[text] = tuple(_complaints(document, schemas))
        figures.by_kind[document.kind] += 1
        for complaint in verdicts[text]:
            figures.failed.append(f"{document.combination}: {document.file}: {complaint}")
        chart = chart_of(document)
        if chart and values_of(document):
            known = figures.by_values if chart in schemas.values else figures.without_values_schema
            known[chart] += 1
    return figures


def _complaints(document: Document, schemas: Schemas) -> Iterator[str]:
    validator = schemas.kinds.get(document.kind)
    if validator is not None:
        yield from _errors(document.kind, validator, document.content)
    elif not _is_built_in(str(document.content.get("apiVersion"))):
        yield f"{document.kind}: no schema"
    else:
        yield from _built_in(document)
    chart = chart_of(document)
    if chart:
        try:
            values = values_of(document)
        except yaml.YAMLError as error:
            yield f"{document.kind}: values are no YAML: {error}"
            return
        if chart in schemas.values and values:
            yield from _errors(f"values of {chart}", schemas.values[chart], values)


def _is_built_in(api_version: str) -> bool:
    """Say whether a kind may be one of Kubernetes itself, as groups under k8s.io are."""
    group = api_version.rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


def _errors(what: str, validator: Validator, content: object) -> Iterator[str]:
    for error in validator.iter_errors(content):
        place = ".".join(map(str, error.absolute_path))
        yield f"{what}: {place}: {error.message[:200]}"


def _built_in(document: Document) -> Iterator[str]:
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(dict(document.content), version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{document.kind}: no schema in Kubernetes {version}"
        except kubernetes_validate.ValidationError as error:
            yield f"{document.kind}: Kubernetes {version}: {error.message[:200]}"


def chart_of(document: Document) -> str | None:
    """Return the chart whose values a document holds; None for one that holds none."""
    if document.content.get("kind") not in _CHARTS:
        return None
    if document.content["kind"] == "HelmChart":
        return str(document.content["spec"].get("chart") or _chart_of_name(document))
    return str(document.content["metadata"]["name"])


def _chart_of_name(document: Document) -> str:
    """Return the chart that an object with the chart in it is named after."""
    return str(document.content["metadata"]["name"]).removeprefix("one-")


@cache
def _parsed(text: str) -> Any:
    return yaml.safe_load(text)


def values_of(document: Document) -> Any:
    """Return the values in a document."""
    return _parsed(document.content["spec"].get("valuesContent") or "")
