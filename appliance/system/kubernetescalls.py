"""A call of the API server: one request on a connection of its own, and what its answer means.

A node's certificates are renewed while the agent runs, and so they are read for every request.
"""

from __future__ import annotations

import json
from time import monotonic
from typing import TYPE_CHECKING, Any

from appliance.errors import (
    KubernetesConflict,
    KubernetesError,
    KubernetesMalformed,
    KubernetesRefused,
    KubernetesUnavailable,
)
from appliance.system.files import Files
from appliance.system.kubernetes import Access

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 15.0
DELETE_TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
JSON = "application/json"


class ApiCalls:
    """Makes calls, with client certificates."""

    def __init__(self, files: Files) -> None:
        """Find certificates through `files`."""
        self._files = files

    def ask(
        self,
        access: Access,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        kind: str = JSON,
    ) -> tuple[int, bytes]:
        """Ask once.

        Args:
            access: Who asks whom.
            method: The HTTP method.
            path: What for, with its query.
            body: What is sent.
            kind: What kind of JSON that is.

        Returns:
            Status and content of the answer, whatever they are.

        Raises:
            KubernetesUnavailable: There was none.
        """
        from appliance.system.transfer import TransferFailed, exchange  # requests takes 0.1 s

        usual_s = DELETE_TIMEOUT_S if method == "DELETE" else TIMEOUT_S
        timeout_s = usual_s if access.longest_s is None else min(usual_s, access.longest_s)
        if access.until_s is not None:
            timeout_s = min(timeout_s, access.until_s - monotonic())
        if timeout_s <= 0:
            raise KubernetesUnavailable(f"{_what(method, path)}: no time is left to ask")
        try:
            reply = exchange(
                method,
                access.server + path,
                context=self._context(access),
                connect_timeout_s=min(CONNECT_TIMEOUT_S, timeout_s),
                timeout_s=timeout_s,
                headers={"Accept": JSON} | ({"Content-Type": kind} if body else {}),
                body=json.dumps(body) if body else None,
                limit=MAX_ANSWER_BYTES,
            )
        except TransferFailed as failed:
            hint = f"{access.ca} does not vouch for it" if failed.is_untrusted else None
            message = f"{_what(method, path)}: {access.server}: {failed}"
            raise KubernetesUnavailable(message, hint=hint) from failed
        return reply.status, reply.content

    def document(
        self,
        access: Access,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        kind: str = JSON,
    ) -> dict[str, Any]:
        """Ask once for the JSON object that a good answer is; see `ask`.

        Raises:
            KubernetesError: The answer is not good, or there is none.
        """
        return read_document(method, path, *self.ask(access, method, path, body, kind=kind))

    def find(
        self, access: Access, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Do the same; None where the API server knows no such object."""
        status, content = self.ask(access, method, path, body)
        if is_unknown(status, content):
            return None
        return read_document(method, path, status, content)

    def _context(self, access: Access) -> ssl.SSLContext:
        from appliance.system.transfer import load_trust

        try:
            context = load_trust(self._files.real(access.ca))
        except OSError as error:
            raise _unusable(access.ca, error) from error
        try:
            context.load_cert_chain(
                self._files.real(access.certificate), self._files.real(access.key)
            )
        except OSError as error:
            raise _unusable(f"{access.certificate} with {access.key}", error) from error
        return context


def _unusable(what: object, error: OSError) -> KubernetesUnavailable:
    if isinstance(error, FileNotFoundError):
        return KubernetesUnavailable(f"{what}: not there yet; RKE2 makes it when it starts")
    return KubernetesUnavailable(f"{what}: can not be used: {error.strerror or error}")


def _what(method: str, path: str) -> str:
    return f"Kubernetes {method} {path.partition('?')[0]}"


def read_document(method: str, path: str, status: int, content: bytes) -> dict[str, Any]:
    """Return the JSON object that a good answer is.

    Raises:
        KubernetesError: The answer is not good, or is none.
    """
    if status not in (200, 201, 202):
        raise error_of(method, path, status, content)
    document = _parsed(content)
    if document is None:
        raise KubernetesMalformed(f"{_what(method, path)}: the answer is no JSON object")
    return document


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def is_unknown(status: int, content: bytes) -> bool:
    """Say whether the API server itself knows no such object; others answer with 404 too."""
    document = _parsed(content) if status == 404 else None
    return document is not None and document.get("reason") == "NotFound"


def error_of(method: str, path: str, status: int, content: bytes) -> KubernetesError:
    """Return the error that an answer means."""
    from appliance.system.transfer import said

    told = (_parsed(content) or {}).get("message")
    words = said(told.encode() if isinstance(told, str) else content)
    message = f"{_what(method, path)}: status {status}: {words}"
    if status == 401:
        return KubernetesRefused(
            message,
            status=status,
            hint="the API server does not know this node's certificate: it is of another cluster",
        )
    if status == 403:
        return KubernetesRefused(
            message, status=status, hint="the certificate's bearer may not do this, or not yet"
        )
    if status == 409:
        return KubernetesConflict(message, status=status)
    if status == 429 or status >= 500:
        return KubernetesUnavailable(message, status=status)
    return KubernetesRefused(message, status=status)
