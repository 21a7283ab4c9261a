"""Configuration: files and drop-ins to flags, by the rules of the real parser."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .flags import Flag, known_flags

_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")
_DURATION = re.compile(r"-?(\d+(\.\d+)?(ns|us|ms|s|m|h))+|0")
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
CNIS = ("canal", "calico", "cilium", "flannel", "none")


class ConfigError(Exception):
    """A configuration RKE2 does not start with."""


Value = str | bool | int | list[str]


def config_files(base: Path) -> list[Path]:
    """The files that are read, in order: the base file, then the drop-ins by their bytes."""
    found = [base] if base.is_file() else []
    folder = base.with_name(base.name + ".d")
    if folder.is_dir():
        inside = [path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml")]
        found += sorted((path for path in inside if path.is_file()), key=lambda path: bytes(path))
    return found


def merge_files(texts: Sequence[tuple[str, str]]) -> list[tuple[str, Any]]:
    """Merge files to keys in the order they were first seen.

    Args:
        texts: Name and content of each file.

    Raises:
        ConfigError: If one is no YAML mapping.
    """
    merged: dict[str, Any] = {}
    for name, text in texts:
        try:
            parsed = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"yaml: {str(error).splitlines()[0]} in {name}") from None
        if parsed is None:
            continue
        if not isinstance(parsed, dict):
            raise ConfigError(f"yaml: cannot unmarshal {name} into a map")
        for key, value in parsed.items():
            key = str(key)
            if key.endswith("+"):
                key = key[:-1]
                if key in merged:
                    value = [*_as_list(merged[key]), *_as_list(value)]
            merged[key] = value
    return list(merged.items())


def to_flags(merged: Sequence[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Translate keys to flags: name and text of each, lists repeated."""
    flags: list[tuple[str, str]] = []
    for key, value in merged:
        entries = value if isinstance(value, list) else [value]
        flags += [(key, _text(key, entry)) for entry in entries]
    return flags


def parse_arguments(role: str, arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Flags of a command line.

    Raises:
        ConfigError: On one that is not known.
    """
    known = known_flags(role)
    shorts = {flag.short: flag.name for flag in known.values() if flag.short}
    flags: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        name = shorts.get(name, name)
        if not word.startswith("-") or name not in known:
            raise ConfigError(f"flag provided but not defined: -{name}")
        if not equals:
            if known[name].kind == "bool":
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise ConfigError(f"flag needs an argument: -{name}")
        flags.append((name, value))
    return flags


def resolve(
    role: str,
    from_files: Sequence[tuple[str, str]],
    from_arguments: Sequence[tuple[str, str]],
    environment: Mapping[str, str],
) -> tuple[dict[str, Value], list[str]]:
    """Bring all sources together.

    Returns:
        The value of every flag that is set or has a default, and the names of keys in the files
        that this subcommand does not know.

    Raises:
        ConfigError: On a value that is none of its kind.
    """
    known = known_flags(role)
    unknown = list(dict.fromkeys(name for name, _ in from_files if name not in known))
    given: dict[str, list[str]] = {}
    for name, text in (*from_files, *from_arguments):
        if name in known:
            given.setdefault(name, []).append(text)
    values: dict[str, Value] = {}
    for flag in known.values():
        texts = given.get(flag.name)
        if texts is None and flag.env and environment.get(flag.env):
            texts = [environment[flag.env]]
        if texts is None and flag.default:
            texts = [flag.default]
        if texts is not None:
            values[flag.name] = _value(flag, texts)
    return values, unknown


def check(role: str, values: Mapping[str, Value]) -> None:
    """Refuse what RKE2 refuses before anything starts.

    Raises:
        ConfigError: With what is wrong.
    """
    if role == "server":
        cnis = as_list(values.get("cni"))
        main = cnis[1:] if cnis[:1] == ["multus"] and len(cnis) == 2 else cnis
        if len(main) != 1 or main[0] not in CNIS:
            raise ConfigError(f"invalid value {','.join(cnis)} provided for --cni")
    if values.get("node-external-ip") and values.get("cloud-provider-name"):
        raise ConfigError("can't set node-external-ip while using cloud provider")
    name = str(values.get("node-name") or "")
    if name and not _NODE_NAME.fullmatch(name.lower()):
        raise ConfigError(f"invalid node name {name}: a lowercase RFC 1123 subdomain is expected")
    for key in ("node-taint", "node-label"):
        for entry in as_list(values.get(key)):
            parse_label(entry) if key == "node-label" else parse_taint(entry)


def parse_label(text: str) -> tuple[str, str]:
    """A label `key=value`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"invalid node label {text}")
    prefix = key.rpartition("/")[0]
    if prefix == "node-role.kubernetes.io":
        raise ConfigError(f"--node-labels in the 'kubernetes.io' namespace is limited: {key}")
    return key, value


def parse_taint(text: str) -> dict[str, str]:
    """A taint `key=value:Effect`, as the API has it."""
    pair, colon, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    if not colon or not key or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise ConfigError(f"invalid node taint {text}")
    return {"key": key, "value": value, "effect": effect}


def as_list(value: Value | None) -> list[str]:
    """The entries of a list flag that may not be set."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [str(value)]


def _value(flag: Flag, texts: list[str]) -> Value:
    if flag.kind == "list":
        parts = [part for text in texts for part in (text.split(",") if flag.splits else [text])]
        return [part.strip() for part in parts if part.strip()]
    text = texts[-1]
    if flag.kind == "bool":
        if text not in (*_TRUE, *_FALSE):
            raise ConfigError(f'invalid boolean value "{text}" for -{flag.name}: parse error')
        return text in _TRUE
    if flag.kind == "int":
        if not re.fullmatch(r"-?\d+", text):
            raise ConfigError(f'invalid value "{text}" for flag -{flag.name}: parse error')
        return int(text)
    if flag.kind == "duration" and not _DURATION.fullmatch(text):
        raise ConfigError(f'invalid value "{text}" for flag -{flag.name}: parse error')
    return text


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _text(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        raise ConfigError(f"yaml: cannot unmarshal the value of {key} into a flag")
    return str(value)
