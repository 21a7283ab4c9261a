"""Requests and answers as values, and how a request's parameters are read from query and body."""

from __future__ import annotations

import email
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from tests.lab.onegate.template import Version

JSON_TYPE = "application/json;charset=utf-8"
FORM_TYPE = "application/x-www-form-urlencoded"
MULTIPART_TYPE = "multipart/form-data"

Parameters = dict[str, bytes | None]

# Under 6.4 an unexpected exception is answered with the web framework's long error page.
_ERROR_PAGE_BYTES = 130_000


@dataclass(frozen=True)
class Request:
    """A request after HTTP has been taken off.

    Attributes:
        headers: Names in lower case.
        query: Without the question mark.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    scheme: str = "http"

    @property
    def vm_id(self) -> int | None:
        """The VM the sender says it is, None if it says nothing usable."""
        text = self.headers.get("x-onegate-vmid", "").strip()
        return int(text) if re.fullmatch(r"[0-9]+", text) else None

    def read_parameters(self) -> Parameters:
        """Merge the parameters of query and form body; a parameter without = has the value None."""
        media_type = self.headers.get("content-type", "").split(";")[0].strip().lower()
        parameters = _parse_form(self.query.encode())
        if media_type == FORM_TYPE:
            parameters |= _parse_form(self.body)
        elif media_type == MULTIPART_TYPE:
            parameters |= _parse_multipart(self.headers["content-type"], self.body)
        return parameters


@dataclass(frozen=True)
class Answer:
    """An answer before HTTP is put on; an error's text is plain though its type says JSON."""

    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE

    @classmethod
    def of_text(cls, status: int, text: str) -> Answer:
        """Make an answer of a plain text."""
        return cls(status, text.encode())


class HaltError(Exception):
    """The server stops working on a request and answers with a status and a text."""

    def __init__(self, status: int, text: str) -> None:
        """Stop with this status and text."""
        super().__init__(text)
        self.status = status
        self.text = text

    def to_answer(self, version: Version) -> Answer:
        """Turn into an answer; 7.4 hides the texts of status 500."""
        if self.status == 500 and version is Version.V7_4:
            return Answer.of_text(500, "Internal server error")
        return Answer.of_text(self.status, self.text)


class ServerBugError(Exception):
    """An exception the server did not expect; 7.4 answers its text, 6.4 a page in HTML."""

    def __init__(self, kind: str, text: str) -> None:
        """Stand for an exception of class `kind`."""
        super().__init__(text)
        self.kind = kind
        self.text = text

    def to_answer(self, version: Version, path: str) -> Answer:
        """Turn into an answer."""
        if version is Version.V7_4:
            return Answer.of_text(500, self.text)
        where = html.escape(path).replace("/", "&#x2F;")
        head = (
            f"<!DOCTYPE html>\n<html>\n<head>\n  <title>{self.kind} at {where}</title>\n</head>\n"
            f"<body>\n<h1>{self.kind} at {where}</h1>\n<h2>{html.escape(self.text)}</h2>\n<pre>\n"
        )
        frames = "onegate-server: in the middle of the request\n" * (_ERROR_PAGE_BYTES // 45)
        return Answer(500, f"{head}{frames}</pre>\n</body>\n</html>\n".encode(), "text/html")


def to_integer(text: str) -> int:
    """Read an integer as Ruby does: the digits a text begins with, 0 if there are none."""
    match = re.match(r"\s*([+-]?\d+)", text, re.ASCII)
    return int(match.group(1)) if match else 0


def _parse_form(data: bytes) -> Parameters:
    parameters: Parameters = {}
    for pair in re.split(rb"[&;] *", data):
        name, equals, value = pair.partition(b"=")
        if pair:
            parameters[_unquote(name).decode(errors="replace")] = (
                _unquote(value) if equals else None
            )
    return parameters


def _unquote(data: bytes) -> bytes:
    return unquote_to_bytes(data.replace(b"+", b" "))


def _parse_multipart(content_type: str, body: bytes) -> Parameters:
    message = email.message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    parameters: Parameters = {}
    for part in message.get_payload() if message.is_multipart() else []:
        if isinstance(part, email.message.Message):
            name = part.get_param("name", header="content-disposition")
            payload = part.get_payload(decode=True)
            if isinstance(name, str) and isinstance(payload, bytes):
                parameters[name] = payload
    return parameters
