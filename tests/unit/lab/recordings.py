"""Reads the recorded exchanges in tests/data/onegate-recordings; their README tells the format."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.lab.onegate.template import Value, Vector

RECORDINGS = Path(__file__).parents[2] / "data" / "onegate-recordings"

_ALPHABET = b"abcdefghijklmnopqrstuvwxyz"
_CUT = re.compile(rb"\n\[\.\.\. (\d+) bytes in all, sha256 ([0-9a-f]{64}) \.\.\.\]\n")


@dataclass(frozen=True)
class CutBody:
    """A body of which only beginning and end were kept."""

    head: bytes
    tail: bytes
    size: int
    sha256: str

    def is_cut_from(self, body: bytes) -> bool:
        return len(body) == self.size and hashlib.sha256(body).hexdigest() == self.sha256


@dataclass(frozen=True)
class Recording:
    """One exchange; names of answer headers are in lower case.

    Attributes:
        read_back: Keys that were new or different after the update; None if nothing was read back.
        gone: Keys that were gone after the update.
        is_continued: The server said 100 Continue.
    """

    version: str
    name: str
    request_line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    status: int
    answer_headers: Mapping[str, str]
    answer: bytes | CutBody
    read_back: Mapping[str, Value] | None
    gone: frozenset[str]
    is_continued: bool

    @property
    def number(self) -> int:
        return int(self.name[:3])

    @property
    def method(self) -> str:
        return self.request_line.split(" ")[0]

    @property
    def path(self) -> str:
        return self.request_line.split(" ")[1].partition("?")[0]

    @property
    def vm_id(self) -> int:
        """The VM whose user template the request is about."""
        target = re.fullmatch(r"/vms/(\d+)", self.path)
        return int(target.group(1) if target else self.header("X-ONEGATE-VMID"))

    def header(self, name: str) -> str:
        return dict((key.lower(), value) for key, value in self.headers).get(name.lower(), "")


@cache
def load(version: str) -> tuple[Recording, ...]:
    """Read all exchanges of a version, in the order of their names."""
    paths = sorted((RECORDINGS / version).glob("*.txt"))
    return tuple(_parse(version, path) for path in paths if b"----- REQUEST" in path.read_bytes())


def find(version: str, number: int) -> Recording:
    """Return the exchange of a number."""
    return next(found for found in load(version) if found.number == number)


def read_context(version: str, name: str) -> tuple[dict[str, str], str]:
    """Return a recorded context and the token below it (empty if there is none)."""
    text = (RECORDINGS / version / name).read_text(encoding="utf-8")
    token = re.search(r"^([A-Za-z0-9+/]{22}==)$", text, re.MULTILINE)
    return dict(re.findall(r"^(\w+)='(.*)'$", text, re.MULTILINE)), token.group(1) if token else ""


def make_filler(size: int) -> bytes:
    """Make the text of the long values: the alphabet over and over."""
    return (_ALPHABET * (size // len(_ALPHABET) + 1))[:size]


def _parse(version: str, path: Path) -> Recording:
    parts = re.split(rb"^----- (.+?) -----\n", path.read_bytes(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    request_line, headers, rest = _split_message(sections[b"REQUEST"])
    sent = {key.lower(): value for key, value in headers}
    body = _cut_out(rest, sent)
    response = sections[b"RESPONSE"]
    is_continued = response.startswith(b"HTTP/1.1 100 Continue\n\n")
    status_line, answer_headers, answer = _split_message(
        response.removeprefix(b"HTTP/1.1 100 Continue\n\n")
    )
    received = {key.lower(): value for key, value in answer_headers}
    is_head = request_line.startswith("HEAD")
    read_back, gone = _parse_read_back(sections)
    return Recording(
        version=version,
        name=path.stem,
        request_line=request_line,
        headers=headers,
        body=_restore(body) if isinstance(body, CutBody) else body,
        status=int(status_line.split(" ")[1]) if status_line else 0,
        answer_headers=received,
        answer=b"" if is_head else _cut_out(answer, received),
        read_back=read_back,
        gone=gone,
        is_continued=is_continued,
    )


def _split_message(section: bytes) -> tuple[str, tuple[tuple[str, str], ...], bytes]:
    head, _, rest = section.partition(b"\n\n")
    first, *lines = head.decode().split("\n")
    pairs = (line.partition(": ") for line in lines if line)
    return first, tuple((name, value) for name, _, value in pairs), rest


def _cut_out(rest: bytes, headers: Mapping[str, str]) -> bytes | CutBody:
    cut = _CUT.search(rest)
    if cut:
        tail = rest[cut.end() :].rstrip(b"\n")
        return CutBody(rest[: cut.start()], tail, int(cut.group(1)), cut.group(2).decode())
    if "content-length" in headers:
        return rest[: int(headers["content-length"])]
    return rest.rstrip(b"\n")


def _restore(cut: CutBody) -> bytes:
    """Put a long request together again: only its filler is missing."""
    head = cut.head[: cut.head.index(_ALPHABET)]
    tail = b"&type=1" if cut.tail.endswith(b"&type=1") else b""
    body = head + make_filler(cut.size - len(head) - len(tail)) + tail
    assert cut.is_cut_from(body)
    return body


def _parse_read_back(
    sections: Mapping[bytes, bytes],
) -> tuple[dict[str, Value] | None, frozenset[str]]:
    text = next(
        (text for title, text in sections.items() if title.startswith(b"READ BACK with")), None
    )
    if text is None:
        return None, frozenset()
    stored: dict[str, Value] = {}
    gone: set[str] = set()
    for line in text.decode().splitlines():
        long_value = re.match(r"(\w+): string of (\d+) characters, sha256 (\w+)", line)
        if line.startswith("{"):
            stored |= _read_object(line)
        elif long_value:
            value = make_filler(int(long_value.group(2)))
            assert hashlib.sha256(value).hexdigest() == long_value.group(3)
            stored[long_value.group(1)] = value.decode()
        elif line.startswith("keys gone: "):
            gone |= set(line.removeprefix("keys gone: ").replace(",", " ").split())
    return stored, frozenset(gone)


def _read_object(line: str) -> dict[str, str | Vector | list[str | Vector]]:
    value: Any = json.loads(line)
    return dict(value)
