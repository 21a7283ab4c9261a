"""Drop-ins: a folder under service.d becomes a `Service`, checked when it is read.

A drop-in is data: `service.yaml` (what it is, what marks a template as one of the 1.24 generation),
`parameters.yaml` (every parameter, declared once), `image.yaml` (what it needs in the image that
nodes boot from) and `templates/*.j2`. An administrator's folder of the same name wins file by
file. A drop-in that runs inside the cluster is a component.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from appliance.component import COMPONENTS, Component, check_components, parse_component
from appliance.context import Context
from appliance.errors import ServiceDefinitionError
from appliance.imagecontent import FILE as IMAGE_FILE
from appliance.imagecontent import (
    ImageContent,
    brings_images,
    check_image_contents,
    find_image_folder,
    parse_image_content,
)
from appliance.parameters import Alias, Entry, compile_name
from appliance.shape import check_keys, checked_each, checked_mapping, checked_text, checked_texts
from appliance.values import TYPES, Rejected
from appliance.yamltext import parse_yaml

# YAML key -> attribute of Entry, where the two differ.
_RENAMED = {"min": "minimum", "max": "maximum"}
_ENTRY_KEYS = frozenset(Entry.__dataclass_fields__) - {"minimum", "maximum"} | {"min", "max"}
_REQUIRED_KEYS = ("field", "type", "description", "example")
_ALIAS_KEYS = frozenset({"name", "with", "unless_true", "unless_any", "transform"})
_SERVICE_KEYS = frozenset({"summary", "roles", "legacy_marks", "component"})
_MARK_KEYS = frozenset({"key", "without", "roles"})
_PARAMETERS_KEYS = frozenset({"parameters"})
_FLAG_KEYS = ("required", "keep_empty", "ignored")
_LIST_KEYS = ("roles", "choices", "implied_by")
_NUMBER_KEYS = ("min", "max")
_TRANSFORMS = (None, "before_colon", "after_colon")


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
        component: What it deploys inside the cluster; None where it is no component.
        image: What it needs in the image that nodes boot from.
    """

    name: str
    summary: str
    roles: tuple[str, ...]
    entries: tuple[Entry, ...]
    legacy_marks: tuple[LegacyMark, ...]
    folders: tuple[Path, ...]
    component: Component | None = None
    image: ImageContent = field(default_factory=ImageContent)

    @property
    def chart_version(self) -> str:
        """The version of its chart that masters deploy unless they are told; empty for none."""
        if self.component is None or self.component.chart is None:
            return ""
        wanted = self.component.chart.version.name
        return next((one.default or "" for one in self.entries if one.field == wanted), "")


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
    check_components(
        {name: one.component for name, one in services.items() if one.component},
        {name: [entry.field for entry in one.entries] for name, one in services.items()},
    )
    check_image_contents(
        {name: one.image for name, one in services.items()},
        {
            one.component.chart.name: name
            for name, one in services.items()
            if one.component and one.component.chart
        },
    )
    _refuse_unread_switches(services)
    return services


def _load_service(name: str, folders: Sequence[Path]) -> Service:
    own = tuple(folder / name for folder in folders if (folder / name).is_dir())
    if name == COMPONENTS:
        raise ServiceDefinitionError(f"{own[0]}: no drop-in may be called {name}")
    service_path = find_first(own, "service.yaml")
    if service_path is None:
        raise ServiceDefinitionError(f"{own[0]}: has no service.yaml")
    where = str(service_path)
    described = read_mapping(service_path)
    check_keys(described, _SERVICE_KEYS, where)
    marks = checked_each(
        described, "legacy_marks", where, lambda one: _mark(one, f"{where}: legacy_marks")
    )
    roles = checked_texts(described, "roles", where)
    component = None
    if "component" in described:
        component = parse_component(name, described["component"], f"{where}: component")
    image_path = find_first(own, IMAGE_FILE)
    image = ImageContent()
    if image_path is not None:
        image = parse_image_content(read_mapping(image_path), str(image_path))
    summary = str(described.get("summary", ""))
    return Service(name, summary, roles, _load_entries(own), marks, own, component, image)


def _load_entries(folders: Sequence[Path]) -> tuple[Entry, ...]:
    path = find_first(folders, "parameters.yaml")
    if path is None:
        return ()
    document = read_mapping(path)
    check_keys(document, _PARAMETERS_KEYS, str(path))
    entries = checked_each(document, "parameters", str(path), lambda one: _entry(one, path))
    _refuse_repeated(entries, path)
    return entries


def _mark(item: object, where: str) -> LegacyMark:
    found = checked_mapping(item, _MARK_KEYS, where)
    roles = checked_texts(found, "roles", where)
    return LegacyMark(checked_text(found, "key", where), found.get("without"), roles)


