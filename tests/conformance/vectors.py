"""The vectors as they are read, and the part of one that rules and adapters may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORMAT = 1

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "data" / "conformance"


class VectorError(Exception):
    """A file is not one of vectors."""


@dataclass(frozen=True)
class Inputs:
    """What a vector asks; what was expected, its name and its id are not in here on purpose.

    Attributes:
        context: The complete context of the VM.
        call: What is asked besides.
        onegate: The documents OneGate would answer; a missing one means that the request fails.
        previous: Earlier applications on the same machine, oldest first.
    """

    context: Mapping[str, str] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    onegate: Mapping[str, Any] = field(default_factory=dict)
    previous: tuple[Inputs, ...] = ()


@dataclass(frozen=True)
class Vector:
    """One recorded decision.

    Attributes:
        quirk: Why the recorded behaviour is doubtful; None where it is not.
    """

    area: str
    name: str
    vector_id: str
    inputs: Inputs
    expected: Mapping[str, Any]
    quirk: str | None


def load_vectors(folder: Path) -> dict[str, list[Vector]]:
    """Read every area file of a folder: area to vectors.

    Raises:
        VectorError: The folder has no area file, or a file is not of the known format.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise VectorError(f"{folder}: no area file (*.yaml) in there")
    return {path.stem: _load_area(path) for path in paths}


def _load_area(path: Path) -> list[Vector]:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VectorError(f"{path}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise VectorError(f"{path}: expected format {_FORMAT}")
    if document.get("area") != path.stem:
        raise VectorError(f"{path}: holds area {document.get('area')!r}")
    return [_vector(path.stem, item) for item in document["vectors"]]


def _vector(area: str, item: Mapping[str, Any]) -> Vector:
    return Vector(
        area,
        item["name"],
        item["id"],
        read_inputs(item),
        item["expected"],
        item.get("reference_quirk"),
    )


def read_inputs(item: Mapping[str, Any]) -> Inputs:
    """Take the inputs, and nothing else, out of a vector or one of its earlier applications."""
    return Inputs(
        {k: str(v) for k, v in (item.get("context") or {}).items() if v is not None},
        item.get("call") or {},
        item.get("onegate") or {},
        tuple(read_inputs(earlier) for earlier in item.get("previous") or ()),
    )
