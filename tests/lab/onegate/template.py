"""What becomes of the text of an update: quoted by the server, parsed by oned's template grammar.

The server wraps values in quotes without understanding them; oned's scanner and grammar then read
the result. Nearly everything surprising (refused commas, mangled backslashes, a lone quote for an
empty last value) follows from these two steps, so they are modelled and not the single cases.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from xml.sax.saxutils import escape

Vector = dict[str, str]
Value = str | Vector | list[str | Vector]
UserTemplate = dict[str, Value]
Attribute = tuple[str, str | Vector]

RESTRICTED_BY_ONEGATE = frozenset({"SCHED_REQUIREMENTS", "SERVICE_ID", "ROLE_NAME"})
RESTRICTED_BY_ONED = frozenset({"CPU_COST", "MEMORY_COST", "DISK_COST", "PCI", "USER_INPUTS"})
HIDDEN = frozenset({"SCHED_MESSAGE"})


class Version(enum.StrEnum):
    """The OpenNebula releases whose answers were recorded."""

    V7_4 = "7.4"
    V6_4 = "6.4"


class TemplateRefusedError(Exception):
    """oned does not take the text; `str()` is its message as 6.4 passes it on."""


def reports_ready(update_text: str) -> bool:
    """Tell whether OneFlow takes an update for the VM's READY report.

    Source: recordings 023 and 024: OneFlow drops quotes and blanks and looks for READY=YES
    anywhere, so that any key ending in READY counts; 252: one in lower case does not.
    """
    return "READY=YES" in re.sub(r'["\s]', "", update_text)


# --- step one: the server's quotes --------------------------------------------------------------


def quote_values(text: str) -> str:
    """Put quotes around values as the server does, seeing no more than a character's neighbours."""
    pieces: list[str] = []
    is_open = False  # a quote of ours was opened and nothing has closed it yet
    done = 0
    for special in re.finditer(r"[=,\[\]\\\n]", text):
        at, char = special.start(), special.group()
        before = text[at - 1]  # for the first character this is the last one, as in the server
        pieces.append(text[done:at])
        done = at + 1
        if char == "=":
            opens = not is_open and text[at + 1 : at + 2] not in ("[", '"')
            pieces.append('="' if opens else "=")
            is_open = is_open or opens
        elif before == '"' or (char in "[]" and before == "="):
            pieces.append(char)
        else:
            pieces.append('"' + char)
            is_open = is_open and char in ",["
    quoted = ("".join(pieces) + text[done:]).replace("\\n", "\n")
    return quoted + '"' if is_open and not quoted.endswith(("]", '"')) else quoted


def find_restricted_key(quoted: str) -> str | None:
    """Name the first key the server itself protects, spelled as it was sent.

    The name is compared with its blanks, which is why a leading blank gets round the protection.
    """
    names = (line.split("=")[0] for line in quoted.split("\n"))
    return next((name for name in names if name.upper() in RESTRICTED_BY_ONEGATE), None)


# --- between: the XML-RPC call ------------------------------------------------------------------


