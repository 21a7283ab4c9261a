"""The shape of what a drop-in says: mappings, lists and texts, each refused with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from appliance.errors import ServiceDefinitionError

T = TypeVar("T")


def checked_mapping(item: object, known: frozenset[str], where: str) -> Mapping[str, Any]:
    """Return a mapping that has no other keys than the known ones.

    Args:
        item: What is there.
        known: The keys it may have.
        where: How a message names the place; the same for the functions below.

    Raises:
        ServiceDefinitionError: It is none, or has others.
    """
    if not isinstance(item, dict):
        raise ServiceDefinitionError(f"{where}: expected a mapping, found {item!r}")
    check_keys(item, known, where)
    return item


def check_keys(found: Mapping[str, object], known: frozenset[str], where: str) -> None:
    """Check that a mapping has no other keys than the known ones.

    Raises:
        ServiceDefinitionError: It has others.
    """
    unknown = sorted(str(key) for key in found if key not in known)
    if unknown:
        raise ServiceDefinitionError(
            f"{where}: {', '.join(unknown)} not understood; known are {', '.join(sorted(known))}"
        )


def checked_text(found: Mapping[str, Any], key: str, where: str) -> str:
    """Return the text under a key.

    Raises:
        ServiceDefinitionError: There is none, or it is empty.
    """
    value = found.get(key)
    if not isinstance(value, str) or not value:
        raise ServiceDefinitionError(f"{where}: {key} must be a text, found {value!r}")
    return value


def checked_each(
    found: Mapping[str, Any], key: str, where: str, parse: Callable[[object], T]
) -> tuple[T, ...]:
    """Parse every item of the list under a key; none where there is no such key.

    Raises:
        ServiceDefinitionError: It is no list.
    """
    items = found.get(key, [])
    if not isinstance(items, list):
        raise ServiceDefinitionError(f"{where}: {key} must be a list")
    return tuple(parse(one) for one in items)


def checked_texts(found: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return the list of texts under a key; none where there is no such key.

    Raises:
        ServiceDefinitionError: It is no list, or holds something else.
    """

    def checked(one: object) -> str:
        if not isinstance(one, str):
            raise ServiceDefinitionError(f"{where}: {key} must be a list of texts")
        return one

    return checked_each(found, key, where, checked)
