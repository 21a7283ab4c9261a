"""Drop-ins: a folder under service.d becomes a `Service`, checked when it is read.

A drop-in is data: `service.yaml` (what it is, what marks a template as one of the 1.24 generation),
`parameters.yaml` (every parameter, declared once) and `templates/*.j2`. An administrator's folder
of the same name wins file by file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from appliance.context import Context
from appliance.errors import ServiceDefinitionError
from appliance.parameters import Alias, Entry, compile_name
from appliance.values import TYPES, Rejected

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# YAML key -> attribute of Entry, where the two differ.
_RENAMED = {"min": "minimum", "max": "maximum"}
_ENTRY_KEYS = frozenset(Entry.__dataclass_fields__) - {"minimum", "maximum"} | {"min", "max"}
_ALIAS_KEYS = frozenset({"name", "with", "unless_true", "unless_any", "transform"})
_SERVICE_KEYS = frozenset({"summary", "roles", "legacy_marks"})


@dataclass(frozen=True)
class LegacyMark:
    """A key whose presence, even empty, tells a template of the 1.24 generation.

    Attributes:
        key: The key or family.
        without: The mark counts only where this key is absent.
        roles: The role it counts for; empty for every role.
    """

    key: str
    without: str | None
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Service:
    """One drop-in.

    Attributes:
        name: The folder's name.
        summary: One sentence for people.
        roles: The roles that use it; empty for all.
        entries: Its parameters, in the order declared.
        legacy_marks: What tells a template of the 1.24 generation.
        folders: Where its templates are looked for, the administrator's first.
    """

    name: str
    summary: str
    roles: tuple[str, ...]
    entries: tuple[Entry, ...]
    legacy_marks: tuple[LegacyMark, ...]
    folders: tuple[Path, ...]


def load_services(folders: Sequence[Path]) -> dict[str, Service]:
    """Read every drop-in.

    Args:
        folders: Folders that hold drop-ins, the one that wins first. A missing folder holds none.

    Returns:
        Name to service, by name.

    Raises:
        ServiceDefinitionError: A file is not well formed; it names file and entry.
    """
    names = {
        child.name
        for folder in folders
        if folder.is_dir()
        for child in folder.iterdir()
        if child.is_dir()
    }
    services = {name: _load_service(name, folders) for name in sorted(names)}
    _refuse_shared_names(services.values())
    return services


def _load_service(name: str, folders: Sequence[Path]) -> Service:
    own = tuple(folder / name for folder in folders if (folder / name).is_dir())
    service_path = _first(own, "service.yaml")
    if service_path is None:
        raise ServiceDefinitionError(f"{own[0]}: has no service.yaml")
    described = _read_mapping(service_path)
    _refuse_unknown(described, _SERVICE_KEYS, str(service_path))
    parameters_path = _first(own, "parameters.yaml")
    entries: tuple[Entry, ...] = ()
    if parameters_path is not None:
        listed = _read_mapping(parameters_path).get("parameters", [])
        entries = tuple(_entry(item, parameters_path) for item in listed)
    marks = tuple(
        LegacyMark(mark["key"], mark.get("without"), tuple(mark.get("roles", ())))
        for mark in described.get("legacy_marks", ())
    )
    roles = tuple(described.get("roles", ()))
    return Service(name, str(described.get("summary", "")), roles, entries, marks, own)


def _first(folders: Iterable[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506  # a safe loader in C
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ServiceDefinitionError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ServiceDefinitionError(f"{path}: expected a mapping")
    return document


def _entry(item: object, path: Path) -> Entry:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ServiceDefinitionError(f"{path}: expected entries with a name, found {item!r}")
    where = f"{path}: {item['name']}"
    _refuse_unknown(item, _ENTRY_KEYS, where)
    arguments = {_RENAMED.get(str(key), str(key)): value for key, value in item.items()}
    arguments["aliases"] = tuple(_alias(alias, where) for alias in item.get("aliases", ()))
    for key in ("roles", "choices"):
        arguments[key] = tuple(arguments.get(key, ()))
    for key in ("default", "example", "implied_before"):
        if arguments.get(key) is not None and not isinstance(arguments[key], str):
            raise ServiceDefinitionError(f"{where}: {key} must be a quoted text, as in a context")
    try:
        entry = Entry(**arguments)
    except TypeError as error:
        raise ServiceDefinitionError(f"{where}: {error}") from error
    _check_entry(entry, where)
    return entry


def _alias(item: object, where: str) -> Alias:
    if isinstance(item, str):
        return Alias(item)
    if not isinstance(item, dict):
        raise ServiceDefinitionError(f"{where}: an alias is a name or a mapping, found {item!r}")
    _refuse_unknown(item, _ALIAS_KEYS, where)
    return Alias(
        item["name"],
        item.get("with", {}),
        item.get("unless_true"),
        item.get("unless_any"),
        item.get("transform"),
    )


def _check_entry(entry: Entry, where: str) -> None:
    if entry.type not in TYPES:
        raise ServiceDefinitionError(
            f"{where}: type {entry.type}: expected one of {', '.join(sorted(TYPES))}"
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", entry.field):
        raise ServiceDefinitionError(
            f"{where}: field {entry.field!r}: expected a Python name in lower case"
        )
    for label, text in (("default", entry.default), ("example", entry.example)):
        if text and not entry.ignored:
            try:
                TYPES[entry.type].parse(text, entry)
            except Rejected as rejected:
                raise ServiceDefinitionError(f"{where}: {label} {text!r}: {rejected}") from rejected


def _refuse_unknown(found: Mapping[str, object], known: frozenset[str], where: str) -> None:
    unknown = sorted(set(found) - known)
    if unknown:
        raise ServiceDefinitionError(
            f"{where}: {', '.join(unknown)} not understood; known are {', '.join(sorted(known))}"
        )


def _refuse_shared_names(services: Iterable[Service]) -> None:
    owner: dict[str, str] = {}
    for service in services:
        for entry in service.entries:
            if owner.setdefault(entry.name, service.name) != service.name:
                raise ServiceDefinitionError(
                    f"{entry.name}: declared by {owner[entry.name]} and by {service.name}"
                )


def all_names(services: Iterable[Service]) -> list[str]:
    """List every known name, aliases included, families as patterns."""
    return [
        name
        for service in services
        for entry in service.entries
        for name in (entry.name, *(alias.name for alias in entry.aliases))
    ]


def find_legacy_mark(services: Iterable[Service], context: Context, role: str | None) -> str | None:
    """Tell whether a template is of the 1.24 generation.

    Returns:
        The key that says so, or None for a current template.
    """
    for service in services:
        for mark in service.legacy_marks:
            if mark.roles and role not in mark.roles:
                continue
            if mark.without and mark.without in context.values:
                continue
            expression = compile_name(mark.key)
            for key in sorted(context.values):
                if expression.match(key):
                    return key
    return None