def carry_over_xmlrpc(text: str) -> str:
    """Do to a text what the call to oned does: refuse some characters, unify line ends.

    Raises:
        TemplateRefusedError: For control characters and those beyond the Basic Multilingual Plane.
    """
    problem = "Call XML not a proper XML-RPC call.  "
    control = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", text)
    if control:
        rest = escape(text[control.start() :]) + "</string></value></param><param><value><i4>1</i4>"
        token = re.sub(r"[\x00-\x1f]", lambda char: f"\\x{ord(char.group()):02x}", rest[:40])
        raise TemplateRefusedError(
            f'{problem}Call is not valid XML.  Invalid XML "content".  '
            f"Problem with token at '{token}...': Invalid token, starting 0 bytes in"
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    beyond = re.search(r"[\U00010000-\U0010ffff]", text)
    if beyond:
        first_byte = beyond.group().encode()[0]
        raise TemplateRefusedError(
            f"{problem}{len(text.encode())}-byte supposed UTF-8 string is not valid UTF-8.  "
            "UTF-8 string contains a character not in the Basic Multilingual Plane "
            f"(first byte 0xffffff{first_byte:02x})"
        )
    return text


# --- step two: oned's scanner and grammar -------------------------------------------------------


class Kind(enum.StrEnum):
    """Tokens, named as in oned's error messages."""

    VARIABLE = "VARIABLE"
    EQUAL = "EQUAL"
    EQUAL_EMPTY = "EQUAL_EMPTY"
    COMMA = "COMMA"
    OBRACKET = "OBRACKET"
    CBRACKET = "CBRACKET"
    CDATA = "CCDATA"
    STRING = "STRING"
    END = "$end"


@dataclass(frozen=True)
class Token:
    """One token; `text` is empty where only the kind matters."""

    kind: Kind
    text: str = ""


Rules = tuple[tuple[Kind | None, re.Pattern[bytes]], ...]

# The longest match wins, among equals the first. A rule of kind None is skipped.
_OUTSIDE_VALUE: Rules = (
    (None, re.compile(rb"[ \t]*#.*\n")),
    (None, re.compile(rb"[ \t\n]+")),
    (Kind.VARIABLE, re.compile(rb"[A-Za-z0-9_]+")),
    (Kind.EQUAL, re.compile(rb"[ \t]*=[ \t]*")),
    (Kind.EQUAL_EMPTY, re.compile(rb"[ \t]*=[ \t]*\n")),
    (Kind.COMMA, re.compile(rb"[ \t\n]*,[ \t\n]*")),
    (Kind.CBRACKET, re.compile(rb"[ \t\n]*\][ \t\n]*")),
)
_QUOTED = re.compile(rb'"(?:[^"\\]++|\\"|\\)*"')
_IN_VALUE: Rules = (
    (Kind.OBRACKET, re.compile(rb"[ \t]*\[[ \t\n]*")),
    (Kind.CDATA, re.compile(rb".*\]\]>.*")),
    (Kind.STRING, _QUOTED),
    (Kind.STRING, re.compile(rb"[^=# \t\n,\[\]]+")),
)


@dataclass
class Scanner:
    """Cuts the text into tokens; like oned's it drops bytes that fit no rule without a word."""

    data: bytes
    position: int = 0
    line: int = 1
    columns: tuple[int, int] = (1, 1)
    rules: Rules = field(default=_OUTSIDE_VALUE)

    def read_token(self) -> Token:
        """Return the next token; `line` and `columns` then tell where the last match was."""
        while self.position < len(self.data):
            kind, pattern, matched = self._match()
            self._advance(matched)
            if kind is not None:
                return self._make_token(kind, pattern, matched)
        return Token(Kind.END)

    def _match(self) -> tuple[Kind | None, re.Pattern[bytes] | None, bytes]:
        best: tuple[Kind | None, re.Pattern[bytes] | None, bytes] = (None, None, b"")
        for kind, pattern in self.rules:
            match = pattern.match(self.data, self.position)
            if match and len(match.group()) > len(best[2]):
                best = (kind, pattern, match.group())
        return best if best[2] else (None, None, self.data[self.position : self.position + 1])

    def _advance(self, matched: bytes) -> None:
        self.position += len(matched)
        self.line += matched.count(b"\n")
        self.columns = (self.columns[1], self.columns[1] + len(matched))

    def _make_token(self, kind: Kind, pattern: re.Pattern[bytes] | None, matched: bytes) -> Token:
        if kind is Kind.EQUAL:
            self.rules = _IN_VALUE
        elif self.rules is _IN_VALUE:
            self.rules = _OUTSIDE_VALUE
        text = matched[1:-1] if pattern is _QUOTED else matched
        return Token(kind, text.decode(errors="replace"))


class Parser:
    """oned's grammar: attributes, each a scalar or a vector, one after another."""

    def __init__(self, text: str) -> None:
        """Prepare to parse a text that came through the XML-RPC call."""
        self._scanner = Scanner(text.encode())

    def parse(self) -> list[Attribute]:
        """Return names and values in order of appearance; a name may occur more than once.

        Raises:
            TemplateRefusedError: With oned's syntax error, or the bare "Parse error".
        """
        attributes: list[Attribute] = []
        token = self._scanner.read_token()
        while token.kind is not Kind.END:
            if token.kind is not Kind.VARIABLE:
                self._refuse(token, Kind.END)
            attributes.append((_store_name(token.text), self._parse_value()))
            token = self._scanner.read_token()
        return attributes

    def _parse_value(self) -> str | Vector:
        if self._expect(Kind.EQUAL, Kind.EQUAL_EMPTY).kind is Kind.EQUAL_EMPTY:
            return ""
        token = self._expect(Kind.OBRACKET, Kind.CDATA, Kind.STRING)
        if token.kind is Kind.CDATA:
            raise TemplateRefusedError("[one.vm.update] Cannot update template. Parse error.")
        return self._parse_vector() if token.kind is Kind.OBRACKET else _unescape(token.text)

    def _parse_vector(self) -> Vector:
        vector: Vector = {}
        token = self._expect(Kind.CBRACKET, Kind.VARIABLE)
        while token.kind is Kind.VARIABLE:
            self._expect(Kind.EQUAL)
            vector.setdefault(token.text.upper(), _unescape(self._expect(Kind.STRING).text))
            token = self._expect(Kind.COMMA, Kind.CBRACKET)
            if token.kind is Kind.COMMA:
                token = self._expect(Kind.VARIABLE)
        return vector

    def _expect(self, *kinds: Kind) -> Token:
        token = self._scanner.read_token()
        if token.kind not in kinds:
            self._refuse(token, *kinds)
        return token

    def _refuse(self, token: Token, *expected: Kind) -> NoReturn:
        first, last = self._scanner.columns
        raise TemplateRefusedError(
            "[one.vm.update] Cannot update template. Parse error: syntax error, "
            f"unexpected {token.kind}, expecting {' or '.join(expected)} "
            f"at line {self._scanner.line}, columns {first}:{last}"
        )


def _store_name(name: str) -> str:
    return f"ONE_{name}".upper() if name[0].isdigit() else name.upper()


def _unescape(value: str) -> str:
    return value.replace('\\"', '"')


# --- the whole ----------------------------------------------------------------------------------


def parse_update(quoted: str, version: Version) -> list[Attribute]:
    """Return what oned stores for a text the server has quoted.

    Raises:
        TemplateRefusedError: oned refuses the whole text; nothing of it is stored.
    """
    attributes = Parser(carry_over_xmlrpc(quoted)).parse()
    for name, _ in attributes:
        if name in RESTRICTED_BY_ONED:
            raise TemplateRefusedError(
                "[one.vm.update] Cannot update template. "
                f"User Template includes a restricted attribute {name}"
            )
    if version is Version.V6_4:
        return attributes
    # 7.4 strips scalars. What it does to the members of a vector was not recorded: they are kept.
    return [
        (name, value.strip() if isinstance(value, str) else value) for name, value in attributes
    ]


def merge(old: Mapping[str, Value], attributes: Iterable[Attribute]) -> UserTemplate:
    """Return the template after an update.

    A key that is given replaces all its old values; given more than once, it becomes a list.
    """
    given: dict[str, list[str | Vector]] = {}
    for name, value in attributes:
        given.setdefault(name, []).append(value)
    news: UserTemplate = {
        name: values[0] if len(values) == 1 else values for name, values in given.items()
    }
    return {**old, **news}


def render_template(template: Mapping[str, Value]) -> str:
    """Write a user template as an erase sends it back to oned; only the READY check reads it."""
    lines: list[str] = []
    for name, value in sorted(template.items()):
        for single in value if isinstance(value, list) else [value]:
            if isinstance(single, str):
                lines.append(f'{name}="{single}"')
            else:
                members = ",".join(f'{key}="{member}"' for key, member in single.items())
                lines.append(f"{name}=[{members}]")
    return "\n".join(lines)


# --- type=2: the key as an XPath expression -----------------------------------------------------


class XPathProblem(enum.StrEnum):
    """What the XML library says about the key of an erase."""

    NOT_NODES = "node_set must be a Nokogiri::XML::NodeSet"
    UNFINISHED = "Unfinished literal"
    INVALID = "Invalid expression"


def judge_key(quoted: str) -> XPathProblem | None:
    """Say why USER_TEMPLATE/<text> is no path to an element, None if it is one."""
    path = re.match(r"\s*[^\W\d][\w.-]*\s*", quoted)
    if not path:
        return XPathProblem.INVALID
    rest = quoted[path.end() :]
    if not rest:
        return None
    if re.fullmatch(r'=\s*"[^"]*"\s*', rest):
        return XPathProblem.NOT_NODES  # a comparison, so the result is a truth value
    return XPathProblem.UNFINISHED if re.match(r'=\s*"[^"]*$', rest) else XPathProblem.INVALID
