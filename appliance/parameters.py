"""Parameters: declared once as data, parsed from a context all at once.

An `Entry` is one line of a drop-in's parameters.yaml. A name may be a family, written with numbered
parts in angle brackets (`ONEAPP_VROUTER_ETH<nic>_VIP<index>`); its value is then one mapping from
the numbers to the values. `parse_parameters` never stops at the first problem: it returns every
problem together with the values that are sound.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, TypeVar, get_type_hints

from appliance.context import Context
from appliance.errors import Problem
from appliance.secret import MASK
from appliance.values import SECRET_TYPES, TRUE_WORDS, TYPES, Rejected

_PART = re.compile(r"<(\w+)>")
_CREDENTIALS = re.compile(r"//[^/\s]*@")
_NEAR = 0.9
_SHOWN = 80

T = TypeVar("T")


@dataclass(frozen=True)
class Alias:
    """An older or conditional name for an entry.

    Attributes:
        name: The name, possibly a family over some of the entry's parts.
        fixed: Numbers for the parts of the entry that the alias does not have.
        unless_true: The alias counts only if this switch is not on.
        unless_any: The alias counts only if no member of this family is present.
        transform: `before_colon` or `after_colon` of the text, or None for the text as it is.
    """

    name: str
    fixed: Mapping[str, int] = field(default_factory=dict)
    unless_true: str | None = None
    unless_any: str | None = None
    transform: str | None = None


@dataclass(frozen=True)
class Entry:
    """One declared parameter (or family of parameters).

    Attributes:
        name: The context key, or the pattern of a family.
        field: The name of the value in the typed view of its service.
        type: A key of `appliance.values.TYPES`.
        description: One sentence.
        example: A text that parses.
        roles: The roles that act on it; empty for all.
        default: The text that stands for an unset or empty value; None for no value.
        default_from: How the default is found where it is computed, in words.
        implied_before: The text that stands for an unset value in templates of the 1.24 generation.
        implied_by: Names that turn an unset switch on where one of them has a value.
        keep_empty: Whether members of a family count although they are empty (their value is None).
        refused: Why a switch must not be turned on; None where it may.
        ignored: Whether the parameter is accepted without effect.
    """

    name: str
    field: str
    type: str
    description: str
    example: str
    roles: tuple[str, ...] = ()
    required: bool = False
    default: str | None = None
    default_from: str | None = None
    implied_before: str | None = None
    implied_by: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    unit: str | None = None
    keep_empty: bool = False
    refused: str | None = None
    ignored: bool = False
    aliases: tuple[Alias, ...] = ()

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The names of a family's parts, in order; empty for a single parameter."""
        return tuple(_PART.findall(self.name))

    @cached_property
    def is_family(self) -> bool:
        """Whether the name stands for many keys."""
        return "<" in self.name

    def is_secret(self) -> bool:
        """Whether its value must not be shown."""
        return self.type in SECRET_TYPES


def compile_name(name: str) -> re.Pattern[str]:
    """Turn a name, possibly of a family, into an expression with one group a numbered part.

    `<any>` stands for any ending, every other part for a decimal number.
    """
    pattern = ""
    for position, piece in enumerate(_PART.split(name)):
        if position % 2 == 0:
            pattern += re.escape(piece)
        else:
            pattern += "(?P<any>.*)" if piece == "any" else f"(?P<{piece}>[0-9]{{1,9}})"
    return re.compile(pattern + r"\Z")


@dataclass(frozen=True)
class _Given:
    """A context key that speaks for an entry: which member of a family, and with what text."""

    key: str
    index: tuple[int | str, ...]
    text: str
    is_alias: bool


@dataclass(frozen=True)
class ParsedParameters:
    """The values of a context, with all that is wrong or doubtful about them.

    Attributes:
        values: Service name to field name to value.
        problems: Everything that is wrong, in no order.
        warnings: What is doubtful or superseded.
        bad_keys: The keys that have a problem of their own.
    """

    values: Mapping[str, Mapping[str, object]]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    @property
    def bad_keys(self) -> frozenset[str]:
        """The keys that have a problem of their own."""
        return frozenset(problem.key for problem in self.problems)


