r"""The text of a VM context, parsed and never executed.

Two forms exist. `context.sh` is written by oned: one `KEY='value'` per variable in single-quoted
shell, a quote inside as `'\\''`. `one_env` is written by the contextualization packages: one
`export KEY="value"` per variable with the value put in raw, so that a quote or a backslash inside
makes it ambiguous.

Source: OpenNebula one-apps, context-linux; a context.sh recorded from oned 7.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from appliance.errors import ContextError

MAX_CONTEXT_BYTES = 4 * 1024 * 1024
MAX_VARIABLES = 10_000

_BYTE_ORDER_MARK = "\ufeff"
_EXPORT = re.compile(r"^export ([^=\s]+)=\"", re.MULTILINE)
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")


@dataclass(frozen=True)
class Context:
    """The variables of a VM's context.

    Attributes:
        values: Name to text, exactly as given; an empty text is kept.
        source: Where it was read, for messages.
        warnings: What was doubtful and how it was decided, for the log.
    """

    values: Mapping[str, str]
    source: str
    warnings: tuple[str, ...] = field(default=())

    def get(self, name: str) -> str | None:
        """Return the text of a variable, or None if it is unset or empty."""
        return self.values.get(name) or None


class Ambiguous(ContextError):
    """A `one_env` that can be read in several ways, for its values are written unescaped."""


def parse_one_env(text: str, source: str = "one_env") -> dict[str, str]:
    r"""Read the form `export NAME="value"` that the contextualization packages write.

    A value reaches from the first quote to the last one before the next line that begins an export;
    what stands behind it on its line, comments, blank and other lines are passed over. `\"` and
    `\\` are read as the character they protect, every other backslash as itself. A later line for
    the same name wins.

    Args:
        text: The whole file.
        source: What to call it in messages.

    Raises:
        Ambiguous: A value has no closing quote or a bare quote inside; the line is named.
        ContextError: There is no export line at all, although there is text.
    """
    text = text.removeprefix(_BYTE_ORDER_MARK)
    _refuse_unreadable(text, source)
    starts = list(_EXPORT.finditer(text))
    if not starts and _is_meaningful(text):
        raise ContextError(
            f'{source}, line {_first_meaningful_line(text)}: expected export NAME="value"',
            hint=(
                "this is the file the contextualization packages write, or a context.sh given by"
                " --context"
            ),
        )
    _refuse_too_many(len(starts), source)
    values: dict[str, str] = {}
    ends = [following.start() for following in starts[1:]] + [len(text)]
    for start, end in zip(starts, ends, strict=False):
        line = text.count("\n", 0, start.start()) + 1
        values[start[1]] = _one_env_value(
            text[start.end() : end], start[1], f"{source}, line {line}"
        )
    return values


def _one_env_value(chunk: str, name: str, where: str) -> str:
    closing = chunk.rfind('"')
    if closing < 0:
        raise Ambiguous(f"{where}: {name} has no closing quote")
    raw = chunk[:closing]
    decoded = []
    position = 0
    while position < len(raw):
        character = raw[position]
        if character == '"':
            raise Ambiguous(f"{where}: {name} has an unprotected quote inside its value")
        if character == "\\":
            protected = raw[position + 1 : position + 2]
            if not protected:
                raise Ambiguous(f"{where}: {name} ends in a backslash before its closing quote")
            if protected in '"\\':
                decoded.append(protected)
                position += 2
                continue
        decoded.append(character)
        position += 1
    return "".join(decoded)


def is_doubtful(values: Mapping[str, str]) -> bool:
    """Say whether a parsed `one_env` holds values that its unescaped form may have changed."""
    return any('"' in value or "\\" in value for value in values.values())


def parse_context_sh(text: str, source: str = "context.sh") -> dict[str, str]:
    r"""Read the form `NAME='value'` that oned writes on the context disc.

    Values are single-quoted shell words in which `'\''` stands for a quote; double-quoted and bare
    words are understood too, without any expansion. Comment and blank lines are passed over.

    Raises:
        ContextError: A line is neither; its number is named.
    """
    text = text.removeprefix(_BYTE_ORDER_MARK)
    _refuse_unreadable(text, source)
    values: dict[str, str] = {}
    position = 0
    while position < len(text):
        position = _skip_blank(text, position)
        if position >= len(text):
            break
        assignment = _ASSIGNMENT.match(text, position)
        if assignment is None:
            line = text.count("\n", 0, position) + 1
            raise ContextError(f"{source}, line {line}: expected NAME='value'")
        values[assignment[1]], position = _shell_word(text, assignment.end(), assignment[1], source)
        _refuse_too_many(len(values), source)
    return values


def _skip_blank(text: str, position: int) -> int:
    while position < len(text):
        if text[position].isspace():
            position += 1
        elif text[position] == "#":
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
        elif text.startswith("export ", position):
            position += len("export ")
        else:
            return position
    return position


def _shell_word(text: str, position: int, name: str, source: str) -> tuple[str, int]:
    parts: list[str] = []
    line = text.count("\n", 0, position) + 1
    while position < len(text) and not text[position].isspace():
        character = text[position]
        if character == "'":
            end = text.find("'", position + 1)
            if end < 0:
                raise ContextError(f"{source}, line {line}: {name} has no closing quote")
            parts.append(text[position + 1 : end])
            position = end + 1
        elif character == '"':
            part, position = _double_quoted(text, position + 1, f"{source}, line {line}: {name}")
            parts.append(part)
        elif character == "\\" and position + 1 < len(text):
            parts.append(text[position + 1])
            position += 2
        elif character in "$`;&|<>()":
            raise ContextError(
                f"{source}, line {line}: {name} holds {character} outside of quotes; a context is"
                " read, not executed"
            )
        else:
            parts.append(character)
            position += 1
    return "".join(parts), position


def _double_quoted(text: str, position: int, where: str) -> tuple[str, int]:
    parts: list[str] = []
    while position < len(text):
        character = text[position]
        if character == '"':
            return "".join(parts), position + 1
        if character == "\\" and text[position + 1 : position + 2] in ('"', "\\", "$", "`"):
            parts.append(text[position + 1])
            position += 2
            continue
        parts.append(character)
        position += 1
    raise ContextError(f"{where} has no closing quote")


def parse_context(text: str, source: str) -> Context:
    """Read a file given by name, whichever of the two forms it has.

    Raises:
        ContextError: It is neither form.
    """
    if _begins_as_one_env(text.removeprefix(_BYTE_ORDER_MARK)):
        return Context(parse_one_env(text, source), source)
    values = parse_context_sh(text, source)
    if not values:
        raise ContextError(f"{source}, line 1: expected NAME='value', found nothing")
    return Context(values, source)


def _begins_as_one_env(text: str) -> bool:
    """Judge by the first line that says something: a value of the other form may hold exports."""
    lines = text.splitlines()
    first = next((lines[number - 1] for number in _meaningful_lines(text)), "")
    if _EXPORT.match(first):
        return True
    is_assignment = _ASSIGNMENT.match(first.removeprefix("export ").lstrip())
    return not is_assignment and _EXPORT.search(text) is not None


def _refuse_unreadable(text: str, source: str) -> None:
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ContextError(f"{source}, line {line}: holds a NUL character, so it is no context")
    if len(text) > MAX_CONTEXT_BYTES:
        raise ContextError(
            f"{source}: {len(text)} characters, a context has at most {MAX_CONTEXT_BYTES}"
        )


def _refuse_too_many(count: int, source: str) -> None:
    if count > MAX_VARIABLES:
        raise ContextError(f"{source}: more than {MAX_VARIABLES} variables, so it is no context")


def _is_meaningful(text: str) -> bool:
    return any(_meaningful_lines(text))


def _first_meaningful_line(text: str) -> int:
    return next(_meaningful_lines(text))


def _meaningful_lines(text: str) -> Iterator[int]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number
