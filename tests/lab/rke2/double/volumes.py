"""What a container gets from outside its image: volumes, and variables that stand elsewhere."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import paths
from .client import Api, Refused
from .store import Object

_KINDS = {"Directory": Path.is_dir, "File": Path.is_file, "Socket": Path.is_socket}


class NotThere(Exception):
    """Something a container needs is missing.

    Attributes:
        reason: What a waiting container is said to wait for.
    """

    def __init__(self, message: str, reason: str = "ContainerCreating") -> None:
        self.reason = reason
        super().__init__(message)


def find_volumes(pod: Object, api: Api, folder: Path) -> dict[str, str]:
    """The path of each volume of a pod, by its name.

    Args:
        pod: The pod.
        api: To read what is kept in objects.
        folder: For what has to be written.

    Raises:
        NotThere: If one of them can not be had.
    """
    return {
        volume["name"]: str(_find(volume, pod, api, folder / "volumes" / volume["name"]))
        for volume in pod["spec"].get("volumes") or []
    }


def _find(volume: Mapping[str, Any], pod: Object, api: Api, own: Path) -> Path:
    if host := volume.get("hostPath"):
        return _host_path(volume["name"], Path(host["path"]), host.get("type") or "")
    own.mkdir(parents=True, exist_ok=True)
    if "emptyDir" in volume:
        return own
    for kind, resource, key in (
        ("configMap", "configmaps", "name"),
        ("secret", "secrets", "secretName"),
    ):
        if source := volume.get(kind):
            data = _read(api, pod, resource, source[key], optional=bool(source.get("optional")))
            chosen = source.get("items") or [{"key": each, "path": each} for each in data]
            for item in chosen:
                paths.write(own / item["path"], data[item["key"]], 0o644)
            return own
    raise NotThere(f'MountVolume.SetUp failed for volume "{volume["name"]}": not in the double')


def _host_path(name: str, path: Path, kind: str) -> Path:
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    elif kind in _KINDS and not _KINDS[kind](path):
        word = {"Directory": "a directory", "File": "a file", "Socket": "a socket file"}[kind]
        raise NotThere(
            f'MountVolume.SetUp failed for volume "{name}" : hostPath type check failed: {path} is '
            f"not {word}"
        )
    elif not path.exists():
        path.mkdir(parents=True)
    return path


def read_environment(
    pod: Object, container: Mapping[str, Any], api: Api, address: str
) -> dict[str, str]:
    """The variables of a container.

    Raises:
        NotThere: If one of them stands in an object that is not there.
    """
    given = {"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    for variable in container.get("env") or []:
        source = variable.get("valueFrom")
        given[variable["name"]] = (
            str(variable.get("value", "")) if source is None else _value(source, pod, api, address)
        )
    return given


def _value(source: Mapping[str, Any], pod: Object, api: Api, address: str) -> str:
    if field := source.get("fieldRef"):
        if field["fieldPath"] == "status.hostIP":
            return address
        found: Any = pod
        for name in field["fieldPath"].split("."):
            found = found.get(name, "")
        return str(found)
    for kind, resource in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if told := source.get(kind):
            data = _read(api, pod, resource, told["name"], optional=bool(told.get("optional")))
            return data.get(told["key"], "")
    raise NotThere("a variable comes from what is not in the double", "CreateContainerConfigError")


def _read(api: Api, pod: Object, resource: str, name: str, *, optional: bool) -> dict[str, str]:
    namespace = pod["metadata"]["namespace"]
    try:
        obj = api.get(f"/api/v1/namespaces/{namespace}/{resource}/{name}")
    except Refused as refused:
        if refused.status in (403, 404) and optional:
            return {}
        words = f'{resource[:-1]} "{name}" not found'
        raise NotThere(words, "CreateContainerConfigError") from None
    data = obj.get("data") or {}
    if resource == "secrets":
        return {key: b64decode(value).decode() for key, value in data.items()}
    return dict(data)
