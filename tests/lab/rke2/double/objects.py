"""Objects as values: preconditions, patches and selectors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .kinds import ApiError
from .store import Object


def check_precondition(old: Object, wanted: Object) -> None:
    """Refuse to change another object than was meant.

    Raises:
        ApiError: 409.
    """
    metadata = wanted.get("metadata") or {}
    for key in ("uid", "resourceVersion"):
        if metadata.get(key) and metadata[key] != old["metadata"][key]:
            raise ApiError(
                409,
                "Conflict",
                f"Operation cannot be fulfilled: the {key} in the precondition "
                f"({metadata[key]}) does not match the {key} in record "
                f"({old['metadata'][key]}). The object might have been deleted and then recreated",
            )


def keep_apart(old: Object, new: Object, subresource: str) -> Object:
    """Let a status be changed by its own path only, and nothing else by that."""
    if subresource == "status":
        return old | {"status": new.get("status", {})}
    if "status" in old:
        return new | {"status": old["status"]}
    return {key: value for key, value in new.items() if key != "status"}


def apply_patch(old: Object, patch: Any, content: str) -> Object:
    """The object with a patch of any of the three kinds."""
    if content == "application/json-patch+json":
        new: Object = json.loads(json.dumps(old))
        for step in patch:
            _json_step(new, step)
        return new
    merged = merge_patch(old, patch, strategic=content == "application/strategic-merge-patch+json")
    return dict(merged)


def merge_patch(old: Any, patch: Any, *, strategic: bool = False) -> Any:
    """RFC 7396; with `strategic` lists of conditions, taints and addresses are merged by key."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif strategic and isinstance(value, list) and key in ("conditions", "addresses"):
            kept = {each["type"]: each for each in merged.get(key, [])}
            for each in value:
                kept[each["type"]] = {**kept.get(each["type"], {}), **each}
            merged[key] = list(kept.values())
        else:
            merged[key] = merge_patch(merged.get(key), value, strategic=strategic)
    return merged


def _json_step(obj: Any, step: Mapping[str, Any]) -> None:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
    for part in parts[:-1]:
        obj = obj[int(part)] if isinstance(obj, list) else obj[part]
    last: Any = parts[-1]
    if isinstance(obj, list) and last != "-":
        last = int(last)
    if step["op"] == "test":
        if obj[last] != step["value"]:
            raise ApiError(422, "Invalid", "the server rejected our request: test failed")
    elif step["op"] == "remove":
        del obj[last]
    elif isinstance(obj, list) and step["op"] == "add":
        obj.insert(len(obj) if last == "-" else last, step["value"])
    else:
        obj[last] = step["value"]


_REQUIREMENT = re.compile(r"[^,(]+(?:\([^)]*\))?")


def matches_labels(obj: Object, selector: str) -> bool:
    """Whether an object's labels are what a selector asks for."""
    labels = obj["metadata"].get("labels") or {}
    return all(_holds(labels, part.strip()) for part in _REQUIREMENT.findall(selector))


def _holds(labels: Mapping[str, str], part: str) -> bool:
    if match := re.fullmatch(r"(\S+) (in|notin) \(([^)]*)\)", part):
        inside = labels.get(match[1]) in [value.strip() for value in match[3].split(",")]
        return inside == (match[2] == "in")
    if "!=" in part:
        key, _, value = part.partition("!=")
        return labels.get(key) != value
    if "=" in part:
        key, _, value = part.replace("==", "=").partition("=")
        return labels.get(key) == value
    return part[1:] not in labels if part.startswith("!") else part in labels


def matches_selector(obj: Object, selector: Mapping[str, Any], *, empty: bool = True) -> bool:
    """Whether an object's labels are what `matchLabels` and `matchExpressions` ask for.

    Args:
        obj: The object.
        selector: As objects have it.
        empty: What a selector that asks for nothing is to match.
    """
    labels = obj.get("metadata", {}).get("labels") or {}
    wanted = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or []
    if not wanted and not expressions:
        return empty
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        meets(labels, each) for each in expressions
    )


def meets(labels: Mapping[str, str], expression: Mapping[str, Any]) -> bool:
    """Whether labels meet one expression of a selector."""
    key, values = expression["key"], expression.get("values") or []
    return {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[expression["operator"]]


def field_terms(selector: str) -> dict[str, str]:
    """What a field selector asks fields to be equal to."""
    terms = [part.replace("==", "=").partition("=") for part in selector.split(",") if part]
    return {path: value for path, _, value in terms if not path.endswith("!")}


def matches_fields(obj: Object, selector: str) -> bool:
    """Whether an object's fields are what a selector asks for."""
    for part in filter(None, selector.split(",")):
        path, _, value = part.replace("==", "=").partition("=")
        negated = path.endswith("!")
        found: Any = obj
        for name in path.removesuffix("!").split("."):
            found = found.get(name) if isinstance(found, dict) else None
        if (str(found or "") == value) == negated:
            return False
    return True