def find_first(folders: Iterable[Path], name: str) -> Path | None:
    """Return a file of a drop-in: that of the first folder that has it."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a file of a drop-in.

    Raises:
        ServiceDefinitionError: It can not be read, or holds no mapping.
    """
    try:
        document = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ServiceDefinitionError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ServiceDefinitionError(f"{path}: expected a mapping")
    return document


def _entry(item: object, path: Path) -> Entry:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ServiceDefinitionError(f"{path}: expected entries with a name, found {item!r}")
    where = f"{path}: {item['name']}"
    check_keys(item, _ENTRY_KEYS, where)
    lacking = [key for key in _REQUIRED_KEYS if item.get(key) in (None, "")]
    if lacking:
        raise ServiceDefinitionError(f"{where}: lacks {', '.join(lacking)}")
    arguments = {_RENAMED.get(str(key), str(key)): value for key, value in item.items()}
    arguments["aliases"] = checked_each(item, "aliases", where, lambda one: _alias(one, where))
    for key in _LIST_KEYS:
        arguments[key] = checked_texts(item, key, where)
    _check_kinds(item, where)
    entry = Entry(**arguments)
    _check_entry(entry, where)
    return entry


def _check_kinds(item: Mapping[str, Any], where: str) -> None:
    for key, value in item.items():
        if key in _FLAG_KEYS:
            fits, kind = isinstance(value, bool), "true or false"
        elif key in _NUMBER_KEYS:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            fits, kind = is_number, "a number"
        elif key in ("aliases", *_LIST_KEYS):
            continue
        else:
            fits, kind = value is None or isinstance(value, str), "a quoted text, as in a context"
        if not fits:
            raise ServiceDefinitionError(f"{where}: {key} must be {kind}")


def _alias(item: object, where: str) -> Alias:
    if isinstance(item, str):
        return Alias(item)
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ServiceDefinitionError(
            f"{where}: an alias is a name or a mapping with a name, found {item!r}"
        )
    check_keys(item, _ALIAS_KEYS, where)
    if item.get("transform") not in _TRANSFORMS:
        raise ServiceDefinitionError(f"{where}: transform {item['transform']!r} is not understood")
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
    if entry.implied_by and entry.type != "boolean":
        raise ServiceDefinitionError(f"{where}: implied_by is for switches")
    try:
        re.compile(entry.pattern or "")
    except re.error as error:
        raise ServiceDefinitionError(f"{where}: pattern {entry.pattern!r}: {error}") from error
    texts = {"default": entry.default, "implied_before": entry.implied_before}
    for label, text in {**texts, "example": entry.example}.items():
        if text and not entry.ignored:
            try:
                TYPES[entry.type].parse(text, entry)
            except Rejected as rejected:
                raise ServiceDefinitionError(f"{where}: {label} {text!r}: {rejected}") from rejected


def _refuse_repeated(entries: Iterable[Entry], path: Path) -> None:
    names: set[str] = set()
    owners: dict[str, str] = {}
    for entry in entries:
        if entry.name in names:
            raise ServiceDefinitionError(f"{path}: {entry.name}: declared twice")
        names.add(entry.name)
        if owners.setdefault(entry.field, entry.name) != entry.name:
            first = owners[entry.field]
            raise ServiceDefinitionError(
                f"{path}: {entry.name}: field {entry.field} is that of {first} already"
            )


def _refuse_shared_names(services: Iterable[Service]) -> None:
    owner: dict[str, str] = {}
    for service in services:
        for entry in service.entries:
            if owner.setdefault(entry.name, service.name) != service.name:
                raise ServiceDefinitionError(
                    f"{entry.name}: declared by {owner[entry.name]} and by {service.name}"
                )


def _refuse_unread_switches(services: Mapping[str, Service]) -> None:
    """Refuse images for nodes that can not tell whether their component is on."""
    folder = find_image_folder(one.image for one in services.values())
    for name, service in services.items():
        if service.component is None or not brings_images(service.image, folder):
            continue
        needing = dict.fromkeys(kind.role for kind in service.image.nodes)
        for place, readers in _readers_of_switch(service.component, services):
            missing = [role for role in needing if role not in readers]
            if readers and missing:
                every = ", ".join(dict.fromkeys((*readers, *missing)))
                raise ServiceDefinitionError(
                    f"{name}: {IMAGE_FILE}: its images are for nodes of {', '.join(missing)} too,"
                    f" which do not read its switch {service.component.switch}: write roles:"
                    f" [{every}] in {place}, or name the nodes that have its pods under nodes"
                )


def _readers_of_switch(
    component: Component, services: Mapping[str, Service]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield where it is said which roles read the switch, with those roles; empty for all."""
    if component.switch is None:
        return
    owner = services[component.switch.service]
    yield f"the service.yaml of {owner.name}", owner.roles
    for entry in owner.entries:
        if entry.field == component.switch.name:
            yield f"the parameters.yaml of {owner.name} at {entry.name}", entry.roles


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
