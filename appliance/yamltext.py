"""YAML as text: read by the fastest safe loader there is, written without references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class PlainDumper(yaml.SafeDumper):
    """Writes what stands at several places at each of them."""

    def ignore_aliases(self, data: object) -> bool:
        """Refer to nothing."""
        return True


def parse_yaml(text: str) -> Any:
    """Read the one document of a text.

    Raises:
        yaml.YAMLError: It is no YAML, asks for other types than plain ones, or has more documents.
    """
    return yaml.load(text, Loader=_LOADER)  # noqa: S506  # a safe loader


def parse_documents(text: str) -> Iterator[Any]:
    """Read the documents of a text, each when it is asked for; an empty one is None.

    Raises:
        yaml.YAMLError: As above.
    """
    return yaml.load_all(text, Loader=_LOADER)
