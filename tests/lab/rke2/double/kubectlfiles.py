"""`kubectl apply`, `create` and `delete` with files, and the three-way merge behind them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .client import Api, Refused
from .kinds import KINDS
from .store import Object

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class UsageError(Exception):
    """What was asked for can not be done; the text is kubectl's."""


class NoMatch(UsageError):
    """A kind that the cluster does not serve."""


def apply_files(api: Api, options: argparse.Namespace) -> int:
    """Make the objects of files what the files say."""
    return _each(api, options, lambda path, obj, place: apply_object(api, path, obj, place))


def create_files(api: Api, options: argparse.Namespace) -> int:
    """Make the objects of files."""

    def create(path: str, obj: Object, _: str) -> str:
        api.create(path, obj)
        return "created"

    return _each(api, options, create)


def delete_files(api: Api, options: argparse.Namespace) -> int:
    """Remove the objects of files."""

    def delete(path: str, obj: Object, place: str) -> str:
        try:
            api.delete(place)
        except Refused as refused:
            if refused.status != 404 or options.ignore_not_found != "true":
                raise
        return "deleted"

    return _each(api, options, delete)


def apply_object(
    api: Api, path: str, obj: Object, place: str, annotation: str = LAST_APPLIED
) -> str:
    """Make one object what it is to be; `created`, `configured` or `unchanged`.

    Args:
        api: Client.
        path: Of its kind.
        obj: As it is to be.
        place: Its own path.
        annotation: Where to keep what was applied, to know the next time what is to go.
    """
    applied = json.dumps(obj, sort_keys=True, separators=(",", ":"))
    wanted = json.loads(applied)
    marks = wanted.setdefault("metadata", {}).get("annotations") or {}
    wanted["metadata"]["annotations"] = marks | {annotation: applied}
    old = api.find(place)
    if old is None:
        api.create(path, wanted)
        return "created"
    before = (old["metadata"].get("annotations") or {}).get(annotation, "{}")
    patch = merge_three(json.loads(before), wanted, old)
    if not patch:
        return "unchanged"
    api.merge(place, patch)
    return "configured"


def merge_three(before: Any, wanted: Object, now: Object) -> dict[str, Any]:
    """The merge patch that brings an object to what is wanted and drops what no longer is."""
    patch: dict[str, Any] = {}
    for key, value in wanted.items():
        present = now.get(key)
        if isinstance(value, dict) and isinstance(present, dict):
            past = before.get(key) if isinstance(before, dict) else None
            if inner := merge_three(past if isinstance(past, dict) else {}, value, present):
                patch[key] = inner
        elif present != value:
            patch[key] = value
    for key in before if isinstance(before, dict) else ():
        if key not in wanted and key in now:
            patch[key] = None
    return patch


def documents(text: str) -> Iterator[Object]:
    """The objects of a file, those in lists one by one.

    Raises:
        UsageError: If it is no YAML, or something in it is no object.
    """
    try:
        parsed = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise UsageError(f"error parsing: {str(error).splitlines()[0]}") from None
    for document in parsed:
        if document is None:
            continue
        if not isinstance(document, dict) or not document.get("kind"):
            raise UsageError("Object 'Kind' is missing")
        if document["kind"].endswith("List") and "items" in document:
            yield from document["items"]
        else:
            yield document


def find_path(api: Api, obj: Object, namespace: str = "default") -> tuple[str, str]:
    """Path of an object's kind, and its own.

    Raises:
        NoMatch: If the cluster does not serve the kind.
    """
    version, kind = str(obj.get("apiVersion")), str(obj["kind"])
    group = version.rpartition("/")[0]
    plural, namespaced = _resource(api, group, version, kind)
    root = "apis" if group else "api"
    own = str((obj.get("metadata") or {}).get("namespace") or namespace)
    path = f"/{root}/{version}" + (f"/namespaces/{own}" if namespaced else "") + f"/{plural}"
    return path, f"{path}/{(obj.get('metadata') or {}).get('name', '')}"


def _resource(api: Api, group: str, version: str, kind: str) -> tuple[str, bool]:
    for known in KINDS.values():
        if known.name == kind and known.api_version == version:
            return known.resource.partition(".")[0], known.namespaced
    crds = api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
    for crd in crds:
        spec = crd["spec"]
        served = [each["name"] for each in spec["versions"] if each.get("served", True)]
        if (spec["group"], spec["names"]["kind"]) == (group, kind) and (
            version.rpartition("/")[2] in served
        ):
            return str(spec["names"]["plural"]), spec["scope"] == "Namespaced"
    raise NoMatch(f'no matches for kind "{kind}" in version "{version}"')


def _each(api: Api, options: argparse.Namespace, act: Callable[[str, Object, str], str]) -> int:
    if not options.filename:
        raise UsageError("must specify one of -f and -k")
    for name in options.filename:
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
        for obj in documents(text):
            path, place = find_path(api, obj, options.namespace)
            group = str(obj["apiVersion"]).rpartition("/")[0]
            word = obj["kind"].lower() + (f".{group}" if group else "")
            print(f"{word}/{obj['metadata']['name']} {act(path, obj, place)}")
    return 0
