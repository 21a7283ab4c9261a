"""One HTTPS request within bounds, its failures in a few plain words.

Who asks knows what an answer means, and what to do where none comes.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InsecureRequestWarning

_MOST_SAID = 200
# Python ends what OpenSSL says with a place in its own source.
_PLACE_IN_SOURCE = re.compile(r" ?\(_ssl\.c:\d+\)")


class TransferFailed(Exception):
    """No whole answer came; the text says why.

    Attributes:
        is_untrusted: Whether the server's certificate does not verify.
    """

    def __init__(self, cause: str, *, is_untrusted: bool = False) -> None:
        """Keep the cause."""
        super().__init__(cause)
        self.is_untrusted = is_untrusted


class AnswerTooLarge(TransferFailed):
    """The answer is larger than any that is expected."""


@dataclass(frozen=True)
class Reply:
    """What came back, whatever its status."""

    status: int
    content: bytes


class _Adapter(HTTPAdapter):
    """Takes certificates, own and others', from one TLS context and nowhere else."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave to the context what requests would take from files of its own."""


class SystemTrust(_Adapter):
    """Trusts whom this machine trusts, a company's own authority included, by a proxy too."""

    def __init__(self) -> None:
        """Read the machine's certificates, or those that SSL_CERT_FILE names."""
        super().__init__(ssl.create_default_context())

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Trust nobody else behind a proxy."""
        return super().proxy_manager_for(proxy, ssl_context=self._context, **proxy_kwargs)


def load_trust(file: str) -> ssl.SSLContext:
    """Return a context that trusts only whom the certificates in a file vouch for.

    Raises:
        OSError: The file is not there; an ssl.SSLError where it holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=file)
    return context


def trust_anyone() -> ssl.SSLContext:
    """Return a context that checks nothing: nothing secret may be sent, nothing taken for true."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def exchange(
    method: str,
    url: str,
    *,
    context: ssl.SSLContext,
    connect_timeout_s: float,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    body: str | None = None,
    limit: int,
) -> Reply:
    """Make one request on a connection of its own; proxies and redirects are not followed.

    Args:
        method: The HTTP method.
        url: Where to.
        context: Which certificates are trusted and shown.
        connect_timeout_s: How long it may take until somebody is there.
        timeout_s: How long each part of the answer, and the whole, may take.
        headers: Beside the usual ones.
        body: What is sent.
        limit: How many bytes are read.

    Raises:
        TransferFailed: No whole answer came.
    """
    until = time.monotonic() + timeout_s
    is_checked = context.verify_mode is ssl.CERT_REQUIRED
    with (
        requests.Session() as session,
        catch_warnings(action="ignore", category=InsecureRequestWarning),
    ):
        session.trust_env = False
        session.mount("https://", _Adapter(context))
        try:
            response = session.request(
                method,
                url,
                data=body,
                headers=dict(headers or {}),
                timeout=(connect_timeout_s, timeout_s),
                allow_redirects=False,
                stream=True,
                verify=is_checked,
            )
            return Reply(response.status_code, read_whole(response, until, limit))
        except requests.RequestException as error:
            is_untrusted = isinstance(_bottom_of(error), ssl.SSLCertVerificationError)
            raise TransferFailed(cause_of(error), is_untrusted=is_untrusted) from error


def read_whole(response: requests.Response, until: float, limit: int) -> bytes:
    """Read an answer's body.

    Args:
        response: What is being streamed.
        until: When it must have come to its end, on the monotonic scale.
        limit: How many bytes it may have.

    Raises:
        TransferFailed: It takes too long.
        AnswerTooLarge: It is larger.
    """
    chunks, size = [], 0
    for chunk in response.iter_content(8192):
        size += len(chunk)
        if time.monotonic() > until:
            response.close()
            raise TransferFailed("the answer does not come to its end in time")
        if size > limit:
            response.close()
            raise AnswerTooLarge(f"the answer is larger than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def cause_of(error: requests.RequestException) -> str:
    """Say in a few words what lies at the bottom of a requests error, which nests."""
    if isinstance(error, requests.ConnectTimeout | requests.ReadTimeout):
        return "no answer in time"
    cause = _bottom_of(error)
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    told = _PLACE_IN_SOURCE.sub("", " ".join(text.split()))
    return told[:_MOST_SAID] or type(cause).__name__


def said(content: bytes) -> str:
    """Return the beginning of an answer as one line for people."""
    line = " ".join(content[:2000].decode("utf-8", errors="replace").split())
    return line[:_MOST_SAID] or "no text"


def _bottom_of(error: BaseException) -> BaseException:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error
