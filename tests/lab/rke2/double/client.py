"""Clients of the supervisor and of the API server; trouble reads as Go's HTTP client tells it."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit


class Unreachable(Exception):
    """No answer came; the text is Go's."""


class Refused(Exception):
    """An answer came that is none.

    Attributes:
        status: Of HTTP.
        body: Of the answer.
    """

    def __init__(self, url: str, status: int, body: str) -> None:
        self.status = status
        self.body = body
        phrase = http.client.responses.get(status, "")
        super().__init__(f"{url}: {status} {phrase}")


def fetch(
    url: str,
    context: ssl.SSLContext,
    *,
    timeout_s: float,
    user: tuple[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    dial: Sequence[str] = (),
    name: str = "",
    on_unreachable: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Body of a URL.

    Args:
        url: What to fetch.
        context: TLS to fetch it with.
        timeout_s: For the whole of it.
        user: Name and password.
        headers: Further ones.
        dial: Addresses `host:port` to connect to in place of the URL's, the first that answers.
        on_unreachable: Told of each address that could not be connected to.
        name: What the server's certificate has to be for, if not for the URL's host.

    Raises:
        Unreachable: If no answer came.
        Refused: If one came with another status than 200.
    """
    split = urlsplit(url)
    host, port = split.hostname or "", split.port or 443
    sent = dict(headers or {})
    if user is not None:
        sent["Authorization"] = "Basic " + b64encode(":".join(user).encode()).decode()
    where = dial or (f"{host}:{port}",)
    connection = _connect(url, name or host, context, timeout_s, where, on_unreachable)
    try:
        connection.request("GET", split.path, headers=sent)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f'Get "{url}": {go_words(error, f"{host}:{port}")}') from None
    finally:
        connection.close()
    if response.status != 200:
        raise Refused(url, response.status, body.decode(errors="replace").strip())
    return body


def _connect(
    url: str,
    name: str,
    context: ssl.SSLContext,
    timeout_s: float,
    dial: Sequence[str],
    on_unreachable: Callable[[str], None],
) -> http.client.HTTPConnection:
    words = "no address"
    for where in dial:
        host, _, port = where.rpartition(":")
        raw = None
        try:
            raw = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
            connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
            connection.sock = context.wrap_socket(raw, server_hostname=name)
        except OSError as error:
            if raw is not None:
                raw.close()
            words = go_words(error, where)
            on_unreachable(where)
            continue
        return connection
    raise Unreachable(f'Get "{url}": {words}') from None


def go_words(error: Exception, where: str) -> str:
    """What Go says of such trouble."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if "match" in error.verify_message or "mismatch" in error.verify_message:
            name = where.rpartition(":")[0]
            reason = f"certificate is not valid for {name}"
        else:
            reason = "certificate signed by unknown authority"
        return f"tls: failed to verify certificate: x509: {reason}"
    if isinstance(error, (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError)):
        return "EOF"  # RemoteDisconnected is one of them
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {where.rpartition(':')[0]}: no such host"
    if isinstance(error, TimeoutError):
        return "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    if isinstance(error, OSError):
        words = {
            errno.ECONNREFUSED: "connection refused",
            errno.EHOSTUNREACH: "no route to host",
            errno.ENETUNREACH: "network is unreachable",
        }
        if error.errno in words:
            return f"dial tcp {where}: connect: {words[error.errno]}"
    return str(error) or type(error).__name__


def off_clock(url: str) -> Unreachable:
    """What a client says whose clock is behind the certificates."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(0))
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    words = f"certificate has expired or is not yet valid: current time {now} is before {since}"
    return Unreachable(f'Get "{url}": tls: failed to verify certificate: x509: {words}')


class Api:
    """Client of the API server that keeps its connection.

    Raises:
        Unreachable, Refused: From every call.
    """

    def __init__(self, address: str, context: ssl.SSLContext, timeout_s: float = 5) -> None:
        split = urlsplit(address)
        self._host, self._port = split.hostname or "", split.port or 6443
        self._context = context
        self._timeout_s = timeout_s
        self._open = threading.local()

    def get(self, path: str) -> Any:
        """An object or a list."""
        return self.call("GET", path)

    def find(self, path: str) -> Any:
        """An object, or None if there is none."""
        try:
            return self.get(path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def create(self, path: str, obj: Any) -> Any:
        """Add an object."""
        return self.call("POST", path, obj)

    def merge(self, path: str, patch: Any) -> Any:
        """Patch an object."""
        return self.call("PATCH", path, patch, "application/merge-patch+json")

    def delete(self, path: str, body: Any = None) -> Any:
        """Remove an object."""
        return self.call("DELETE", path, body)

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """One request."""
        status, text = self.ask(method, path, body, kind)
        if status >= 300:
            raise Refused(f"https://{self._host}:{self._port}{path}", status, text)
        try:
            return json.loads(text)
        except ValueError:
            return text

    def ask(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> tuple[int, str]:
        """Status and text of an answer."""
        kept = getattr(self._open, "connection", None)
        if kept is not None:
            self._open.connection = None
            try:
                return self._exchange(kept, method, path, body, kind)
            except (OSError, http.client.HTTPException):
                kept.close()
        fresh = http.client.HTTPSConnection(
            self._host, self._port, timeout=self._timeout_s, context=self._context
        )
        try:
            return self._exchange(fresh, method, path, body, kind)
        except (OSError, http.client.HTTPException) as error:
            fresh.close()
            where = f"{self._host}:{self._port}"
            words = go_words(error, where)
            raise Unreachable(f'{method} "https://{where}{path}": {words}') from None

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any, kind: str
    ) -> tuple[int, str]:
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": kind} if sent else {})
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        if response.will_close:
            connection.close()
        else:
            self._open.connection = connection
        return response.status, text
