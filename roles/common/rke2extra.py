"""A user's own RKE2 configuration: read, checked and merged behind the agent's."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

import yaml

from appliance.errors import Problem
from appliance.values import Rejected
from roles.common.rke2keys import LISTED_KEYS, KnownKeys, near_key, why_owned

Config = dict[str, object]

EXTRA_CONFIG_KEY = "ONEAPP_RKE2_EXTRA_CONFIG"

# Lists that are added to in any case, for the agent's own items have to be there.
_ADDED_TO = ("node-label", "tls-san")
_NULLS = ("~", "null", "Null", "NULL")
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def parse_extra_config(text: str) -> dict[str, object]:
    """Read a user's configuration: key, possibly with a + behind it, to value or list of values.

    Texts stay as they are written, so that 0644 is not taken for a number in octal.

    Raises:
        Rejected: It is no YAML, no mapping, or holds what no option can be given.
    """
    try:
        document = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  # makes texts only
    except yaml.YAMLError as error:
        raise Rejected(f"expected YAML; {_where(error)}") from None
    if document in (None, ""):
        return {}
    if not isinstance(document, Mapping):
        raise Rejected("expected YAML of the form key: value")
    return {str(key): _value(str(key), value) for key, value in document.items()}


def keys_of_extra_config(text: str | None) -> frozenset[str]:
    """Return the keys that a user's configuration sets or adds to; none where it is not sound."""
    try:
        return frozenset(key.removesuffix("+") for key in parse_extra_config(text or ""))
    except Rejected:
        return frozenset()


def _where(error: yaml.YAMLError) -> str:
    """Tell where YAML goes wrong, without what stands there."""
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1} is none" if mark else "this is none"


def _value(key: str, value: object) -> object:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [_scalar(item) for item in value]
    if isinstance(value, str):
        return _scalar(value)
    raise Rejected(f"{key}: expected a text, a number, true or false, or a list of these")


def _scalar(text: str) -> object:
    return "" if text in _NULLS else _TRUTHS.get(text, text)


def check_extra_config(
    text: str | None, known: KnownKeys | None = LISTED_KEYS
) -> tuple[list[Problem], list[str]]:
    """Find what is wrong or doubtful about a user's configuration; values are never shown.

    Args:
        text: The configuration; None for none.
        known: What RKE2 understands; None before the installed one was asked, whose word a refusal
            of an unknown key has to wait for.
    """
    try:
        extra = parse_extra_config(text or "")
    except Rejected as rejected:
        return [Problem(EXTRA_CONFIG_KEY, None, str(rejected))], []
    problems, warnings = [], []
    for key in (key.removesuffix("+") for key in extra):
        wrong = _what_is_wrong(key, known)
        if wrong:
            problems.append(Problem(EXTRA_CONFIG_KEY, None, wrong))
        elif key not in (known or LISTED_KEYS).every:
            near = near_key(key, (known or LISTED_KEYS).every)
            meant = f"; did you mean {near}?" if near else ""
            warnings.append(
                f"{EXTRA_CONFIG_KEY}: {key} is not known to RKE2, which will skip it if so{meant}"
            )
    return problems, warnings


def _what_is_wrong(key: str, known: KnownKeys | None) -> str | None:
    owned = why_owned(key)
    if owned:
        return f"{key} is not to be set here: {owned}"
    if known is None:
        return None
    near = None if key in known.every else near_key(key, known.every)
    return f"{key} is not known to RKE2; did you mean {near}?" if near else None


def merge_extra_config(
    config: Mapping[str, object], extra: Mapping[str, object], left_out: Container[str] = ()
) -> Config:
    """Put a user's settings behind the agent's, as RKE2 merges files.

    A key replaces what was there; with a + behind it, it adds to the list. Labels and names of the
    certificate are always added.

    Args:
        config: The agent's.
        extra: The user's, well formed.
        left_out: The user's keys that are not for this node.
    """
    merged = dict(config)
    for key, value in extra.items():
        name = key.removesuffix("+")
        if name in left_out:
            continue
        if key != name or name in _ADDED_TO:
            merged[name] = [*items_of(merged.get(name)), *items_of(value)]
        else:
            merged[name] = value
    return merged


def items_of(value: object) -> Iterator[object]:
    """Yield a list's items, or the one value, each once; nothing for None."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    yield from dict.fromkeys(items)