def parse_parameters(
    entries_of: Mapping[str, Sequence[Entry]],
    context: Context,
    *,
    legacy: bool,
    role: str | None = None,
) -> ParsedParameters:
    """Parse every declared parameter out of a context.

    Args:
        entries_of: Service name to its entries.
        context: Where the texts come from.
        legacy: Whether the template is of the 1.24 generation, so that unset values mean what they
            meant then.
        role: The role that is asked for; entries meant for others are left at their defaults. None
            for any.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    values: dict[str, dict[str, object]] = {}
    for service, entries in entries_of.items():
        parsed: dict[str, object] = {}
        taken = _keys_named_in_full(entries)
        for entry in entries:
            if role is not None and entry.roles and role not in entry.roles:
                parsed[entry.field] = {} if entry.is_family else _default(entry, legacy)
                continue
            given = _texts_given(entry, context, taken, warnings)
            parsed[entry.field] = _value_of(entry, given, context, legacy, problems)
            if entry.required and not given:
                problems.append(
                    Problem(entry.name, None, f"required: {entry.description}", context.source)
                )
        values[service] = parsed
    return ParsedParameters(values, tuple(problems), tuple(warnings))


def _keys_named_in_full(entries: Iterable[Entry]) -> frozenset[str]:
    return frozenset(entry.name for entry in entries if not entry.is_family)


def _texts_given(
    entry: Entry, context: Context, taken: frozenset[str], warnings: list[str]
) -> dict[tuple[int | str, ...], _Given]:
    found: dict[tuple[int | str, ...], _Given] = {}
    for given in _candidates(entry, context, taken):
        if not given.text and not entry.keep_empty:
            continue
        first = found.setdefault(given.index, given)
        if first is not given and first.text != given.text and given.text:
            shown = (
                "" if entry.is_secret() else f" ({_shorten(first.text)} and {_shorten(given.text)})"
            )
            warnings.append(
                f"{first.key} and its older name {given.key} differ{shown}: {first.key} is taken"
            )
    return found


def _candidates(entry: Entry, context: Context, taken: frozenset[str]) -> Iterator[_Given]:
    """Yield what speaks for an entry: the current name first, then aliases as declared."""
    yield from _members(entry.name, entry.parts, {}, context, taken, is_alias=False)
    for alias in entry.aliases:
        if (
            alias.unless_true
            and (context.get(alias.unless_true) or "").strip().lower() in TRUE_WORDS
        ):
            continue
        if alias.unless_any and _is_any_set(alias.unless_any, context):
            continue
        for given in _members(
            alias.name, entry.parts, alias.fixed, context, frozenset(), is_alias=True
        ):
            text = _transform(given.text, alias.transform)
            yield _Given(given.key, given.index, text, is_alias=True)


def _is_any_set(family: str, context: Context) -> bool:
    """Say whether a member of a family has a value; OneFlow passes unset ones as empty texts."""
    expression = compile_name(family)
    return any(value and expression.match(key) for key, value in context.values.items())


def _members(
    name: str,
    parts: tuple[str, ...],
    fixed: Mapping[str, int],
    context: Context,
    taken: frozenset[str],
    *,
    is_alias: bool,
) -> Iterator[_Given]:
    if "<" not in name:
        if name in context.values:
            yield _Given(name, tuple(fixed[part] for part in parts), context.values[name], is_alias)
        return
    expression = compile_name(name)
    matches = [(key, expression.match(key)) for key in context.values if key not in taken]
    members = []
    for key, match in matches:
        if match:
            numbers = match.groupdict()
            index: tuple[int | str, ...] = tuple(
                _number(numbers[part]) if part in numbers else fixed[part] for part in parts
            )
            members.append(_Given(key, index, context.values[key], is_alias))
    yield from sorted(members, key=lambda given: (_order(given.index), given.key))


def _order(index: tuple[int | str, ...]) -> tuple[tuple[int, str], ...]:
    """Sort numbers as numbers, and before texts."""
    return tuple((part, "") if isinstance(part, int) else (sys.maxsize, part) for part in index)


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else text


def _transform(text: str, transform: str | None) -> str:
    if transform is None:
        return text
    before, _, after = text.partition(":")
    return before if transform == "before_colon" else after


def _value_of(
    entry: Entry,
    given: Mapping[tuple[int | str, ...], _Given],
    context: Context,
    legacy: bool,
    problems: list[Problem],
) -> object:
    if entry.is_family:
        members = {
            index: _parse_text(entry, one.key, one.text, context, problems) if one.text else None
            for index, one in given.items()
        }
        kept = {i: v for i, v in members.items() if v is not None or entry.keep_empty}
        return {_flat(index): value for index, value in kept.items()}
    for one in given.values():
        value = _parse_text(entry, one.key, one.text, context, problems)
        if value is not None:
            return value
    if not given and any(_is_any_set(name, context) for name in entry.implied_by):
        return True
    return _default(entry, legacy)


def _default(entry: Entry, legacy: bool) -> object:
    default = entry.implied_before if legacy and entry.implied_before is not None else entry.default
    if default is None or default == "":
        return _nothing(entry, default)
    return TYPES[entry.type].parse(default, entry)


def _nothing(entry: Entry, default: str | None) -> object:
    """Tell an interface list that means none (default null) from one that means all ('')."""
    return () if entry.type == "interface_list" and default == "" else None


def _flat(index: tuple[int | str, ...]) -> int | str | tuple[int | str, ...]:
    return index[0] if len(index) == 1 else index


def _parse_text(
    entry: Entry, key: str, text: str, context: Context, problems: list[Problem]
) -> object:
    if entry.ignored:
        return text
    try:
        value = TYPES[entry.type].parse(text, entry)
    except Rejected as rejected:
        problems.append(Problem(key, show(entry, text), str(rejected), context.source))
        return None
    if entry.refused and value is True:
        problems.append(Problem(key, show(entry, text), entry.refused, context.source))
    return value


def show(entry: Entry, text: str) -> str:
    """Show a value in a message: masked where it is secret, cut where it is long, in one line."""
    return MASK if entry.is_secret() else _shorten(_CREDENTIALS.sub(f"//{MASK}@", text))


def _shorten(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}... ({len(text)} characters)"


def find_near_misses(
    names: Iterable[str], context: Context, prefix: str = "ONEAPP_"
) -> tuple[str, ...]:
    """Warn about unknown keys that look like a misspelt known one.

    Args:
        names: Every known name, aliases and families included.
        context: The context to look through.
        prefix: Only keys that begin so are ours to judge.
    """
    known = list(names)
    expressions = [compile_name(name) for name in known]
    unknown = [
        key
        for key in sorted(context.values)
        if key.startswith(prefix) and not any(expression.match(key) for expression in expressions)
    ]
    if not unknown:
        return ()
    shapes = {_PART.sub("0", name): name for name in known}
    warnings = []
    for key in unknown:
        near = difflib.get_close_matches(re.sub(r"\d+", "0", key), shapes, n=1, cutoff=_NEAR)
        if near:
            warnings.append(
                f"{key} is not a known parameter and has no effect; did you mean {shapes[near[0]]}?"
            )
    return tuple(warnings)


def build_view(view: type[T], values: Mapping[str, Any]) -> T:
    """Fill a role's typed view: fields are services' views, or fields of one service.

    Args:
        view: A frozen dataclass. A field whose type is a dataclass is filled from `values[field]`.
        values: Field name to value.
    """
    hints = get_type_hints(view)
    arguments = {}
    for one in fields(view):  # type: ignore[arg-type]  # T is a dataclass by contract
        hint = hints[one.name]
        value = values[one.name]
        nested = isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping)
        arguments[one.name] = build_view(hint, value) if nested else value
    return view(**arguments)
